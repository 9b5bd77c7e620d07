"""What a run saves of its state, and how it goes on from it, on whatever mesh.

The parameters that move, the optimizer's state and their sums lie in one orbax step, beside which
RUN/frozen has the other parameters. The data needs none: its batches follow from the seed and the
step.
"""

import functools
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from orbax.checkpoint import v1 as ocp

from gem_jax import frozen_folder, processes, sharding
from gem_jax.bit_sums import summed, sums
from gem_jax.config import Config
from gem_jax.optimizer import split
from gem_jax.orbax_leaves import UNREADABLE, silence
from gem_jax.start import param_shapes
from gem_jax.step import TrainState, fresh_state
from gem_jax.step_folders import (
    CheckpointError,
    Located,
    complete_steps,
    frozen_dir,
    frozen_sums,
    step_dir,
    writing,
)


def saved_state(state: TrainState) -> dict[str, Any]:
    """Returns what a step of the run's checkpoints holds, but for its sums."""
    return {
        "params": state.moving,
        "optimizer": {"state": state.opt_state, "step": state.step},
    }


def save(
    writer: ocp.training.Checkpointer,
    step: int,
    state: TrainState,
    frozen: dict,
    heldout_loss: float | None = None,
) -> None:
    """Begins to save the state as `step`; it is on disk when the next save or `close` returns.

    All processes call this. What goes wrong behind it is raised by that next call.
    CheckpointError when a step cannot be written.
    """
    saved = saved_state(state)
    saved["optimizer"]["sums"] = sums(saved)
    with writing(Path(writer.directory)):
        writer.save_checkpointables_async(
            step,
            saved,
            force=True,
            metrics=None if heldout_loss is None else {"loss": heldout_loss},
            custom_metadata=frozen_folder.record(frozen),
        )


def restore(
    writer: ocp.training.Checkpointer,
    config: Config,
    tx: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    init: Path | None = None,
) -> tuple[TrainState, dict]:
    """Returns (state, frozen) of the run's newest step that can be read, placed on the mesh.

    Newer ones that cannot are told on stderr and set aside as N.damaged. A lost or damaged
    RUN/frozen is made again from the CKPT `init`.

    Raises:
        CheckpointError: when none can be read, one holds other arrays than the recipe has, or
            RUN/frozen is not what the step goes with and cannot be made again.
    """
    run_dir, target = Path(writer.directory).parent, _target(config, tx, mesh)
    damaged: list[int] = []
    for step in reversed(complete_steps(run_dir)):
        located = Located(run_dir, step)
        saved = _read(writer, located, target)
        if saved is not None:
            frozen = frozen_folder.restored(located, config, mesh, init)
            _set_aside(writer, damaged, step)
            kept = saved["optimizer"]
            return TrainState(kept["step"], saved["params"], kept["state"]), frozen
        damaged.append(step)
    raise CheckpointError(
        f"{writer.directory}: got steps {damaged[::-1]} of which none can be read, expected one; "
        "fetch them again, or begin anew with another --run-dir"
    )


def _target(config: Config, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh) -> dict:
    """Returns shape, dtype and place of every array that a step holds."""
    shapes = param_shapes(config)
    moving, _ = split(shapes, config.train.trainable)
    saved = saved_state(jax.eval_shape(functools.partial(fresh_state, tx), moving))
    saved["optimizer"]["sums"] = jax.eval_shape(summed, saved)
    return sharding.placed_shapes(saved, sharding.state_shardings(mesh, saved, shapes))


def _read(writer: ocp.training.Checkpointer, located: Located, target: dict) -> dict | None:
    """Returns the saved state; None when it cannot be read or is no longer what was saved."""
    saved, folder = None, step_dir(located)
    try:
        with silence():
            known = ocp.checkpointables_metadata(folder).metadata
            # Where it knows of no array at all its list of them is lost, and loading says so.
            if all(jax.tree.leaves(known.get(name)) for name in target):
                _refuse_other_arrays(f"{folder}", known, target)
            # So is what it goes with, when there is such a folder and it knows of none.
            if frozen_sums(folder) or not frozen_dir(located.root).is_dir():
                saved = writer.load_checkpointables(located.step, target)
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
