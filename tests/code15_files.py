"""HDF5 files as CODE-15% has them, for tests of reading."""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from wfdb_records import samples

SAMPLES = 4096


def tracing(num_samples: int = 4000) -> np.ndarray:
    """An exam (4096, 12) in mV at 400 Hz, in the middle between zeros."""
    leads = np.stack(list(samples(num_samples, 400.0).values()), axis=1) / 1000
    whole = np.zeros((SAMPLES, 12), np.float32)
    start = (SAMPLES - num_samples) // 2
    whole[start : start + num_samples] = leads + 0.001
    return whole


def write_code15(path: Path, exams: Mapping[int, np.ndarray], **storage: object) -> Path:
    """Write exams by id."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("exam_id", data=np.array(list(exams), np.int64))
        file.create_dataset("tracings", data=np.stack(list(exams.values())), **storage)
    return path
