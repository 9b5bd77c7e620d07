"""RUN/frozen: the parameters that a run does not move, saved once, when it begins.

A step holds the rest and records the sums of these, so that neither damage nor another run's folder
goes unnoticed. No older ones are kept: they follow from the recipe and --init, and a run that goes
on makes a folder that is lost or damaged again, if it is given its --init once more or had none.
"""

import shutil
import sys
from pathlib import Path

from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from gem_jax import processes, sharding
from gem_jax.bit_sums import sums_by_path
from gem_jax.checkpoint import locate_any
from gem_jax.config import Config, ConfigError
from gem_jax.optimizer import split
from gem_jax.orbax_leaves import PARAMS, UNREADABLE, hushed, silence
from gem_jax.start import param_shapes, placed_params
from gem_jax.step_folders import (
    MAKE_AGAIN,
    CheckpointError,
    Located,
    frozen_dir,
    frozen_of,
    frozen_sums,
    step_dir,
    writing,
)


def write(run_dir: Path, frozen: dict) -> None:
    """Writes RUN/frozen as a whole or not at all, in place of an old one; nothing if all moves.

    All processes call this. What a write that was cut off left behind is removed.
    """
    if not frozen:
        return
    folder = frozen_dir(run_dir)
    if processes.is_first():
        for leftover in folder.parent.glob(f"{folder.name}.*tmp*"):
            shutil.rmtree(leftover)
    processes.all_of(True)
    with hushed(), writing(folder):
        ocp.save_checkpointables(
            folder, {PARAMS: frozen}, overwrite=True, custom_metadata=record(frozen)
        )


def record(frozen: dict) -> dict[str, dict[str, int]]:
    """Returns what a step and RUN/frozen say of the frozen parameters, for `frozen_sums`."""
    return {"frozen": sums_by_path(frozen)} if frozen else {}


def restored(located: Located, config: Config, mesh: Mesh, init: Path | None) -> dict:
    """Returns the frozen parameters that the step goes with, placed on the mesh.

    When they are lost or damaged they are made again as the run began, from the CKPT `init` or by
    the recipe's seed alone, and written.

    Raises:
        CheckpointError: when they are and that gives others, or the run began from a CKPT that is
            not given.
    """
    try:
        return _read(located, config, mesh)
    except CheckpointError as fault:
        frozen = _begun(config, mesh, init, fault)
        origin = f"--init {init}" if init else f"train.seed {config.train.seed}"
        if sums_by_path(frozen) != frozen_sums(step_dir(located)):
            raise CheckpointError(
                f"{origin}: gives other frozen parameters than the run began with, expected the "
                f"same; fetch RUN/frozen again, or give the CKPT that it began from by --init: "
                f"{fault}"
            ) from fault
        if processes.is_first():
            print(f"{fault.args[0]}: made again from {origin}", file=sys.stderr)
        write(located.root, frozen)
        return frozen


def _begun(config: Config, mesh: Mesh, init: Path | None, fault: CheckpointError) -> dict:
    """Returns what does not move as the run began; raises the fault if that was from a CKPT."""
    start = None if init is None else locate_any(init)
    try:
        made = placed_params(config, start, mesh)
    except ConfigError as error:
        raise (error if start else fault) from error
    return split(made, config.train.trainable)[1]


def _read(located: Located, config: Config, mesh: Mesh) -> dict:
    """Returns RUN/frozen, placed on the mesh; CheckpointError when it is not what was written."""
    folder = frozen_of(located)
    if folder is None:
        return {}
    _, shapes = split(param_shapes(config), config.train.trainable)
    target = sharding.placed_shapes(shapes, sharding.param_shardings(mesh, shapes))
    frozen = None
    try:
        with silence():
            frozen = ocp.load_checkpointables(folder, {PARAMS: target})[PARAMS]
    except UNREADABLE:
        pass
    if not processes.all_of(frozen is not None):
        raise CheckpointError(f"{folder}: cannot be read, expected it as written; {MAKE_AGAIN}")
    assert frozen is not None
    found, expected = sums_by_path(frozen), frozen_sums(folder) or {}
    damaged = [path for path, number in expected.items() if found.get(path) != number]
    if damaged:
        told = f"{', '.join(damaged[:3])}{' and more' if len(damaged) > 3 else ''} changed"
        raise CheckpointError(f"{folder}: {told}, expected it as written; {MAKE_AGAIN}")
    return frozen
