"""LoRA's factors (arXiv 2106.09685): which parameters they are, and their merge into kernels.

A dense layer's kernel W (in, out) gets `kernel_lora_a`, A (in, rank), and `kernel_lora_b`,
B (rank, out), in the same dict, stacked over layers as it is; it computes W + alpha / rank · A·B.
Factors move, and what they stand beside is frozen. Whoever reads a run's checkpoint gets the merged
model; the run alone sees both.

Axes: K layers, D inputs, R rank, F outputs.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gem_jax.config import ConfigError, LoraConfig
from gem_jax.paths import flat, nested, part_of

A, B = "_lora_a", "_lora_b"
PARTS = ("llm", "ecg_projector", "mm_projector")


def is_factor(path: str) -> bool:
    """Returns whether the parameter at `path` is a factor."""
    return path.endswith((A, B))


def kernel_of(path: str) -> str:
    """Returns the path of the kernel that the factor at `path` stands beside."""
    return path.removesuffix(A).removesuffix(B)


def require_targets(paths: Collection[str], lora: LoraConfig | None) -> None:
    """Raises ConfigError unless each target names dense layers of the LLM or a projector alone.

    `paths` are those of the parameters, factors included.
    """
    if lora is None:
        return
    adapted = [path.removesuffix(A) for path in paths if path.endswith(A)]
    wrong = [
        f"{path} is no dense layer of {', '.join(PARTS)}"
        for path in adapted
        if part_of(path) not in PARTS or not path.endswith("/kernel")
    ]
    modules = [path.removesuffix("/kernel") for path in adapted]
    wrong += [
        f"{target!r} names no dense layer"
        for target in lora.targets
        if not any(re.fullmatch(target, module) for module in modules)
    ]
    if wrong:
        raise ConfigError(
            f"lora.targets: {'; '.join(wrong)}, expected patterns of whole paths as "
            "llm/layers/self_attn/[qv]_proj"
        )


def merged(params: dict, lora: LoraConfig | None) -> dict:
    """Returns the tree without factors, each merged into its kernel."""
    return nested(merged_leaves(flat(params), lora))


def merged_leaves(leaves: Mapping[str, Any], lora: LoraConfig | None) -> dict[str, Any]:
    """Returns the parameters by path without factors, each merged into its kernel."""
    return {
        path: merged_kernel(leaf, leaves[path + A], leaves[path + B], lora.alpha / lora.rank)
        if lora is not None and path + A in leaves
        else leaf
        for path, leaf in leaves.items()
        if not is_factor(path)
    }


@jax.jit
def merged_kernel(
    kernel: Float[Array, "*K D F"],
    a: Float[Array, "*K D R"],
    b: Float[Array, "*K R F"],
    scale: Float[Any, ""] | float,
) -> Float[Array, "*K D F"]:
    """Returns W + scale · A·B: computed in float32, then rounded once to the kernel's dtype.

    A layer at a time: a stack of float32 kernels beside the bfloat16 ones would not fit.
    """

    def one(leaves: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        whole, left, right = (leaf.astype(jnp.float32) for leaf in leaves)
        delta = jnp.dot(left, right, precision=jax.lax.Precision.HIGHEST)
        return (whole + scale * delta).astype(kernel.dtype)

    return one((kernel, a, b)) if kernel.ndim == 2 else jax.lax.map(one, (kernel, a, b))
