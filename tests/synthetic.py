"""A twelve-lead ECG made of bells whose marks are known exactly; for tests."""

from __future__ import annotations

import math

import numpy as np

from data_prep.records import LEADS, Record
from data_prep.waves import FIDUCIALS, Waves

# Onset, peak and offset from the R peak in ms; a bell of that width ends at its marks.
P_MS = (-200.0, -155.0, -110.0)
QRS_MS = (-45.0, 0.0, 45.0)
T_MS = (150.0, 250.0, 330.0)
CHEST_R_MV = (0.2, 0.4, 0.8, 1.3, 1.4, 1.1)
CHEST_S_MV = (1.0, 1.3, 1.0, 0.6, 0.3, 0.1)
LIMB_FROM = {
    "I": (1.0, 0.0),
    "II": (0.5, 1.0),
    "III": (-0.5, 1.0),
    "aVR": (-0.75, -0.5),
    "aVL": (0.75, -0.5),
    "aVF": (0.0, 1.0),
}


def ecg(
    rate_bpm: float = 72.0,
    axis_deg: float = 45.0,
    t_mv: float = 0.3,
    with_p: bool = True,
    jitter_ms: float = 0.0,
    duration_s: float = 10.0,
    rate_hz: float = 500.0,
    seed: int = 0,
) -> tuple[Record, Waves]:
    """Returns a record and its marks, the same in every lead."""
    rng = np.random.default_rng(seed)
    rr_s = 60.0 / rate_bpm
    peaks_s = np.arange(0.5, duration_s - 0.5, rr_s)
    peaks_s = peaks_s + rng.uniform(-1, 1, peaks_s.size) * jitter_ms / 1000.0
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    p, r, s, t = (np.zeros_like(time_s) for _ in range(4))
    for peak_s in peaks_s:
        at_ms = (time_s - peak_s) * 1000.0
        p += _bell(at_ms, P_MS) * (0.12 if with_p else 0.0)
        r += _bell(at_ms, (-40.0, -5.0, 20.0))
        s += _bell(at_ms, (10.0, 25.0, 44.0))
        t += _bell(at_ms, T_MS) * t_mv
    angle = math.radians(axis_deg)
    limb = np.stack([np.cos(angle) * r, math.sqrt(3) / 2 * np.sin(angle) * r])
    smooth = np.stack([0.7 * (p + t), 0.7 * (p + t)])
    rows = [np.asarray(LIMB_FROM[lead]) @ (limb + smooth) for lead in LEADS[:6]]
    chest = zip(CHEST_R_MV, CHEST_S_MV, strict=True)
    rows += [r_mv * r - s_mv * s + 0.5 * p + t for r_mv, s_mv in chest]
    record = Record("synthetic", LEADS, np.stack(rows).astype(np.float32), rate_hz)
    return record, _marks(peaks_s, with_p, rate_hz)


def _marks(peaks_s: np.ndarray, with_p: bool, rate_hz: float) -> Waves:
    offsets_ms = np.array([*P_MS, *QRS_MS, *T_MS])
    samples = (peaks_s[:, None] + offsets_ms / 1000.0) * rate_hz
    if not with_p:
        samples[:, :3] = np.nan
    samples = np.broadcast_to(samples, (len(LEADS), *samples.shape)).copy()
    assert samples.shape[-1] == len(FIDUCIALS)
    return Waves(LEADS, rate_hz, samples)


def _bell(at_ms: np.ndarray, marks_ms: tuple[float, float, float]) -> np.ndarray:
    onset, peak, offset = marks_ms
    width = np.where(at_ms < peak, peak - onset, offset - peak)
    part = np.clip(np.abs(at_ms - peak) / width, 0.0, 1.0)
    return 0.5 * (1.0 + np.cos(math.pi * part))
