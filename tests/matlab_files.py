"""MATLAB 5 files as CPSC 2018 has them, written by scipy, for tests of reading."""

from pathlib import Path

import numpy as np
import scipy.io

from wfdb_records import samples


def write_cpsc(
    path: Path, num_samples: int = 5000, compressed: bool = True, **other: object
) -> Path:
    """Write a structure ECG of sex, age, data; `other` fields replace these."""
    data = np.stack(list(samples(num_samples, 500.0).values())) / 1000.0
    ecg = {"sex": "Male", "age": 52, "data": data} | other
    scipy.io.savemat(path, {"ECG": ecg}, do_compression=compressed)
    return path
