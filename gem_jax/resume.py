"""What a run saves of its state, and how it goes on from it, on whatever mesh.

A step's parameters, the optimizer's state and their sums lie in one orbax step. The data needs
none: its batches follow from the seed and the step.
"""

import functools
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from orbax.checkpoint import v1 as ocp

from gem_jax import processes, sharding
from gem_jax.checkpoint import CheckpointError, complete_steps
from gem_jax.config import Config
from gem_jax.optimizer import merge, split
from gem_jax.orbax_leaves import silence
from gem_jax.start import param_shapes
from gem_jax.step import TrainState, fresh_state

# What orbax raises for a file that is missing, cut off or no longer what was written.
UNREADABLE = (OSError, KeyError, ValueError)


def saved_state(state: TrainState, frozen: dict) -> dict[str, Any]:
    """Returns what a step of the run's checkpoints holds, but for its sums."""
    return {
        "params": merge(state.moving, frozen),
        "optimizer": {"state": state.opt_state, "step": state.step},
    }


def sums(saved: dict[str, Any]) -> jax.Array:
    """Returns for each leaf the sum of its bits: what orbax reads back changed has another.

    Whole numbers that wrap around: the order, and so the mesh, makes no difference.
    """
    # Whatever mesh the caller has set.
    with jax.set_mesh(jax.tree.leaves(saved)[0].sharding.mesh):
        return _summed(saved)


@jax.jit
def _summed(saved: dict[str, Any]) -> jax.Array:
    def one(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            width = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
            leaf = jax.lax.bitcast_convert_type(leaf, width)
        return jnp.sum(leaf.astype(jnp.uint32), dtype=jnp.uint32)

    return jnp.stack([one(leaf) for leaf in jax.tree.leaves(saved)])


def save(
    writer: ocp.training.Checkpointer,
    step: int,
    state: TrainState,
    frozen: dict,
    heldout_loss: float | None = None,
) -> None:
    """Begins to save the state as `step`; it is on disk when the next save or `close` returns.

    All processes call this. What goes wrong behind it is raised by that next call.
    """
    saved = saved_state(state, frozen)
    saved["optimizer"]["sums"] = sums(saved)
    writer.save_checkpointables_async(
        step,
        saved,
        force=True,
        metrics=None if heldout_loss is None else {"loss": heldout_loss},
    )


def restore(
    writer: ocp.training.Checkpointer,
    config: Config,
    tx: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
) -> tuple[TrainState, dict]:
    """Returns (state, frozen) of the run's newest step that can be read, placed on the mesh.

    Newer ones that cannot are told on stderr and set aside as N.damaged.

    Raises:
        CheckpointError: when none can be read, or one holds other arrays than the recipe has.
    """
    target = _target(config, tx, mesh)
    damaged: list[int] = []
    for step in reversed(complete_steps(Path(writer.directory).parent)):
        saved = _read(writer, step, target)
        if saved is not None:
            _set_aside(writer, damaged, step)
            moving, frozen = split(saved["params"], config.train.trainable)
            kept = saved["optimizer"]
            return TrainState(kept["step"], moving, kept["state"]), frozen
        damaged.append(step)
    raise CheckpointError(
        f"{writer.directory}: got steps {damaged[::-1]} of which none can be read, expected one; "
        "fetch them again, or begin anew with another --run-dir"
    )


def _target(config: Config, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh) -> dict:
    """Returns shape, dtype and place of every array that a step holds."""
    shapes = param_shapes(config)
    moving, frozen = split(shapes, config.train.trainable)
    state = jax.eval_shape(functools.partial(fresh_state, tx), moving)
    saved = saved_state(state, frozen)
    saved["optimizer"]["sums"] = jax.eval_shape(_summed, saved)
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        saved,
        sharding.state_shardings(mesh, saved, shapes),
    )


def _read(writer: ocp.training.Checkpointer, step: int, target: dict) -> dict | None:
    """Returns the saved state; None when it cannot be read or is no longer what was saved."""
    saved = None
    try:
        with silence():
            known = ocp.checkpointables_metadata(writer.directory / str(step)).metadata
            # Where it knows of no array at all its list of them is lost, and loading says so.
            if all(jax.tree.leaves(known.get(name)) for name in target):
                _refuse_other_arrays(f"{writer.directory / str(step)}", known, target)
            saved = writer.load_checkpointables(step, target)
    except CheckpointError:
        raise
    except UNREADABLE:
        pass
    if not processes.all_of(saved is not None):
        return None
    assert saved is not None
    expected = saved["optimizer"].pop("sums")
    return saved if np.array_equal(expected, sums(saved)) else None


def _refuse_other_arrays(where: str, known: dict, target: dict) -> None:
    """Raises CheckpointError that tells how what is saved differs from what the recipe has."""
    found, expected = _shapes(known), _shapes(target)
    wrong = [f"{path} is missing" for path in expected.keys() - found.keys()]
    wrong += [f"{path} is unknown" for path in found.keys() - expected.keys()]
    wrong += [
        f"{path} has {found[path]} instead of {shape}"
        for path, shape in expected.items()
        if path in found and found[path] != shape
    ]
    if wrong:
        raise CheckpointError(
            f"{where}: does not fit the recipe: {'; '.join(sorted(wrong)[:6])}"
            f"{f' and {len(wrong) - 6} more' if len(wrong) > 6 else ''}; was it written by another "
            "version? train it with that one, or begin anew with another --run-dir"
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(keys, simple=True, separator="/"): tuple(leaf.shape)
        for keys, leaf in jax.tree.leaves_with_path(tree)
    }


def _set_aside(writer: ocp.training.Checkpointer, damaged: list[int], step: int) -> None:
    if not damaged:
        return
    if processes.is_first():
        for number in damaged:
            aside = writer.directory / f"{number}.damaged"
            shutil.rmtree(aside, ignore_errors=True)
            (writer.directory / str(number)).rename(aside)
            told = f"{writer.directory / str(number)}: cannot be read, set aside as {aside.name}"
            print(f"{told}; the run goes on from step {step}", file=sys.stderr)
    processes.all_of(True)
    writer.reload()
