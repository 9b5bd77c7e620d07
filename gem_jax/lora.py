"""LoRA by qwix (arXiv 2106.09685): factors beside frozen kernels, and their merge into them.

A dense layer's kernel W (in, out) gets `kernel_lora_a`, A (in, rank), and `kernel_lora_b`,
B (rank, out), in the same dict, stacked over layers as it is; it computes W + alpha / rank · A·B.
Factors are float32 whatever the base is, and computed with in the model's dtype. A is drawn and B
zero at the start: the first loss is the base's. Factors move and everything else that they stand
beside is frozen. Whoever reads a run's checkpoint gets the merged model; the run alone sees both.

Axes: K layers, D inputs, R rank, F outputs.
"""

import re
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from gem_jax.config import ConfigError, LoraConfig

A, B = "_lora_a", "_lora_b"
PARTS = ("llm", "ecg_projector", "mm_projector")
METHODS = ("__call__", "hidden")
# PEFT's: uniform within ±1/√D, whose variance is a third of 1/D.
DRAWN = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def with_lora(model: nn.Module, lora: LoraConfig | None) -> nn.Module:
    """Returns the model with factors at the dense layers that `lora` names; None: as it is."""
    if lora is None:
        return model
    # Its import takes 0.8 s, which no other run need wait for.
    import qwix

    # It asks flax for a name that flax has given up, at every parameter.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"qwix\.")
    rule = qwix.LoraRule(
        module_path=_pattern(lora),
        rank=lora.rank,
        alpha=lora.alpha,
        lora_a_initializer=lambda key, shape, dtype: DRAWN(key, shape, jnp.float32),
        lora_b_initializer=lambda key, shape, dtype: jnp.zeros(shape, jnp.float32),
    )
    methods = [name for name in METHODS if hasattr(model, name)]
    return qwix.apply_lora_to_model(model, qwix.LoraProvider([rule]), methods=methods)


def is_factor(path: str) -> bool:
    """Returns whether the parameter at `path` is a factor."""
    return path.endswith((A, B))


def kernel_of(path: str) -> str:
    """Returns the path of the kernel that the factor at `path` stands beside."""
    return path.removesuffix(A).removesuffix(B)


def for_compute(params: dict, dtype: str) -> dict:
    """Returns the tree with its factors in the model's `dtype`.

    Float32 factors would lift a bfloat16 layer's output, which the scan over layers refuses.
    """
    leaves = flatten_dict(params, sep="/")
    cast = {path: leaf.astype(dtype) if is_factor(path) else leaf for path, leaf in leaves.items()}
    return unflatten_dict(cast, sep="/")


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
        if path.split("/")[0] not in PARTS or not path.endswith("/kernel")
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
    return unflatten_dict(merged_leaves(flatten_dict(params, sep="/"), lora), sep="/")


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


def _pattern(lora: LoraConfig) -> str:
    """Returns one pattern for all targets; qwix matches it with a module's whole path."""
    return "|".join(f"(?:{target})" for target in lora.targets)
