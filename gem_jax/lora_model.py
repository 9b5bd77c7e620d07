"""The model with LoRA's factors at its dense layers, by qwix.

Factors are float32 whatever the base is, and computed with in the model's dtype. A is drawn and B
zero at the start: the first loss is the base's.
"""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import qwix
from flax import linen as nn

from gem_jax.config import LoraConfig
from gem_jax.lora import is_factor
from gem_jax.paths import flat, nested

METHODS = ("__call__", "hidden", "logits")
# PEFT's: uniform within ±1/√inputs, whose variance is a third of 1/inputs.
DRAWN = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# qwix asks flax for a name that flax has given up, at every parameter.
warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"qwix\.")


class Provider(qwix.LoraProvider):
    """Qwix's, whose layers keep their dtype: float32 factors would lift a bfloat16 output."""

    def dot_general(self, lhs: jax.Array, *args: Any, **options: Any) -> jax.Array:
        return super().dot_general(lhs, *args, **options).astype(lhs.dtype)


def with_lora(model: nn.Module, lora: LoraConfig | None) -> nn.Module:
    """Returns the model with factors at the dense layers that `lora` names; None: as it is."""
    if lora is None:
        return model
    rule = qwix.LoraRule(
        module_path="|".join(f"(?:{target})" for target in lora.targets),
        rank=lora.rank,
        alpha=lora.alpha,
        lora_a_initializer=lambda key, shape, dtype: DRAWN(key, shape, jnp.float32),
        lora_b_initializer=lambda key, shape, dtype: jnp.zeros(shape, jnp.float32),
    )
    methods = [name for name in METHODS if hasattr(model, name)]
    return qwix.apply_lora_to_model(model, Provider([rule]), methods=methods)


def for_compute(params: dict, dtype: str) -> dict:
    """Returns the tree with its factors in the model's `dtype`: as fast as the base's kernels."""
    leaves = flat(params)
    cast = {path: leaf.astype(dtype) if is_factor(path) else leaf for path, leaf in leaves.items()}
    return nested(cast)
