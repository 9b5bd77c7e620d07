"""CPSC 2018: a MATLAB file with the structure ECG of sex, age and data, 12 leads at 500 Hz.

http://2018.icbeb.org/Challenge.html: leads in the usual order, in mV.
"""

from pathlib import Path
from typing import Any

import numpy as np

from data_prep.readers.assemble import assemble
from data_prep.readers.matlab import read_variable
from data_prep.records import LEADS, BadInput, Reading, Record

RATE_HZ = 500.0


def read(path: Path, name: str, reading: Reading) -> Record:
    """The Record in a file of CPSC 2018, called `name`.

    Raises:
      BadInput: it is no such file, damaged, or too large.
    """
    ecg = read_variable(path, "ECG")
    data = ecg.get("data") if isinstance(ecg, dict) else None
    if (
        not isinstance(ecg, dict)
        or not isinstance(data, np.ndarray)
        or data.ndim != 2
        or len(data) != len(LEADS)
    ):
        got = "x".join(map(str, data.shape)) if isinstance(data, np.ndarray) else "no numbers"
        raise BadInput(
            f"{path}: ECG.data is {got}, expected {len(LEADS)} leads x samples, as in CPSC 2018"
        )
    if not data.shape[1]:
        raise BadInput(f"{path}: ECG.data holds no sample, expected at least one")
    with np.errstate(over="ignore", invalid="ignore"):  # the check of voltages says it
        signal_mv = data.astype(np.float32)
    return assemble(name, LEADS, signal_mv, RATE_HZ, meta=_meta(ecg))


def _meta(ecg: dict[str, Any]) -> dict[str, Any]:
    meta: dict[str, Any] = {}
    if isinstance(sex := ecg.get("sex"), str):
        meta["sex"] = {"m": "M", "f": "F"}.get(sex[:1].lower())
    age = ecg.get("age")
    if isinstance(age, np.ndarray) and age.size == 1 and 0 <= float(age.flat[0]) <= 150:
        meta["age"] = float(age.flat[0])
    return meta
