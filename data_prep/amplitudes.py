"""Amplitudes of each beat within each lead, and the net area of its QRS.

They count from the beat's PQ level, the mean of the 16 ms before QRS onset; ST is 60 ms after the
J point.

Axes: L leads, T samples, N beats, W samples of a QRS.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from data_prep.waves import FIDUCIALS, Waves

PQ_MS = 16.0
ST_AFTER_J_MS = 60.0
# A deflection from this size on is a wave (CSE Working Party, Eur Heart J 6 (1985) 815).
MIN_WAVE_MV = 0.02


def amplitudes(
    signal: Float[np.ndarray, "L T"], waves: Waves
) -> dict[str, Float[np.ndarray, "L N"]]:
    """Returns the amplitudes and the net QRS area of each beat within each lead."""
    rate_hz = waves.sampling_rate_hz
    mark = dict(zip(FIDUCIALS, np.moveaxis(waves.samples, 2, 0), strict=True))
    onset, offset = mark["qrs_onset"], mark["qrs_offset"]
    level = pq_level(signal, onset, rate_hz)
    j_point = offset + ST_AFTER_J_MS * rate_hz / 1000
    return {
        "p_amp_mv": _at(signal, mark["p_peak"]) - level,
        "t_amp_mv": _at(signal, mark["t_peak"]) - level,
        "st_mv": _at(signal, j_point) - level,
    } | qrs_waves(signal, onset, offset, level, rate_hz)


def pq_level(
    signal: Float[np.ndarray, "L T"], onset: Float[np.ndarray, "L N"], rate_hz: float
) -> Float[np.ndarray, "L N"]:
    """Returns the mean of the 16 ms before each QRS onset, in mV; NaN where it is not all there."""
    pq = max(1, round(PQ_MS * rate_hz / 1000))
    return _at(signal, onset[..., None] + np.arange(-pq, 0)).mean(axis=-1)


def qrs_waves(
    signal: Float[np.ndarray, "L T"],
    onset: Float[np.ndarray, "L N"],
    offset: Float[np.ndarray, "L N"],
    level: Float[np.ndarray, "L N"],
    rate_hz: float,
) -> dict[str, Float[np.ndarray, "L N"]]:
    """Returns Q, R, S and the net area.

    R is the largest height; Q the deepest point before the complex first turns upright, S the
    deepest after that. A complex that never does (QS) is a Q.
    """
    length = offset - onset
    known = np.isfinite(length) & np.isfinite(level)
    width = int(np.ceil(length[known].max())) + 1 if known.any() else 1
    time = np.arange(width)
    inside = time <= np.where(known, length, -1.0)[..., None]
    height = _at(signal, onset[..., None] + time) - level[..., None]
    known &= ~(np.isnan(height) & inside).any(axis=-1)
    height = np.where(inside & known[..., None], height, 0.0)
    upright = np.logical_or.accumulate(height >= MIN_WAVE_MV, axis=-1)
    return {
        "q_amp_mv": _wave(np.where(upright, 0.0, height).min(axis=-1)),
        "r_amp_mv": _wave(height.max(axis=-1)),
        "s_amp_mv": _wave(np.where(upright, height, 0.0).min(axis=-1)),
        "qrs_area_mv_ms": np.where(known, height.sum(axis=-1) * 1000.0 / rate_hz, np.nan),
    }


def _wave(height_mv: Float[np.ndarray, "L N"]) -> Float[np.ndarray, "L N"]:
    return np.where(np.abs(height_mv) >= MIN_WAVE_MV, height_mv, np.nan)


def _at(
    signal: Float[np.ndarray, "L T"], samples: Float[np.ndarray, "L ..."]
) -> Float[np.ndarray, "L ..."]:
    """Returns the signal at the nearest whole samples; NaN outside and for NaN."""
    valid = (samples > -0.5) & (samples < signal.shape[1] - 0.5)
    index = np.where(valid, np.rint(np.nan_to_num(samples)), 0).astype(np.intp)
    lead = np.arange(len(signal)).reshape(-1, *[1] * (samples.ndim - 1))
    return np.where(valid, signal[lead, index].astype(np.float64), np.nan)
