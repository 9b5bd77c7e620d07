"""Records that cannot be used: found at the start where they can be, listed, up to a limit.

What is seen without decoding is looked for before the first step: rows of another shape, files that
are missing, headers that are garbled, signals and pictures that end too early. The rest shows when
its row is made. Either way the next record of the source takes the place of a broken one.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
from PIL import Image

from data_prep import records
from data_prep.progress import track
from data_prep.records import BadInput
from gem_jax.hosts import exchange
from gem_jax.preprocess import DAMAGED, read_page
from gem_jax.told import Broken

LISTED = 20
# What the last bytes of a whole picture hold; one without it is read as a whole to be sure.
ENDINGS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
LAST_BYTES = 1024
# Looking for files waits for the disk, mostly.
THREADS = 16


def check_record(path: Path) -> None:
    """Refuses a record whose header or files are not whole, with a BadInput."""
    records.check(path)


def check_page(path: Path) -> None:
    """Refuses a picture that is missing, none, or cut off, with a BadInput."""
    try:
        with Image.open(path) as page:
            ending = ENDINGS.get(page.format or "", b"")
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - LAST_BYTES, 0))
            whole = ending in file.read()
    except (*DAMAGED, Image.DecompressionBombError):
        whole = False
    if not whole:
        read_page(path)


def files_broken(files: Sequence[tuple[Path, Callable[[Path], None]]], label: str) -> dict:
    """Returns path → reason of the files that do not pass their check.

    The processes share the work, and all learn what each found.
    """
    own = files[jax.process_index() :: jax.process_count()]

    def reason(file: tuple[Path, Callable[[Path], None]]) -> str | None:
        path, check = file
        try:
            check(path)
        except (BadInput, OSError) as error:
            return str(error)
        return None

    with ThreadPoolExecutor(THREADS) as pool:
        reasons = list(track(pool.map(reason, own), len(own), label))
    found = {str(file[0]): why for file, why in zip(own, reasons, strict=True) if why}
    return {path: why for each in exchange(found) for path, why in each.items()}


def require_few(found: Mapping[str, str], limit: int) -> None:
    """Refuses more broken records than the recipe allows, with a BadInput that lists them."""
    if len(found) <= limit:
        return
    listed = [str(Broken(where, reason)) for where, reason in found.items()]
    more = f"; and {len(listed) - LISTED} more" if len(listed) > LISTED else ""
    raise BadInput(
        f"data.max_broken: got {len(listed)} broken record{'s' * (len(listed) > 1)}, expected at "
        f"most {limit}; repair them, leave them out, or raise it to skip them: "
        f"{'; '.join(listed[:LISTED])}{more}"
    )


def tell(found: Mapping[str, str]) -> None:
    """Lists on stderr what is skipped; process 0 alone."""
    if jax.process_index() == 0:
        for where, reason in found.items():
            print(f"skipped: {where}: {reason}", file=sys.stderr)
