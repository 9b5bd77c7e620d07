"""The same ECG measured at 500 and at 100 Hz: the same beats, and intervals within one sample."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from data_prep.measure import measure
from data_prep.measurement import Measurement
from data_prep.records import Record, find, read

SAMPLE = Path(__file__).parents[1] / "data_prep" / "sample" / "ptbxl"
RECORDS = sorted(find([SAMPLE]))[::3]
INTERVALS = ("p_ms", "pr_ms", "qrs_ms", "qt_ms")


def at_100_hz(record: Record) -> Record:
    """Returns the record as PTB-XL publishes it at 100 Hz: by its Fourier series, cut at 45 Hz."""
    spectrum = np.fft.rfft(record.signal_mv.astype(np.float64), axis=1)
    count = record.signal_mv.shape[1] // 5
    kept = spectrum[:, : count // 2 + 1].copy()
    kept[:, round(45 * record.duration_s) :] = 0.0
    signal_mv = np.round(np.fft.irfft(kept, count, axis=1) / 5, 3).astype(np.float32)
    return dataclasses.replace(record, signal_mv=signal_mv, sampling_rate_hz=100.0)


def apart(fine: Measurement, coarse: Measurement) -> list[str]:
    """Returns which quantities of two measurements differ by more than rates allow."""
    rate_bpm = [one.summary["heart_rate_bpm"] for one in (fine, coarse)]
    out = ["heart_rate_bpm"] if abs(rate_bpm[0] - rate_bpm[1]) > 1.0 else []
    for key in INTERVALS:
        ms = [one.summary[key] for one in (fine, coarse)]
        if (ms[0] is None) != (ms[1] is None) or (None not in ms and abs(ms[0] - ms[1]) > 10.0):
            out.append(f"{key} {ms[0]} at 500 Hz, {ms[1]} at 100 Hz")
    return out


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name)
def test_a_record_measures_the_same_at_a_fifth_of_its_rate(path: Path) -> None:
    record = read(path)
    assert apart(measure(record), measure(at_100_hz(record))) == []


def test_another_record_does_not() -> None:
    one, other = (read(SAMPLE / name) for name in ("00002", "00017"))
    assert apart(measure(one), measure(at_100_hz(other)))
