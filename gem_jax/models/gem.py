"""GEM: an ECG, its page and a question in, logits of the answer out (arXiv 2503.06073).

Shapes are static: the pipeline expands `<image>` into placeholder tokens and says in `media_index`
which feature each of them receives; the model overwrites the embeddings there. A row's features are
those of its ECGs, then those of its image tiles, then LLaVA-1.6's newline; ECG features pass
through the ECG projector *and then* through the projector that the image features use. A model may
lack towers: LLaVA and PULSE have no ECG encoder, a language model alone has neither.

Axes: B batch, T tokens, E ECGs of a row, I image tiles of a row, L leads, N samples, H W pixels,
F features of a row, D hidden width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from gem_jax.models.clip import ClipConfig, ClipEncoder
from gem_jax.models.ecg import EcgConfig, EcgEncoder
from gem_jax.models.layers import Projector, causal_mask, projector_depth
from gem_jax.models.llm import Cache, Llm, LlmConfig, Made, cache_of

CHOICES = {
    "image_mode": ("ori", "pad", "anyres"),
    "patch_merge": ("flat", "spatial", "spatial_unpad"),
    "padding_side": ("right", "left"),
}


@dataclass(frozen=True)
class GemConfig:
    """The whole model; token ids are the tokenizer's."""

    ecg: EcgConfig | None
    vision: ClipConfig | None
    llm: LlmConfig
    ecg_projector: str
    mm_projector: str
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    """Tokens that end an answer; the first is the one that answers are trained with."""
    pad_token_id: int | None
    image_mode: str
    """How a page becomes tiles: `ori`, `pad` or `anyres`."""
    max_length: int
    template: str = "vicuna_v1"
    """Conversation template that the weights were trained with, of `gem_jax.templates`."""
    patch_merge: str = "flat"
    """How tiles become a sequence: `flat`, `spatial` or `spatial_unpad`."""
    grid_pinpoints: tuple[tuple[int, int], ...] = ()
    """(width, height) of the canvases that `anyres` chooses from."""
    image_newline: bool = False
    """Whether there is a learnt feature that ends a row of patches."""
    padding_side: str = "right"
    """Where the original pads a batch. Ours pads right; no logit depends on it."""

    def __post_init__(self):
        projector_depth(self.ecg_projector)
        projector_depth(self.mm_projector)
        for field, allowed in CHOICES.items():
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"model.{field}: got {getattr(self, field)!r}, expected one of {allowed}"
                )
        self._check_ids()
        self._check_media()

    def _check_ids(self) -> None:
        ids = {
            "bos_token_id": self.bos_token_id,
            "pad_token_id": self.pad_token_id,
            **{f"eos_token_ids[{i}]": eos for i, eos in enumerate(self.eos_token_ids)},
        }
        for field, token in ids.items():
            if token is not None and not 0 <= token < self.llm.vocab_size:
                raise ValueError(
                    f"model.{field}: got {token}, expected a row of the embedding table, 0 to "
                    f"{self.llm.vocab_size - 1}"
                )
        if not self.eos_token_ids:
            raise ValueError("model.eos_token_ids: got none, expected at least one")

    def _check_media(self) -> None:
        if self.num_media_tokens >= self.max_length:
            raise ValueError(
                f"model.max_length: got {self.max_length}, expected more than the "
                f"{self.num_media_tokens} tokens of an ECG and its page"
            )
        if self.ecg is not None and self.vision is None:
            raise ValueError(
                "model.ecg: got an ECG encoder without an image encoder, expected both: they share "
                "the projector"
            )
        if self.ecg and self.ecg_projector == "identity" and self.ecg.width != self.mm_width:
            raise ValueError(
                f"model.ecg_projector: got identity with an ECG width of {self.ecg.width}, "
                f"expected the image width {self.mm_width}; use linear"
            )
        if "unpad" in self.patch_merge and not self.image_newline:
            raise ValueError(
                f"model.patch_merge: got {self.patch_merge} without image_newline, expected the "
                "newline that ends its rows"
            )
        if self.image_mode == "anyres" and not self.grid_pinpoints:
            raise ValueError("model.grid_pinpoints: got none, expected the canvases of anyres")

    @property
    def mm_width(self) -> int:
        """The image encoder's width, which both kinds of features have before the projector."""
        return self.vision.hidden_dim if self.vision else 0

    @property
    def ecg_tokens(self) -> int:
        """Tokens that one ECG takes in the sequence; 0 without an ECG encoder."""
        return self.ecg.num_tokens if self.ecg else 0

    @property
    def image_tokens(self) -> int:
        """Tokens that one image tile takes in the sequence; 0 without an image encoder."""
        return self.vision.num_tokens if self.vision else 0

    @property
    def num_media_tokens(self) -> int:
        """Tokens that one ECG with its page of one tile takes in the sequence."""
        return self.ecg_tokens + self.image_tokens


@struct.dataclass
class Batch:
    """One batch of conversations; `segments` is 0 at padding, `media_index` -1 at text.

    Its leaves are numpy's, JAX's, or shapes alone (`abstract_batch`). `ecg` and `image` are None
    where no row has any; a row that has fewer than another is filled up with zeros.
    """

    tokens: Int[Any, "B T"]
    positions: Int[Any, "B T"]
    segments: Int[Any, "B T"]
    media_index: Int[Any, "B T"]
    targets: Int[Any, "B T"]
    loss_mask: Bool[Any, "B T"]
    ecg: Float[Any, "B E L N"] | None
    image: Float[Any, "B I H W 3"] | None


class Gem(nn.Module):
    """The model. The call gives logits; training reads them in pieces from `hidden`.

    `prefill` and `decode` are for generation.
    """

    config: GemConfig

    def setup(self):
        cfg = self.config
        options = {"dtype": cfg.llm.dtype, "param_dtype": cfg.llm.param_dtype}
        if cfg.ecg:
            self.ecg_tower = EcgEncoder(cfg.ecg)
            self.ecg_projector = Projector(cfg.ecg_projector, cfg.mm_width, **options)
        if cfg.vision:
            self.vision_tower = ClipEncoder(cfg.vision)
            self.mm_projector = Projector(cfg.mm_projector, cfg.llm.hidden_dim, **options)
        if cfg.image_newline:
            width = (cfg.llm.hidden_dim,)
            spread = nn.initializers.normal(cfg.llm.hidden_dim**-0.5)
            self.image_newline = self.param("image_newline", spread, width, cfg.llm.param_dtype)
        self.llm = Llm(cfg.llm)

    def media(
        self,
        ecg: Float[Array, "B E L N"] | None,
        image: Float[Array, "B I H W 3"] | None,
    ) -> Float[Array, "B F D"]:
        """Returns each row's features in the LLM's width: ECGs, image tiles, the newline."""
        parts = []
        if ecg is not None:
            parts.append(self.ecg_projector(_by_row(lambda one: self.ecg_tower(one)[0], ecg)))
        if image is not None:
            parts.append(_by_row(lambda one: self.vision_tower(one)[0], image))
        # One call of the shared projector: of two, XLA's partitioner (jax 0.10.2, mesh 2 × 2 × 2)
        # adds up the gradients wrongly.
        features = self.mm_projector(jnp.concatenate(parts, axis=1))
        if not self.config.image_newline:
            return features
        shape = (features.shape[0], 1, features.shape[2])
        newline = jnp.broadcast_to(self.image_newline.astype(features.dtype), shape)
        return jnp.concatenate([features, newline], axis=1)

    def embed(self, batch: Batch) -> Float[Array, "B T D"]:
        """Returns the token embeddings, overwritten by features where `media_index` is not -1."""
        text = self.llm.embed(batch.tokens)
        if batch.ecg is None and batch.image is None:
            return text
        media = self.media(batch.ecg, batch.image)
        index = jnp.maximum(batch.media_index, 0)[..., None]
        placed = jnp.take_along_axis(media, index, axis=1).astype(text.dtype)
        return jnp.where(batch.media_index[..., None] >= 0, placed, text)

    def prefill(
        self, batch: Batch, last: Int[Array, "B"], slots: int
    ) -> tuple[Float[Array, "B V"], Cache]:
        """Returns (logits of each prompt's `last` token, a cache of `slots` with the prompts)."""
        hidden, made = self._pass(batch)
        of_last = jnp.take_along_axis(hidden, last[:, None, None], axis=1)
        return self.llm.logits(of_last)[:, 0], cache_of(made, slots)

    def decode(
        self,
        token: Int[Array, "B"],
        position: Int[Array, "B"],
        mask: Bool[Array, "B S"],
        layers: Sequence[dict],
        cache: Cache,
        start: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "B V"], Cache]:
        """Returns (logits, cache) of one text token a row that continues what the cache holds."""
        embedded, seen = self.llm.embed(token[:, None]), mask[:, None, None]
        at = position[:, None]
        hidden, cache = self.llm.next_hidden(embedded, at, seen, layers, cache, start)
        return self.llm.logits(hidden)[:, 0], cache

    def hidden(self, batch: Batch) -> Float[Array, "B T D"]:
        """Returns the hidden states that the logits are read from."""
        return self._pass(batch)[0]

    def _pass(self, batch: Batch) -> tuple[Float[Array, "B T D"], Made]:
        mask = causal_mask(batch.segments, self.config.llm.sliding_window)
        return self.llm.hidden(self.embed(batch), batch.positions, mask)

    def logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Returns the logits of hidden states, of all tokens or of some."""
        return self.llm.logits(hidden)

    def __call__(self, batch: Batch) -> Float[Array, "B T V"]:
        return self.logits(self.hidden(batch))


def _by_row(tower: Any, media: Float[Array, "B M *shape"]) -> Float[Array, "B F D"]:
    """Returns the tokens of all of a row's media, one behind the other."""
    rows, count = media.shape[:2]
    tokens = tower(media.reshape(rows * count, *media.shape[2:]))
    return tokens.reshape(rows, -1, tokens.shape[-1])


def abstract_batch(config: GemConfig, batch: int, length: int) -> Batch:
    """Returns the shapes and dtypes of `batch` rows of `length` tokens, an ECG and a tile each."""
    ints = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    ecg = image = None
    if config.ecg:
        shape = (batch, 1, config.ecg.num_leads, config.ecg.seq_length)
        ecg = jax.ShapeDtypeStruct(shape, jnp.float32)
    if config.vision:
        side = config.vision.image_size
        image = jax.ShapeDtypeStruct((batch, 1, side, side, 3), jnp.float32)
    return Batch(
        tokens=ints,
        positions=ints,
        segments=ints,
        media_index=ints,
        targets=ints,
        loss_mask=jax.ShapeDtypeStruct((batch, length), jnp.bool_),
        ecg=ecg,
        image=image,
    )


def abstract_params(config: GemConfig) -> dict:
    """Returns the parameter tree as shapes and dtypes: no memory, no weights."""
    batch = abstract_batch(config, 1, config.num_media_tokens + 1)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(Gem(config).init, key, batch)["params"]
