"""One update of the parameters that move: the gradient, micro-batch by micro-batch, and AdamW.

Axes: A micro-batches, B rows of the global batch.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float

from gem_jax.config import Config, ConfigError
from gem_jax.models.gem import Batch
from gem_jax.models.layers import ROW_AXES, by_rows
from gem_jax.models.pretrain import DenseTargets
from gem_jax.objectives import Metrics, Parts, counts_of, sums_of
from gem_jax.optimizer import merge
from gem_jax.sharding import as_params, replicated


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
    """Returns the state after one update, and the metrics of the parameters before it.

    `loss` or `grad_norm` is not finite where the update is not; `labels` counts the tokens that
    carry loss; `row_loss` and `row_labels` are each row's sum and count.
    """
    metrics, grads = gradients(config, state.moving, frozen, batch, dense)
    updates, opt_state = tx.update(grads, state.opt_state, state.moving)
    moving = as_params(optax.apply_updates(state.moving, updates))
    return TrainState(state.step + 1, moving, opt_state), metrics


def gradients(
    config: Config, moving: dict, frozen: dict, batch: Batch, dense: DenseTargets | None
) -> tuple[Metrics, dict]:
    """Returns (metrics, the gradient of the whole batch's loss), added up in float32."""
    leaves: list[jax.Array]
    tree: Any
    leaves, tree = jax.tree.flatten((batch, dense))
    micro = micro_batches(leaves, config.train.accumulate)
    counts = jax.vmap(lambda own: counts_of(config, *tree.unflatten(own)))(micro)
    weights = loss_weights(counts, config.train.loss_weighting)

    def loss_of(moving: dict, own: list[jax.Array], weight: Parts) -> Any:
        sums = sums_of(config, merge(moving, frozen), *tree.unflatten(own))
        parts = jax.tree.map(jnp.multiply, sums.parts, weight)
        return jnp.stack(list(parts.values())).sum(), (parts, sums.rows)

    def one(micro_batch: Any) -> Any:
        (_, (parts, rows)), grads = jax.value_and_grad(loss_of, has_aux=True)(moving, *micro_batch)
        return (parts, as_params(_in_float32(grads))), rows

    (parts, grads), rows = _added_up(one, (micro, weights))
    metrics = {
        "loss": jnp.stack(list(parts.values())).sum(),
        "labels": batch.loss_mask.sum(),
        "grad_norm": optax.tree.norm(grads),
        "param_norm": optax.tree.norm(_in_float32(moving)),
        "row_loss": replicated(rows.T.reshape(-1)),
        "row_labels": replicated(batch.loss_mask.sum(axis=1)),
    }
    if len(parts) > 1:
        metrics |= {f"loss_{name}": part for name, part in parts.items()}
    return metrics, jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), grads, moving)


def micro_batches(leaves: list[Any], count: int) -> list[jax.Array]:
    """Returns the batch's arrays with axes (A, B / A, …): row r is in micro-batch r mod A.

    So a device's rows, which are neighbours, stay with it.

    Raises:
        ConfigError: when a micro-batch has not the same number of rows for each part of the mesh.
    """
    sizes = dict(jax.sharding.get_abstract_mesh().shape)
    parts = math.prod(sizes.get(name, 1) for name in ROW_AXES)
    if leaves[0].shape[0] % (count * parts):
        raise ConfigError(
            f"train.accumulate: got {count}, expected data.batch_size ({leaves[0].shape[0]}) to be "
            f"a multiple of train.accumulate × mesh.data × mesh.fsdp ({count * parts})"
        )

    def cut(leaf: Any) -> jax.Array:
        rows = leaf.shape[0]
        split = jnp.asarray(leaf).reshape(rows // count, count, *leaf.shape[1:])
        return by_rows(split.swapaxes(0, 1), axis=1)

    return [cut(leaf) for leaf in leaves]


def loss_weights(counts: Parts, weighting: str) -> dict[str, Float[Array, "A"]]:
    """Returns what each micro-batch's sum of a part counts, from its number of terms (A,).

    `token`: every term of the global batch the same. `microbatch`: every micro-batch the same, as
    in the original; one without a label adds 0.
    """

    def of(count: jax.Array) -> jax.Array:
        if weighting == "token":
            return jnp.broadcast_to(1 / jnp.maximum(count.sum(), 1), count.shape)
        return 1 / (len(count) * jnp.maximum(count, 1))

    return jax.tree.map(of, counts)


def _in_float32(tree: dict) -> dict:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)


def _added_up(one: Any, micro: Any) -> tuple[Any, Float[Array, "A rows"]]:
    """Returns (sum of what `one` says of each micro-batch, its rows of all)."""
    first = jax.tree.map(lambda leaf: leaf[0], micro)
    if len(jax.tree.leaves(micro)[0]) == 1:  # no second set of gradients is held
        total, rows = one(first)
        return total, rows[None]
    shapes, _ = jax.eval_shape(one, first)
    parts, grads = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def add(total: Any, micro_batch: Any) -> Any:
        found, rows = one(micro_batch)
        return jax.tree.map(jnp.add, total, found), rows

    return jax.lax.scan(add, (parts, as_params(grads)), micro)
