"""Marks of all waves by the trained network, each peak on the raw signal of its lead.

Axes: L leads, T samples, N beats; the last axis of marks is waves.FIDUCIALS.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from data_prep import network
from data_prep.conditioning import (
    FRAME_STEP,
    RATE_HZ,
    alive_leads,
    at_working_rate,
    between,
    bridged,
    frames,
)
from data_prep.decode import decode
from data_prep.edges import level_edges
from data_prep.jumps import onset_at_jump
from data_prep.likeness import ALIKE, likeness
from data_prep.nan_median import nan_median
from data_prep.pacing import pacing_spikes, without_spikes
from data_prep.peaks import qrs_peak, smoothed, wave_peak

EDGE_MS = 4.0  # a wave whose bound is nearer to the record's end goes on beyond it
SHARP_HZ = 200.0  # at lower rates a trace rings beside QRS, by the filter before its sampling
SHORT_GAP_MS = 12.0
HUM = 10  # samples at the working rate: a period of 50 Hz
MIN_DURATION_S = 0.8  # shorter, no wave can be told from what surrounds it


def delineate(
    signal_mv: Float[np.ndarray, "L T"],
    sampling_rate_hz: float,
    params: network.Params | None = None,
) -> Float[np.ndarray, "L N 9"]:
    """Returns the marks of each beat as whole samples of `signal_mv`; NaN for what is not there.

    Args:
        signal_mv: NaN where a sample is missing.
        sampling_rate_hz: of the signal.
        params: of the network; those that come with the package if None.
    """
    num_leads, num_samples = signal_mv.shape
    there = np.flatnonzero(np.isfinite(signal_mv).any(axis=0))
    if len(there) and there[-1] - there[0] + 1 < num_samples:  # nothing before, or nothing after
        inside = signal_mv[:, there[0] : there[-1] + 1]
        return delineate(inside, sampling_rate_hz, params) + there[0]
    alive = alive_leads(signal_mv)
    if num_samples < MIN_DURATION_S * sampling_rate_hz or not alive.any():
        return np.empty((num_leads, 0, 9))
    whole = bridged(signal_mv[alive])
    x = at_working_rate(whole, sampling_rate_hz)
    clean = without_spikes(x, pacing_spikes(x, RATE_HZ), RATE_HZ)
    steady = between(clean)
    found = network.probabilities(params or network.weights(), frames(_padded(steady)))
    bounds = decode(*found)
    # Hum and muscle noise are not alike from beat to beat; what is slower tells.
    if likeness(ndimage.uniform_filter1d(steady, HUM, axis=1), _middles(bounds)) < ALIKE:
        return np.empty((num_leads, 0, 9))
    if sampling_rate_hz >= SHARP_HZ:
        bounds = level_edges(clean, onset_at_jump(x, bounds))
    bounds = np.round(bounds * (sampling_rate_hz / RATE_HZ))
    marks = np.full((num_leads, bounds.shape[1], 3, 3), np.nan)
    marks[alive] = _with_peaks(signal_mv[alive], whole, bounds, sampling_rate_hz)
    seen = np.isfinite(marks).any(axis=(0, 2, 3))
    return marks[:, seen].reshape(num_leads, -1, 9)


def _middles(bounds: Float[np.ndarray, "L N 3 2"]) -> Float[np.ndarray, " K"]:
    """Returns the middle of each QRS, the median of the leads that show it."""
    middle = bounds[:, :, 1].mean(axis=-1)
    shown = np.isfinite(middle).any(axis=0)
    return nan_median(middle[:, shown], axis=0)


def _with_peaks(
    signal_mv: Float[np.ndarray, "L T"],
    whole: Float[np.ndarray, "L T"],
    bounds: Float[np.ndarray, "L N 3 2"],
    rate_hz: float,
) -> Float[np.ndarray, "L N 3 3"]:
    """Returns the marks with their peaks.

    What the record's ends cut has no bound there; of P and T nothing is left then.
    """
    signal_mv = _without_short_gaps(signal_mv, whole, rate_hz)
    last = signal_mv.shape[1] - 1
    margin = EDGE_MS * rate_hz / 1000
    cut = np.stack([bounds[..., 0] < margin, bounds[..., 1] > last - margin], axis=-1)
    p, qrs, t = np.moveaxis(np.clip(bounds, 0, last), 2, 0)
    smooth = smoothed(whole, rate_hz)
    peaks = (
        wave_peak(signal_mv, smooth, p, rate_hz, "p"),
        qrs_peak(signal_mv, qrs, rate_hz),
        wave_peak(signal_mv, smooth, t, rate_hz, "t"),
    )
    bounds = np.where(cut, np.nan, bounds)
    marks = np.stack([bounds[..., 0], np.stack(peaks, axis=-1), bounds[..., 1]], axis=-1)
    incomplete = cut.any(axis=-1) & np.array([True, False, True])
    marks[incomplete] = np.nan
    return marks


def _without_short_gaps(
    signal_mv: Float[np.ndarray, "L T"], whole: Float[np.ndarray, "L T"], rate_hz: float
) -> Float[np.ndarray, "L T"]:
    """Returns the leads bridged where so little is missing that a wave still has its peak."""
    missing = np.isnan(signal_mv)
    if not missing.any():
        return signal_mv
    longer = np.ones((1, max(1, round(SHORT_GAP_MS * rate_hz / 1000)) + 1))
    return np.where(ndimage.binary_opening(missing, longer), np.nan, whole)


def _padded(x: Float[np.ndarray, "L U"]) -> Float[np.ndarray, "L V"]:
    """Returns the leads lengthened by their last value to what the network halves to the end."""
    step = FRAME_STEP * 2 ** (network.JOINT_DEPTH - 1)
    return np.pad(x, ((0, 0), (0, -x.shape[1] % step)), mode="edge")
