"""Rotary positions, attention and activations shared by the towers and the language model.

Axes: B batch, T query tokens, S key tokens, N heads, K key/value heads, H head width, D hidden
width, F features.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

# Sine and cosine of the angles of rotary positions, of each pair of coordinates.
Rotations = tuple[Float[Array, "B T 1 half"], Float[Array, "B T 1 half"]]

# The axes of a device mesh along which the rows of a batch are cut.
ROW_AXES = ("data", "fsdp")


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


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for a longer context, in Hugging Face's words."""

    kind: str
    """`linear`: all of them; `llama3`: the slow ones, with a smooth passage (LLaMA 3.1)."""
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_length: int = 8192

    def __post_init__(self):
        if self.kind not in ("linear", "llama3"):
            raise ValueError(f"rope_scaling: got {self.kind!r}, expected linear or llama3")
        if self.factor <= 0 or self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"rope_scaling: got {self}, expected factor > 0 and low_freq_factor below "
                "high_freq_factor"
            )


def inverse_frequencies(
    half: int, theta: float, scaling: RopeScaling | None
) -> Float[Array, "half"]:
    """Returns the rotation per position, in radians, of each pair of coordinates."""
    frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if scaling is None:
        return frequency
    slow = frequency / scaling.factor
    if scaling.kind == "linear":
        return slow
    turns = scaling.original_length * frequency / (2 * jnp.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    share = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 - share) * slow + share * frequency


def rotations(
    positions: Int[Array, "B T"], half: int, theta: float, scaling: RopeScaling | None = None
) -> Rotations:
    """Returns (sine, cosine) of the angles by which a position turns pairs of coordinates."""
    frequency = inverse_frequencies(half, theta, scaling)
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    return jnp.sin(angle), jnp.cos(angle)


def rope(x: Float[Array, "B T N H"], by: Rotations) -> Float[Array, "B T N H"]:
    """Returns x rotated by its position, in the half-split layout of Hugging Face's LLaMA.

    Computed in float32; the result has the dtype of `x` (RoFormer, arXiv 2104.09864).
    """
    (sin, cos), half = by, x.shape[-1] // 2
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


def causal_mask(segments: Int[Array, "B T"], window: int | None = None) -> Bool[Array, "B 1 T T"]:
    """Returns True where a query may look: at its own segment, not ahead, not beyond the window.

    A `window` is the number of tokens seen, the query's own included (Mistral's sliding window).
    Segment 0 is padding: padded queries look at themselves alone, so that no row is empty and
    softmax stays finite; nothing looks at them.
    """
    length = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]
    real = segments[:, None, :] > 0
    causal = jnp.tril(jnp.ones((length, length), bool))
    if window is not None:
        causal &= ~jnp.tril(causal, -window)
    return ((same & real & causal) | jnp.eye(length, dtype=bool))[:, None]


def by_rows(x: Array, axis: int = 0) -> Array:
    """Returns x with `axis`, the rows', cut along the mesh and every other axis whole.

    As it is without a mesh, and where the rows do not divide. Blocks begin with it: left alone,
    XLA's partitioner may cut hidden units instead and exchange them in every layer.
    """
    sizes = dict(jax.sharding.get_abstract_mesh().shape)
    cut = [name for name in ROW_AXES if sizes.get(name, 1) > 1]
    if not cut or x.shape[axis] % math.prod(sizes[name] for name in cut):
        return x
    spec: list[tuple[str, ...] | None] = [None] * x.ndim
    spec[axis] = tuple(cut)
    return jax.lax.with_sharding_constraint(x, P(*spec))


def split_heads(x: Float[Array, "B T D"], head_dim: int) -> Float[Array, "B T N H"]:
    """Returns the flat projection cut into heads of width `head_dim`."""
    return x.reshape(*x.shape[:-1], -1, head_dim)


def merge_heads(x: Float[Array, "B T N H"]) -> Float[Array, "B T D"]:
    """Returns the heads laid side by side."""
    return x.reshape(*x.shape[:-2], -1)


def flat_dot(
    x: Float[Array, "*rows D"], kernel: Float[Array, "D F"], *args: Any, **options: Any
) -> Float[Array, "*rows F"]:
    """Returns x·kernel: `nn.Dense`'s `dot_general`, with all axes of x but the last laid into one.

    The gradient of a kernel is then a product of two matrices. Of more axes, XLA's CPU backend
    (jax 0.10.2) transposes one of them in memory and multiplies at a third of the speed.
    """
    flat = jax.lax.dot_general(x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())))
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


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
    if f"mlp{digits}x_gelu" == kind and digits.isdecimal() and len(digits) < 3 and int(digits):
        return int(digits)
    raise ValueError(
        f"projector: got {kind!r}, expected identity, linear or mlpNx_gelu (N from 1 to 99)"
    )
