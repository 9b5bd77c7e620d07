"""One update of the parameters that move: what every stage repeats."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from gem_jax.config import Config
from gem_jax.models.gem import Batch
from gem_jax.models.pretrain import DenseTargets
from gem_jax.objectives import LOSSES, Metrics
from gem_jax.optimizer import merge


@struct.dataclass
class TrainState:
    """What changes: the moving parameters, the optimizer's state, the updates made so far.

    Its leaves are arrays, or their shapes or shardings.
    """

    step: Any
    moving: dict
    opt_state: optax.OptState


def fresh_state(tx: optax.GradientTransformation, moving: dict) -> TrainState:
    """Returns the state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), moving, tx.init(moving))


def train_step(
    state: TrainState,
    frozen: dict,
    batch: Batch,
    dense: DenseTargets | None,
    *,
    config: Config,
    tx: optax.GradientTransformation,
) -> tuple[TrainState, Metrics]:
    """Returns the state after one update, and the metrics of the parameters before it."""

    def loss_fn(moving: dict) -> tuple[jax.Array, Metrics]:
        return LOSSES[config.train.objective](config, merge(moving, frozen), batch, dense)

    (loss, parts), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.moving)
    updates, opt_state = tx.update(grads, state.opt_state, state.moving)
    moving = optax.apply_updates(state.moving, updates)
    metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads), **parts}
    return TrainState(state.step + 1, moving, opt_state), metrics
