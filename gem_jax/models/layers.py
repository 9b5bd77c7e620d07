"""Rotary positions, attention and activations shared by the towers and the language model.

Axes: B batch, T query tokens, S key tokens, N heads, K key/value heads, H head width, D hidden
width, F features.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns x · sigmoid(1.702 x), the activation OpenAI's CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


def exact_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns x · Φ(x) with the error function, torch's default (flax approximates by default)."""
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS: dict[str, Callable] = {
    "quick_gelu": quick_gelu,
    "gelu": exact_gelu,
    "silu": jax.nn.silu,
}


def rope(
    x: Float[Array, "B T N H"], positions: Int[Array, "B T"], theta: float
) -> Float[Array, "B T N H"]:
    """Returns x rotated by its position, in the half-split layout of Hugging Face's LLaMA.

    Angles are computed in float32; the result has the dtype of `x` (RoFormer, arXiv 2104.09864).
    """
    half = x.shape[-1] // 2
    inverse_frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[..., None, None].astype(jnp.float32) * inverse_frequency
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    first, second = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)


def attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    mask: Bool[Array, "B 1 T S"] | None = None,
) -> Float[Array, "B T N H"]:
    """Returns softmax(q·kᵀ/√H)·v where `mask` is true, or everywhere; N is a multiple of K."""
    return jax.nn.dot_product_attention(q, k, v, mask=mask)


def causal_mask(segments: Int[Array, "B T"]) -> Bool[Array, "B 1 T T"]:
    """Returns True where a query may look: at its own segment, not ahead.

    Segment 0 is padding: padded queries look at themselves alone, so that no row is empty and
    softmax stays finite; nothing looks at them.
    """
    length = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]
    real = segments[:, None, :] > 0
    causal = jnp.tril(jnp.ones((length, length), bool))
    return ((same & real & causal) | jnp.eye(length, dtype=bool))[:, None]


def split_heads(x: Float[Array, "B T D"], head_dim: int) -> Float[Array, "B T N H"]:
    """Returns the flat projection cut into heads of width `head_dim`."""
    return x.reshape(*x.shape[:-1], -1, head_dim)


def merge_heads(x: Float[Array, "B T N H"]) -> Float[Array, "B T D"]:
    """Returns the heads laid side by side."""
    return x.reshape(*x.shape[:-2], -1)


class Projector(nn.Module):
    """LLaVA's projector by its official name: `identity`, `linear` or `mlpNx_gelu`.

    Dense layers are numbered as in the official checkpoints (0, 2, 4 …: activations take the odd
    numbers), a single linear layer has none.
    """

    kind: str
    features: int
    dtype: str = "float32"
    param_dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T F"]:
        def dense(name: str) -> nn.Dense:
            return nn.Dense(
                self.features, dtype=self.dtype, param_dtype=self.param_dtype, name=name
            )

        if self.kind == "identity":
            return x
        if self.kind == "linear":
            return dense("linear")(x)
        x = dense("0")(x)
        for layer in range(1, projector_depth(self.kind)):
            x = dense(str(2 * layer))(exact_gelu(x))
        return x


def projector_depth(kind: str) -> int:
    """Returns how many dense layers the projector `kind` has; ValueError for an unknown name."""
    if kind in ("identity", "linear"):
        return int(kind == "linear")
    digits = kind.removeprefix("mlp").removesuffix("x_gelu")
    if f"mlp{digits}x_gelu" == kind and digits.isdecimal() and int(digits) > 0:
        return int(digits)
    raise ValueError(f"projector: got {kind!r}, expected identity, linear or mlpNx_gelu (N ≥ 1)")
