"""A folder that is there when it is whole, and not before."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole_folder(dest: Path) -> Iterator[Path]:
    """Yields the new folder DEST.partial: it becomes DEST at the end, or is removed by an error.

    So are the folders above it that were not there before.
    OSError if DEST is there by then and is not an empty folder.
    """
    partial = dest.with_name(f"{dest.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    made = [parent for parent in partial.parents if not parent.exists()]
    try:
        partial.mkdir(parents=True)
        yield partial
        os.replace(partial, dest)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        with suppress(OSError):  # another's files may have come into them
            for parent in made:
                parent.rmdir()
        raise
