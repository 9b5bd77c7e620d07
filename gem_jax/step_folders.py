"""Which folders hold the parameters of a step: its own, and its run's RUN/frozen.

RUN/checkpoints/N/ has what moves, RUN/frozen/ what does not, once for all steps; both are orbax's.
They know by the bit sums of the latter that they belong together.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orbax.checkpoint import v1 as ocp

from gem_jax import orbax_leaves
from gem_jax.config import ConfigError

FETCH = "name an earlier one of checkpoints/, or fetch it again"
MAKE_AGAIN = (
    "fetch it again, or run the same `gem-jax train` again, with the run's --init if it began from "
    "one, to make it again"
)
# How tensorstore, which raises ValueError, tells of what the system refused.
_SYSTEM = re.compile(r"\[os_error_code='(\d+)'\]")


class CheckpointError(ConfigError):
    """A folder that is not a checkpoint, or one that does not fit what reads it."""


@dataclass(frozen=True)
class Located:
    """A checkpoint found on disk."""

    root: Path
    step: int

    @property
    def tokenizer(self) -> Path:
        """The folder of its tokenizer."""
        return self.root / "tokenizer"


def steps_dir(root: Path) -> Path:
    """Returns the folder that holds the steps of `root`, absolute as orbax wants it."""
    return root.absolute() / "checkpoints"


def step_dir(located: Located) -> Path:
    """Returns the folder of the step."""
    return steps_dir(located.root) / str(located.step)


def frozen_dir(root: Path) -> Path:
    """Returns the folder of the parameters that the run of `root` does not move."""
    return root.absolute() / "frozen"


def complete_steps(root: Path) -> list[int]:
    """Returns the steps of `root` whose saving was finished, ascending: orbax renames last."""
    folder = steps_dir(root)
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def frozen_of(located: Located) -> Path | None:
    """Returns the folder of the parameters that the step goes with but does not hold, if any.

    CheckpointError when it is missing, or not the one that the step was saved beside.
    """
    step, folder = step_dir(located), frozen_dir(located.root)
    with reading(step, FETCH):
        expected = frozen_sums(step)
    if not folder.is_dir():
        if expected is None:
            return None
        raise CheckpointError(f"{folder}: is missing, expected what {step} lacks; {MAKE_AGAIN}")
    with reading(folder, MAKE_AGAIN):
        found = frozen_sums(folder)
    if found != expected:
        raise CheckpointError(
            f"{folder}: holds other parameters than {step} was saved beside, expected those of one "
            f"run; {MAKE_AGAIN}"
        )
    return folder


def frozen_sums(folder: Path) -> dict[str, int] | None:
    """Returns the bit sums, by path, of the frozen parameters that a step goes with, or RUN/frozen.

    None: the step says nothing of such.
    """
    return (ocp.checkpointables_metadata(folder).custom_metadata or {}).get("frozen")


def folders_of(located: Located) -> dict[Path, str]:
    """Returns the orbax folders that hold the step's parameters, each with its cure.

    CheckpointError as of `frozen_of`.
    """
    frozen = frozen_of(located)
    return {step_dir(located): FETCH} | ({} if frozen is None else {frozen: MAKE_AGAIN})


def united(
    folders: dict[Path, str], read: Callable[..., dict[str, Any]], *wanted: Any
) -> dict[str, Any]:
    """Returns what `read` finds in all of the folders, by path; CheckpointError as of `reading`."""
    found: dict[str, Any] = {}
    for folder, cure in folders.items():
        with reading(folder, cure):
            found |= read(folder, *wanted)
    return found


@contextmanager
def reading(folder: Path, cure: str) -> Iterator[None]:
    """Makes one CheckpointError of what orbax cannot read in `folder`."""
    try:
        with orbax_leaves.silence():
            yield
    except orbax_leaves.UNREADABLE as error:
        raise CheckpointError(
            f"{folder}: got a folder that cannot be read ({type(error).__name__}), expected one "
            f"that is complete; {cure}"
        ) from error


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Makes one CheckpointError of what the system refuses while orbax writes into `folder`."""
    try:
        yield
    except (OSError, ValueError) as error:
        if found := _SYSTEM.search(str(error)):
            told = os.strerror(int(found[1]))
        elif isinstance(error, OSError):
            told = error.strerror or str(error)
        else:
            raise
        raise CheckpointError(
            f"{_unfinished(folder)}: {told}, expected it to be written; make room, or name another "
            "place, and run the same command again to go on from the last that is whole"
        ) from error


def _unfinished(folder: Path) -> Path:
    """Returns the newest step that a save into `folder` left unfinished; else the folder."""
    names = [entry.name.partition(".")[0] for entry in folder.glob("*.orbax-checkpoint-tmp*")]
    steps = [int(name) for name in names if name.isdecimal()]
    return folder / str(max(steps)) if steps else folder
