"""Marks of all waves by rules: beats on all leads together, then each wave lead by lead.

Axes: L leads, T samples, N beats; the last axis of marks is waves.FIDUCIALS.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from data_prep.beats import find_beats, qrs_bounds
from data_prep.conditioning import RATE_HZ, alive_leads, at_working_rate
from data_prep.p_and_t import find_p, find_t

MIN_DURATION_S = 0.8  # shorter, no outburst can be told from what surrounds it
PQ_MS = 16.0  # before QRS onset: the level that deflections are measured against
SNAP_MS = {1: 16.0, 7: 40.0}  # P and T peaks: how far the raw extremum may lie from the smooth one


def delineate(
    signal_mv: Float[np.ndarray, "L T"], sampling_rate_hz: float
) -> Float[np.ndarray, "L N 9"]:
    """Returns the marks of each beat as whole samples of `signal_mv`; NaN for what is not there."""
    num_leads, num_samples = signal_mv.shape
    nothing = np.empty((num_leads, 0, 9))
    alive = alive_leads(signal_mv)
    if num_samples < MIN_DURATION_S * sampling_rate_hz or not alive.any():
        return nothing
    x = at_working_rate(signal_mv[alive], sampling_rate_hz)
    beats = find_beats(x)
    if not len(beats):
        return nothing
    found = np.full((num_leads, len(beats), 9), np.nan)
    found[alive] = _joint_marks(x, beats) * (sampling_rate_hz / RATE_HZ)
    return _on_raw_signal(np.round(found), signal_mv, sampling_rate_hz)


def _joint_marks(
    x: Float[np.ndarray, "L T"], beats: Int[np.ndarray, " N"]
) -> Float[np.ndarray, "L N 9"]:
    """Returns the marks at the working rate; the QRS peak is only the middle of the beat."""
    onset, offset = qrs_bounds(x, beats)
    marks = np.empty((len(x), len(beats), 9))
    marks[..., 3], marks[..., 4], marks[..., 5] = onset[1:], beats, offset[1:]
    marks[..., 6:9] = find_t(x, onset[0], offset[0])
    marks[..., 0:3] = find_p(x, onset[0], np.median(marks[..., 8], axis=0))
    marks[..., 2] = np.minimum(marks[..., 2], marks[..., 3] - 1)  # a P may run up to its QRS
    return marks


def _on_raw_signal(
    marks: Float[np.ndarray, "L N 9"],
    signal_mv: Float[np.ndarray, "L T"],
    sampling_rate_hz: float,
) -> Float[np.ndarray, "L N 9"]:
    """Returns the marks with each peak on its lead's raw extremum; NaN where the lead has a gap."""
    pq = max(1, round(PQ_MS * sampling_rate_hz / 1000))
    last = signal_mv.shape[1] - 1
    for lead, beat in np.ndindex(marks.shape[:2]):
        row, mark = signal_mv[lead], marks[lead, beat]
        if not np.isfinite(mark[4]):
            continue
        a, b = np.clip(mark[[3, 5]], 0, last).astype(int).tolist()
        level = row[max(a - pq, 0) : a + 1].mean()
        mark[4] = _extremum(np.abs(row[a + 1 : b] - level), a + 1) if b > a + 1 else np.nan
        for peak, reach_ms in SNAP_MS.items():
            if np.isfinite(mark[peak]):
                reach = max(1, round(reach_ms * sampling_rate_hz / 1000))
                mark[peak] = _nearby_extremum(row, mark[peak - 1 : peak + 2], reach)
    return marks


def _extremum(height: Float[np.ndarray, " W"], first: int) -> float:
    """Returns the sample of the largest value; NaN if one is missing."""
    return first + float(height.argmax()) if np.isfinite(height).all() else np.nan


def _nearby_extremum(
    row: Float[np.ndarray, " T"], wave: Float[np.ndarray, " 3"], reach: int
) -> float:
    """Returns the wave's raw extremum near its peak; the peak itself on a slope without one."""
    first, peak, last = np.clip(wave, 0, len(row) - 1).astype(int).tolist()
    if not first < peak < last:
        return np.nan
    sign = 1.0 if row[peak] >= (row[first] + row[last]) / 2 else -1.0
    start = max(peak - reach, first)
    height = sign * row[start : min(peak + reach, last) + 1]
    at = _extremum(height, start)
    on_edge = at in (start, start + len(height) - 1)
    return float(peak) if on_edge and np.isfinite(at) else at
