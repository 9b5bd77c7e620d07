"""GEM: an ECG, its page and a question in, logits of the answer out (arXiv 2503.06073).

Shapes are static: the pipeline expands `<image>` into placeholder tokens and says in `media_index`
which feature each of them receives; the model overwrites the embeddings there. A sample's features
are its ECG tokens first, then its image tokens; ECG features pass through the ECG projector *and
then* through the projector that the image features use.

Axes: B batch, T tokens, L leads, H W pixels, P feature tokens, D hidden width, V vocabulary.
"""

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
from gem_jax.models.llm import Cache, Llm, LlmConfig


@dataclass(frozen=True)
class GemConfig:
    """The whole model; token ids are the tokenizer's."""

    ecg: EcgConfig
    vision: ClipConfig
    llm: LlmConfig
    ecg_projector: str
    mm_projector: str
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int
    image_mode: str
    max_length: int
    template: str = "vicuna_v1"
    """Conversation template that the weights were trained with, of `gem_jax.tokens.TEMPLATES`."""

    def __post_init__(self):
        projector_depth(self.ecg_projector)
        projector_depth(self.mm_projector)
        for field in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if not 0 <= getattr(self, field) < self.llm.vocab_size:
                raise ValueError(
                    f"model.{field}: got {getattr(self, field)}, expected a row of the embedding "
                    f"table, 0 to {self.llm.vocab_size - 1}"
                )
        if self.num_media_tokens >= self.max_length:
            raise ValueError(
                f"model.max_length: got {self.max_length}, expected more than the "
                f"{self.num_media_tokens} tokens of an ECG and its page"
            )
        if self.ecg_projector == "identity" and self.ecg.width != self.vision.hidden_dim:
            raise ValueError(
                f"model.ecg_projector: got identity with an ECG width of {self.ecg.width}, "
                f"expected the image width {self.vision.hidden_dim}; use linear"
            )

    @property
    def num_media_tokens(self) -> int:
        """Tokens that one ECG with its page takes in the sequence."""
        return self.ecg.num_tokens + self.vision.num_tokens


@struct.dataclass
class Batch:
    """One batch of conversations; `segments` is 0 at padding, `media_index` -1 at text.

    Its leaves are numpy's, JAX's, or shapes alone (`abstract_batch`).
    """

    tokens: Int[Any, "B T"]
    positions: Int[Any, "B T"]
    segments: Int[Any, "B T"]
    media_index: Int[Any, "B T"]
    targets: Int[Any, "B T"]
    loss_mask: Bool[Any, "B T"]
    ecg: Float[Any, "B L N"]
    image: Float[Any, "B H W 3"]


class Gem(nn.Module):
    """The model. The call gives logits; `embed` and `decode` are its two halves for generation."""

    config: GemConfig

    def setup(self):
        cfg = self.config
        options = {"dtype": cfg.llm.dtype, "param_dtype": cfg.llm.param_dtype}
        self.ecg_tower = EcgEncoder(cfg.ecg)
        self.vision_tower = ClipEncoder(cfg.vision)
        self.ecg_projector = Projector(cfg.ecg_projector, cfg.vision.hidden_dim, **options)
        self.mm_projector = Projector(cfg.mm_projector, cfg.llm.hidden_dim, **options)
        self.llm = Llm(cfg.llm)

    def media(
        self, ecg: Float[Array, "B L N"], image: Float[Array, "B H W 3"]
    ) -> Float[Array, "B P D"]:
        """Returns each sample's features in the LLM's width: ECG tokens, then image tokens."""
        ecg_tokens, _ = self.ecg_tower(ecg)
        image_tokens, _ = self.vision_tower(image)
        # One call of the shared projector: of two, XLA's partitioner (jax 0.10.2, mesh 2 × 2 × 2)
        # adds up the gradients wrongly.
        return self.mm_projector(
            jnp.concatenate([self.ecg_projector(ecg_tokens), image_tokens], axis=1)
        )

    def embed(self, batch: Batch) -> Float[Array, "B T D"]:
        """Returns the token embeddings, overwritten by features where `media_index` is not -1."""
        text = self.llm.embed(batch.tokens)
        media = self.media(batch.ecg, batch.image)
        index = jnp.maximum(batch.media_index, 0)[..., None]
        placed = jnp.take_along_axis(media, index, axis=1).astype(text.dtype)
        return jnp.where(batch.media_index[..., None] >= 0, placed, text)

    def decode(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B 1 T S"],
        cache: Cache,
        start: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "B T V"], Cache]:
        """Returns (logits, cache) of text tokens that continue what the cache holds."""
        logits, written = self.llm(self.llm.embed(tokens), positions, mask, cache, start)
        assert written is not None
        return logits, written

    def prefill(
        self, batch: Batch, mask: Bool[Array, "B 1 T S"], cache: Cache
    ) -> tuple[Float[Array, "B T V"], Cache]:
        """Returns (logits, cache) of a prompt with its media, written from the cache's start."""
        logits, written = self.llm(self.embed(batch), batch.positions, mask, cache, 0)
        assert written is not None
        return logits, written

    def __call__(self, batch: Batch) -> Float[Array, "B T V"]:
        mask = causal_mask(batch.segments)
        return self.llm(self.embed(batch), batch.positions, mask)[0]


def abstract_batch(config: GemConfig, batch: int, length: int) -> Batch:
    """Returns the shapes and dtypes of a batch of `batch` rows of `length` tokens."""
    ints = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    ecg, vision = config.ecg, config.vision
    size = (batch, vision.image_size, vision.image_size, 3)
    return Batch(
        tokens=ints,
        positions=ints,
        segments=ints,
        media_index=ints,
        targets=ints,
        loss_mask=jax.ShapeDtypeStruct((batch, length), jnp.bool_),
        ecg=jax.ShapeDtypeStruct((batch, ecg.num_leads, ecg.seq_length), jnp.float32),
        image=jax.ShapeDtypeStruct(size, jnp.float32),
    )


def abstract_params(config: GemConfig) -> dict:
    """Returns the parameter tree as shapes and dtypes: no memory, no weights."""
    batch = abstract_batch(config, 1, config.num_media_tokens + 1)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(Gem(config).init, key, batch)["params"]
