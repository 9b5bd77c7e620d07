"""A JSON Lines file of one record a line, there when whole; what a killed run wrote is kept."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from data_prep.records import BadInput

FIRST = b'{"record": '


class LinesFile:
    """The lines written so far to `path`, which appears when `finish` is called.

    Until then they stand in a hidden file beside it, whose name holds `fingerprint`: the same work
    goes on there, other work begins anew.
    """

    def __init__(self, path: Path, fingerprint: str, file: BinaryIO) -> None:
        self.path, self.fingerprint, self._file = path, fingerprint, file
        self.done: set[str] = set()

    def write(self, line: str) -> None:
        """Appends a line; it survives the end of this process."""
        self._file.write(line.encode() + b"\n")
        self._file.flush()

    def finish(self) -> None:
        """Puts the whole file in its place."""
        os.fsync(self._file.fileno())
        Path(self._file.name).replace(self.path)


@contextmanager
def open_lines(path: Path, fingerprint: str) -> Iterator[LinesFile]:
    """Yields the file, `done` the records that an earlier run of the same work wrote.

    Raises:
        BadInput: it cannot be written to, or another process is writing it.
    """
    partial = path.with_name(f".{path.name}.{fingerprint[:12]}.partial")
    try:
        if path.is_dir():
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lines = LinesFile(path, fingerprint, file)
            lines.done = set(_kept(file))
            yield lines
    except BlockingIOError as error:
        raise BadInput(
            f"--out {path}: got a file that another process is writing, expected one for this run; "
            "wait for it, or name another"
        ) from error
    except OSError as error:
        raise BadInput(
            f"--out {path}: got {error.strerror}, expected a file that can be written; name another"
        ) from error


def _kept(file: BinaryIO) -> Iterator[str]:
    """Yields the records of the whole lines and cuts off what follows the last of them."""
    file.seek(0)
    end = 0
    decoder = json.JSONDecoder()
    for line in file:
        if not (line.endswith(b"\n") and line.startswith(FIRST)):
            break
        end += len(line)
        yield decoder.raw_decode(line[len(FIRST) :].decode())[0]
    file.truncate(end)
