"""RUN/lock: one training at a time in a run's folder.

The kernel lets go of it however the process that holds it ends; the file may stay.
"""

import contextlib
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from gem_jax import processes
from gem_jax.config import ConfigError
from gem_jax.hosts import exchange


@contextlib.contextmanager
def alone(run_dir: Path) -> Iterator[None]:
    """Holds the folder of a run while its body runs; it is made if it is not there.

    The first process alone locks it, and all hear whether it could.

    Raises:
        ConfigError: in every process, when another training holds it or it cannot be written to.
    """
    with contextlib.ExitStack() as held:
        refusal = held.enter_context(_locked(run_dir / "lock")) if processes.is_first() else None
        refusal, *_ = exchange(refusal)
        if refusal:
            raise ConfigError(refusal)
        yield


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[str | None]:
    """Locks the file while the body runs; yields why that is refused, None where it is not.

    A new folder into which the body writes nothing is removed again.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    with contextlib.ExitStack() as opened:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            refusal = _refusal(path, opened.enter_context(path.open("a+", encoding="utf-8")))
        except OSError as error:
            refusal = f"{path}: {error.strerror}, expected a folder that can be written to"
        try:
            yield refusal
        finally:
            if made and list(path.parent.glob("*")) == [path]:
                _remove(path, made)


def _refusal(path: Path, file: TextIO) -> str | None:
    """Locks the open file and writes whose it is; returns why that is refused."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        return (
            f"{path.parent}: another process trains there ({file.read().strip()}), expected one "
            "at a time; wait for it or end it, or name another --run-dir"
        )
    except OSError as error:
        told = f"{path}: cannot be locked here ({error.strerror}); begin no other run in its folder"
        print(told, file=sys.stderr)
    file.truncate(0)
    file.write(f"process {os.getpid()} of {socket.gethostname()}\n")
    file.flush()
    return None


def _remove(path: Path, made: list[Path]) -> None:
    """Removes the file and the folders that were made for it, as far as they are empty."""
    path.unlink()
    with contextlib.suppress(OSError):  # another's files may have come into them
        for folder in made:
            folder.rmdir()
