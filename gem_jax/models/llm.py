"""The language model: the LLaMA family's decoder (LLaMA and Vicuna, Mistral, Qwen2 and 2.5).

One block is scanned over the stacked layers. The key/value cache is an argument and a result, so
the same module trains, prefills and decodes. Axes: B batch, T tokens, S cached tokens, N heads,
K key/value heads, H head width, D hidden width, V vocabulary, layers stacked on axis 0.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from gem_jax.models.layers import RopeScaling, attention, by_rows, merge_heads, rope, split_heads

Cache = dict[str, jax.Array]

FAMILIES = ("llama", "mistral", "qwen2")

# What a block keeps of its forward pass for the backward one, the rest being computed again.
REMAT = {
    "none": jax.checkpoint_policies.everything_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
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
    products with weights, `full` a block's input alone."""
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


class SelfAttention(nn.Module):
    """Grouped-query attention with rotary positions; writes its keys and values into the cache."""

    config: LlmConfig

    @nn.compact
    def __call__(self, hidden, cache, positions, mask, start):
        cfg = self.config
        options = {"dtype": cfg.dtype, "param_dtype": cfg.param_dtype}

        def heads(name: str, count: int) -> Float[Array, "B T N H"]:
            flat = nn.Dense(count * cfg.head_dim, use_bias=cfg.qkv_bias, name=name, **options)(
                hidden
            )
            return split_heads(flat, cfg.head_dim)

        rotation = (cfg.rope_theta, cfg.rope_scaling)
        q = rope(heads("q_proj", cfg.num_heads), positions, *rotation)
        k = rope(heads("k_proj", cfg.num_kv_heads), positions, *rotation)
        v = heads("v_proj", cfg.num_kv_heads)
        if cache is not None:
            k = jax.lax.dynamic_update_slice_in_dim(cache["k"], k, start, axis=1)
            v = jax.lax.dynamic_update_slice_in_dim(cache["v"], v, start, axis=1)
            cache = {"k": k, "v": v}
        mixed = merge_heads(attention(q, k, v, mask))
        return nn.Dense(cfg.hidden_dim, use_bias=False, name="o_proj", **options)(mixed), cache


class Mlp(nn.Module):
    """The gated MLP: down(silu(gate(x)) · up(x))."""

    config: LlmConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        cfg = self.config

        def dense(name: str, features: int) -> nn.Dense:
            return nn.Dense(
                features, use_bias=False, name=name, dtype=cfg.dtype, param_dtype=cfg.param_dtype
            )

        gate = jax.nn.silu(dense("gate_proj", cfg.mlp_dim)(x))
        return dense("down_proj", cfg.hidden_dim)(gate * dense("up_proj", cfg.mlp_dim)(x))


class Block(nn.Module):
    """A decoder block in the form `nn.scan` wants: (carry, layer's cache, shared …) → the same."""

    config: LlmConfig

    @nn.compact
    def __call__(self, hidden, cache, positions, mask, start):
        cfg = self.config
        hidden = by_rows(hidden)

        def norm(name: str) -> nn.RMSNorm:
            return nn.RMSNorm(cfg.norm_eps, cfg.dtype, cfg.param_dtype, name=name)

        mixed, cache = SelfAttention(cfg, name="self_attn")(
            norm("input_layernorm")(hidden), cache, positions, mask, start
        )
        hidden = hidden + mixed
        return hidden + Mlp(cfg, name="mlp")(norm("post_attention_layernorm")(hidden)), cache


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
        mask: Bool[Array, "B 1 T S"],
        cache: Cache | None = None,
        start: Int[Array, ""] | int = 0,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """Returns (normed hidden states, the cache with this call's keys and values at `start`)."""
        hidden, cache = self.layers(embedded, cache, positions, mask, start)
        return self.norm(hidden), cache

    def logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Returns the float32 logits of hidden states."""
        head = self.embed_tokens.attend if self.config.tie_embeddings else self.lm_head
        return head(hidden).astype(jnp.float32)

    def __call__(
        self,
        embedded: Float[Array, "B T D"],
        positions: Int[Array, "B T"],
        mask: Bool[Array, "B 1 T S"],
        cache: Cache | None = None,
        start: Int[Array, ""] | int = 0,
        only: Int[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B T2 V"], Cache | None]:
        """Returns (logits, cache): of every token, or of the one in each row that `only` names."""
        hidden, cache = self.hidden(embedded, positions, mask, cache, start)
        if only is not None:
            hidden = jnp.take_along_axis(hidden, only[:, None, None], axis=1)
        return self.logits(hidden), cache


def empty_cache(config: LlmConfig, batch: int, length: int) -> Cache:
    """Returns a cache of zeros for `batch` rows of `length` tokens, layers stacked on axis 0."""
    shape = (config.num_layers, batch, length, config.num_kv_heads, config.head_dim)
    return {"k": jnp.zeros(shape, config.dtype), "v": jnp.zeros(shape, config.dtype)}
