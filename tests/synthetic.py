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
SHAPE = 0.7  # between a half sine, 0.5, and a raised cosine, 1: its bounds can be seen
ECTOPIC_QRS_MS = (-70.0, 0.0, 70.0)
P_MV = 0.12
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
    noise_mv: float = 0.0,
    early: tuple[int, ...] = (),
) -> tuple[Record, Waves]:
    """Returns a record and its marks, the same in every lead.

    Up to 85 bpm P and T lie as P_MS and T_MS say, at higher rates nearer to their QRS.

    Args:
        rate_bpm: of the beats.
        axis_deg: of the QRS.
        t_mv: height of T.
        with_p: P waves, or none.
        jitter_ms: the most that a beat comes early or late.
        duration_s: of the record.
        rate_hz: samples a second.
        seed: of jitter and noise.
        noise_mv: standard deviation of white noise.
        early: beats that are ectopic: a third of RR early, without P, wide and upside down.
    """
    rng = np.random.default_rng(seed)
    rr_s = 60.0 / rate_bpm
    p_ms, t_ms = p_and_t_ms(rate_bpm)
    peaks_s = np.arange(0.5, duration_s - 0.5, rr_s)
    peaks_s = peaks_s + rng.uniform(-1, 1, peaks_s.size) * jitter_ms / 1000.0
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    p, r, s, t = (np.zeros_like(time_s) for _ in range(4))
    peaks_s[list(early)] -= rr_s / 3
    for beat, peak_s in enumerate(peaks_s):
        at_ms = (time_s - peak_s) * 1000.0
        t += _bell(at_ms, t_ms) * t_mv
        if beat in early:
            r -= _bell(at_ms, ECTOPIC_QRS_MS)
            s -= _bell(at_ms, ECTOPIC_QRS_MS)
            continue
        p += _bell(at_ms, p_ms) * (P_MV if with_p else 0.0)
        r += _bell(at_ms, (QRS_MS[0], -5.0, 20.0))
        s += _bell(at_ms, (10.0, 25.0, QRS_MS[2]))
    angle = math.radians(axis_deg)
    limb = np.stack([np.cos(angle) * r, math.sqrt(3) / 2 * np.sin(angle) * r])
    smooth = np.stack([0.7 * (p + t), 0.7 * (p + t)])
    rows = [np.asarray(LIMB_FROM[lead]) @ (limb + smooth) for lead in LEADS[:6]]
    chest = zip(CHEST_R_MV, CHEST_S_MV, strict=True)
    rows += [r_mv * r - s_mv * s + 0.5 * p + t for r_mv, s_mv in chest]
    signal = np.stack(rows)
    signal += noise_mv * rng.normal(size=signal.shape)
    record = Record("synthetic", LEADS, signal.astype(np.float32), rate_hz)
    marks_ms = np.tile([*p_ms, *QRS_MS, *t_ms], (len(peaks_s), 1))
    marks_ms[list(early), 3:6] = ECTOPIC_QRS_MS
    marks_ms[list(early), :3] = np.nan
    if not with_p:
        marks_ms[:, :3] = np.nan
    return record, _marks(peaks_s, marks_ms, rate_hz)


def p_and_t_ms(rate_bpm: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the marks of P and T at a rate: what is left of PQ and ST is 20 ms or more."""
    nearer = min(1.0, 60.0 / rate_bpm / 0.7)
    pq_ms = QRS_MS[0] - 20.0
    p_ms = tuple(pq_ms + nearer * (at - pq_ms) for at in P_MS)
    return p_ms, tuple(nearer * at for at in T_MS)


def _marks(peaks_s: np.ndarray, marks_ms: np.ndarray, rate_hz: float) -> Waves:
    samples = (peaks_s[:, None] + marks_ms / 1000.0) * rate_hz
    samples = np.broadcast_to(samples, (len(LEADS), *samples.shape)).copy()
    assert samples.shape[-1] == len(FIDUCIALS)
    return Waves(LEADS, rate_hz, samples)


def _bell(at_ms: np.ndarray, marks_ms: tuple[float, ...]) -> np.ndarray:
    onset, peak, offset = marks_ms
    width = np.where(at_ms < peak, peak - onset, offset - peak)
    part = np.clip(np.abs(at_ms - peak) / width, 0.0, 1.0)
    return (0.5 * (1.0 + np.cos(math.pi * part))) ** SHAPE
