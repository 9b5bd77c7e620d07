"""The language model: the LLaMA family's decoder (LLaMA and Vicuna, Mistral, Qwen2 and 2.5).

One block is scanned over the stacked layers to train and to read a prompt. A cache is read layer
after layer instead: so each layer's own is written in place, and copied by no loop. Axes: L layers,
B batch, T tokens, S cached tokens, N heads, K key/value heads, H head width, D hidden width,
V vocabulary; the layers' parameters are stacked on axis 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from gem_jax.models import causal
from gem_jax.models.causal import cached_attention, causal_attention
from gem_jax.models.layers import (
    RopeScaling,
    Rotations,
    attention,
    by_rows,
    flat_dot,
    merge_heads,
    rope,
    rotations,
    split_heads,
)

# Keys and values `k`, `v` that a pass over whole rows made, (L, B, T, K, H).
Made = dict[str, jax.Array]
# What each layer has to read, (B, K, S, H): as the products of one new token want it.
Cache = tuple[dict[str, jax.Array], ...]

FAMILIES = ("llama", "mistral", "qwen2")
ATTENTIONS = ("auto", "blocks", "whole")

# What a block keeps of its forward pass for the backward one, the rest being computed again.
REMAT = {
    "none": jax.checkpoint_policies.everything_saveable,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(causal.NAME),
    ),
    "full": jax.checkpoint_policies.nothing_saveable,
}


@dataclass(frozen=True)
class LlmConfig:
    """Sizes of the decoder, in the words of Hugging Face's config where it has one."""

    vocab_size: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    rope_theta: float
    norm_eps: float
    family: str = "llama"
    """Official architecture, of `FAMILIES`; Qwen2's queries, keys and values have biases."""
    tie_embeddings: bool = False
    sliding_window: int | None = None
    """Tokens that a query sees, its own included (Mistral 7B v0.1: 4096); None: all before it."""
    rope_scaling: RopeScaling | None = None
    remat: str = "none"
    """What is computed again in the backward pass, of `REMAT`: `none` keeps all, `dots` the
    products with weights and attention in blocks, `full` a block's input alone. On the CPU `dots`
    is also the fastest: what it does not keep takes longer to write and read than to compute."""
    attention: str = "auto"
    """How a row attends to itself: `whole` by `jax.nn.dot_product_attention`, in `blocks` by
    `models.causal`; `auto`: in blocks on the CPU, whole on any other backend."""
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        if self.family not in FAMILIES:
            raise ValueError(f"llm.family: got {self.family!r}, expected one of {FAMILIES}")
        if self.remat not in REMAT:
            raise ValueError(
                f"llm.remat: got {self.remat!r}, expected one of {tuple(REMAT)}; in an older "
                'config.json write "full" for true, "none" for false'
            )
        if self.attention not in ATTENTIONS:
            raise ValueError(f"llm.attention: got {self.attention!r}, expected one of {ATTENTIONS}")
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ValueError(
                f"llm.sliding_window: got {self.sliding_window}, expected at least 1 token, or None"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"llm.num_heads: got {self.num_heads}, expected a multiple of num_kv_heads "
                f"({self.num_kv_heads})"
            )
        if self.head_dim % 2:
            raise ValueError(f"llm.head_dim: got {self.head_dim}, expected an even number (rope)")

    @property
    def qkv_bias(self) -> bool:
        """Whether queries, keys and values have biases."""
        return self.family == "qwen2"

    @property
    def in_blocks(self) -> bool:
        """Whether a row attends to itself in blocks, on the backend at hand."""
        return self.attention == "blocks" or (
            self.attention == "auto" and jax.default_backend() == "cpu"
        )


class SelfAttention(nn.Module):
    """Grouped-query attention with rotary positions, of rows to themselves or to their cache.

    Returns (mixed, the keys and values that it made, or the cache with them).
    """

    config: LlmConfig

    @nn.compact
    def __call__(self, hidden, cache, turns, mask, start):
        cfg = self.config
        options = {"dtype": cfg.dtype, "param_dtype": cfg.param_dtype, "dot_general": flat_dot}

        def heads(name: str, count: int) -> Float[Array, "B T N H"]:
            flat = nn.Dense(count * cfg.head_dim, use_bias=cfg.qkv_bias, name=name, **options)(
                hidden
            )
            return split_heads(flat, cfg.head_dim)

        q = rope(heads("q_proj", cfg.num_heads), turns)
        k = rope(heads("k_proj", cfg.num_kv_heads), turns)
        v = heads("v_proj", cfg.num_kv_heads)
        if cache is None:
            made = {"k": k, "v": v}
            mixed = (causal_attention if cfg.in_blocks else attention)(q, k, v, mask)
        else:
            made = written(cache, {"k": k, "v": v}, start)
            mixed = cached_attention(q, made["k"], made["v"], mask)
        out = nn.Dense(cfg.hidden_dim, use_bias=False, name="o_proj", **options)
        return out(merge_heads(mixed)), made


class Mlp(nn.Module):
    """The gated MLP: down(silu(gate(x)) · up(x))."""

    config: LlmConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        cfg = self.config
        options = {"dtype": cfg.dtype, "param_dtype": cfg.param_dtype, "dot_general": flat_dot}

        def dense(name: str, features: int) -> nn.Dense:
            return nn.Dense(features, use_bias=False, name=name, **options)

        gate = jax.nn.silu(dense("gate_proj", cfg.mlp_dim)(x))
        return dense("down_proj", cfg.hidden_dim)(gate * dense("up_proj", cfg.mlp_dim)(x))


class Block(nn.Module):
    """A decoder block in the form `nn.scan` wants: (carry, layer's cache, shared …) → (carry, own).

    Own are the layer's keys and values, as `SelfAttention` returns them.
    """

    config: LlmConfig

    @nn.compact
    def __call__(self, hidden, cache, turns, mask, start):
        cfg = self.config
        hidden = by_rows(hidden)

        def norm(name: str) -> nn.RMSNorm:
            return nn.RMSNorm(cfg.norm_eps, cfg.dtype, cfg.param_dtype, name=name)

        mixed, made = SelfAttention(cfg, name="self_attn")(
            norm("input_layernorm")(hidden), cache, turns, mask, start
        )
        hidden = hidden + mixed
        return hidden + Mlp(cfg, name="mlp")(norm("post_attention_layernorm")(hidden)), made


class Llm(nn.Module):
    """The decoder: `embed`, tokens to embeddings; `hidden` these to hidden states; `logits`."""

    config: LlmConfig

    def setup(self):
        cfg = self.config
        options = {"dtype": cfg.dtype, "param_dtype": cfg.param_dtype}
        self.embed_tokens = nn.Embed(
            cfg.vocab_size, cfg.hidden_dim, embedding_init=nn.initializers.normal(0.02), **options
        )
        block = Block
        if cfg.remat != "none":
            block = nn.remat(Block, prevent_cse=False, policy=REMAT[cfg.remat])
        self.layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=cfg.num_layers,
        )(cfg)
        self.norm = nn.RMSNorm(cfg.norm_eps, cfg.dtype, cfg.param_dtype)
        if not cfg.tie_embeddings:
            self.lm_head = nn.Dense(cfg.vocab_size, use_bias=False, **options)

    def embed(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Returns the embeddings of `tokens`."""
        return self.embed_tokens(tokens)

    def hidden(
        self,
        embedded: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B 1 T T"],
    ) -> tuple[Float[Array, "B T D"], Made]:
        """Returns (normed hidden states of whole rows, the keys and values made)."""
        hidden, made = self.layers(embedded, None, self._turns(positions), mask, 0)
        return self.norm(hidden), made

    def next_hidden(
        self,
        embedded: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B 1 T S"],
        layers: Sequence[dict],
        cache: Cache,
        start: Int[Array, ""] | int,
    ) -> tuple[Float[Array, "B T D"], Cache]:
        """Returns (normed hidden states of tokens that go on, the cache with theirs at `start`).

        `layers` are the parameters of each, which `apart` takes from their stack.
        """
        turns, hidden, after = self._turns(positions), embedded, []
        block = Block(self.config, parent=None)
        for params, own in zip(layers, cache, strict=True):
            said: Any = block.apply({"params": params}, hidden, own, turns, mask, start)
            hidden = said[0]
            after.append(said[1])
        return self.norm(hidden), tuple(after)

    def _turns(self, positions: Int[Array, "B T"]) -> Rotations:
        cfg = self.config
        return rotations(positions, cfg.head_dim // 2, cfg.rope_theta, cfg.rope_scaling)

    def logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Returns the float32 logits of hidden states."""
        head = self.embed_tokens.attend if self.config.tie_embeddings else self.lm_head
        flat = head(hidden.reshape(-1, hidden.shape[-1])).astype(jnp.float32)
        return flat.reshape(*hidden.shape[:-1], -1)

    def __call__(
        self,
        embedded: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B 1 T T"],
    ) -> tuple[Float[Array, "B T V"], Made]:
        """Returns (logits of whole rows, the keys and values made)."""
        hidden, made = self.hidden(embedded, positions, mask)
        return self.logits(hidden), made


def written(
    held: dict[str, jax.Array], new: dict[str, jax.Array], start: Int[Array, ""] | int
) -> dict[str, jax.Array]:
    """Returns a layer's cache (B, K, S, H) with what is new (B, T, K, H) from `start` on."""
    return {
        name: jax.lax.dynamic_update_slice_in_dim(held[name], new[name].swapaxes(1, 2), start, 2)
        for name in held
    }


def apart(stacked: Any) -> list[Any]:
    """Returns what is stacked on axis 0, one by one."""
    count = jax.tree.leaves(stacked)[0].shape[0]
    return [jax.tree.map(lambda leaf, at=layer: leaf[at], stacked) for layer in range(count)]


def cache_of(made: Made, length: int) -> Cache:
    """Returns the cache of `length` tokens that begins with what a pass made."""
    short = length - made["k"].shape[2]
    slots = jax.tree.map(
        lambda leaf: jnp.pad(leaf.swapaxes(2, 3), [(0, 0)] * 3 + [(0, short), (0, 0)]), made
    )
    return tuple(apart(slots))
