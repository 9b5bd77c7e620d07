"""CODE-15%: HDF5 files of exams, 12 leads at 400 Hz, shorter ones between zeros.

https://zenodo.org/records/4916206: `exam_id` (E), `tracings` (E, 4096, 12), leads DI DII DIII AVR
AVL AVF V1 … V6. In mV: its text contradicts itself (1e-4 V, and V times 1000), the PhysioNet
Challenge of 2025 took it for mV, and so R waves are of the usual height.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.readers.assemble import assemble
from data_prep.records import BadInput, Record

RATE_HZ = 400.0
_LEADS = ("DI", "DII", "DIII", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")
_MAX_EXAMS = 1 << 20
_MAX_SAMPLES = 1 << 16  # of one exam
_MAX_CHUNK_BYTES = 1 << 27


def read(path: Path, exam: str | None) -> Record:
    """The Record of an exam, called FILE/EXAM; of a file with only one exam, `exam` may be None.

    Raises:
      BadInput: there is no such exam, or the file is damaged or none of CODE-15%.
    """
    row, exam = exam_row(path, exam)
    with _opened(path) as file, np.errstate(over="ignore", invalid="ignore"):
        tracing = _dataset(path, file, "tracings")[row].astype(np.float32)
    return assemble(str(path.with_suffix("") / exam), _LEADS, tracing.T, RATE_HZ)


def exam_row(path: Path, exam: str | None) -> tuple[int, str]:
    """Where an exam stands in its file, and its id.

    Raises:
      BadInput: as `read`.
    """
    ids = exam_ids(path)
    if exam is None and len(ids) == 1:
        exam = str(next(iter(ids)))
    if exam is None:
        raise BadInput(
            f"{path}: holds {len(ids)} exams, expected one record; name one as {path}/EXAM_ID"
        )
    row = ids.get(int(exam)) if exam.isascii() and exam.isdecimal() and len(exam) < 19 else None
    if row is None:
        raise BadInput(f"{path}: no exam {exam[:40]!r}, it holds {len(ids)} others; check the id")
    return row, exam


def exam_ids(path: Path) -> dict[int, int]:
    """The ids of a file's exams in its order, each with its row; rows of id 0 hold no exam.

    Raises:
      BadInput: the file is damaged or none of CODE-15%, or an id is there twice.
    """
    status = path.stat()
    return _exam_ids(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _exam_ids(path: Path, modified_ns: int, size: int) -> dict[int, int]:
    with _opened(path) as file:
        ids = _dataset(path, file, "exam_id")
        tracings = _dataset(path, file, "tracings")
        if (
            ids.ndim != 1
            or ids.dtype.kind not in "iu"
            or not 0 < len(ids) <= _MAX_EXAMS
            or tracings.dtype.kind not in "fiu"
            or tracings.ndim != 3
            or len(tracings) != len(ids)
            or tracings.shape[2] != len(_LEADS)
            or not 0 < tracings.shape[1] <= _MAX_SAMPLES
        ):
            raise BadInput(
                f"{path}: exam_id is {ids.shape} and tracings {tracings.shape}, expected "
                "(exams,) of whole numbers and (exams, samples, 12) of numbers, as in CODE-15%"
            )
        known = ids[:].tolist()
    rows = {exam: row for row, exam in enumerate(known) if exam}
    if not rows or len(rows) != len(known) - known.count(0):
        raise BadInput(f"{path}: exam ids are missing or there twice, expected each once")
    return rows


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The HDF5 file; whatever its library says of damaged bytes is a BadInput."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except BadInput:
        raise
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split())[:80]
        raise BadInput(f"{path}: damaged or no HDF5 ({reason}); fetch it again") from None


def _dataset(path: Path, file: Any, name: str) -> Any:
    """A dataset that lies in this file and needs no more memory than it has a right to."""
    import h5py

    if name not in file or not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise BadInput(f"{path}: no dataset {name}, expected exam_id and tracings, as in CODE-15%")
    data = file[name]
    if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external:
        raise BadInput(f"{path}: {name} lies in other files, expected its numbers in this one")
    if data.chunks and np.prod(data.chunks, dtype=object) * data.dtype.itemsize > _MAX_CHUNK_BYTES:
        raise BadInput(f"{path}: {name} is in chunks of {data.chunks}, expected at most 128 MiB")
    return data
