"""What a stage minimises: GEM's answers, or in stage 0 the parts of GEM each alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float

from gem_jax.config import Config
from gem_jax.lora import for_compute, with_lora
from gem_jax.models.gem import Batch, Gem
from gem_jax.models.pretrain import DenseTargets, Pretrain, dense_loss

Metrics = dict[str, jax.Array]
Loss = Callable[[Config, dict, Batch, DenseTargets | None], tuple[jax.Array, Metrics]]


def text_loss(logits: Float[Array, "B T V"], batch: Batch) -> Float[Array, ""]:
    """Returns the mean cross entropy of the tokens that carry loss; 0 when none does."""
    each = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
    return (each * batch.loss_mask).sum() / jnp.maximum(batch.loss_mask.sum(), 1)


def instruct_loss(
    config: Config, params: dict, batch: Batch, dense: DenseTargets | None
) -> tuple[jax.Array, Metrics]:
    """Returns (loss of the answers, no parts): stages 1 and 2."""
    logits: Any = applied(config, params, batch)
    return text_loss(logits, batch), {}


def pretrain_loss(
    config: Config, params: dict, batch: Batch, dense: DenseTargets | None
) -> tuple[jax.Array, Metrics]:
    """Returns (sum of the parts, each part): stage 0, encoder and language model side by side."""
    assert dense is not None
    said: Any
    logits: Any
    said, logits = applied(config, params, batch)
    parts = dense_loss(said, dense) | {"text": text_loss(logits, batch)}
    total = jnp.stack(list(parts.values())).sum()
    return total, {f"loss_{name}": part for name, part in parts.items()}


LOSSES: dict[str, Loss] = {"instruct": instruct_loss, "pretrain": pretrain_loss}


def model_of(config: Config) -> nn.Module:
    """Returns the module that the objective trains."""
    kind = {"instruct": Gem, "pretrain": Pretrain}[config.train.objective]
    return with_lora(kind(config.model), config.lora)


def applied(config: Config, params: dict, batch: Batch) -> Any:
    """Returns what the objective's module gives for the batch."""
    computed = for_compute(params, config.model.llm.dtype) if config.lora else params
    return model_of(config).apply({"params": computed}, batch)
