"""Files that are written as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from data_prep.records import BadInput


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file, and its folder, in one step: a reader sees the old content or the new.

    Raises:
        BadInput: the place cannot be written to.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:
        raise BadInput(
            f"{path}: got {error.strerror}, expected a place that can be written to; name another"
        ) from error
    finally:
        if partial.exists():
            partial.unlink()
