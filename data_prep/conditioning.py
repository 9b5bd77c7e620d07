"""Leads made ready for wave finding: without gaps, at one working rate, filtered, cut into windows.

Axes: L leads, T samples, N beats, W samples of a window.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy import ndimage, signal

RATE_HZ = 500  # the working rate: 2 ms, the grid that cardiologists mark on


def samples_of(duration_ms: int) -> int:
    """Returns a duration in samples of the working rate."""
    return round(duration_ms * RATE_HZ / 1000)


def alive_leads(signal_mv: Float[np.ndarray, "L T"]) -> Bool[np.ndarray, " L"]:
    """Returns which leads carry a signal: at least half of it is there, and it is not constant."""
    present = np.isfinite(signal_mv)
    spread = np.zeros(len(signal_mv))
    for i, (row, there) in enumerate(zip(signal_mv, present, strict=True)):
        if there.mean() >= 0.5:
            spread[i] = np.subtract(*np.percentile(row[there], [99.5, 0.5]))
    return spread > max(1e-3 * float(spread.max()), 1e-9)


def at_working_rate(
    signal_mv: Float[np.ndarray, "L T"], sampling_rate_hz: float
) -> Float[np.ndarray, "L U"]:
    """Returns the leads at RATE_HZ (cubic), gaps bridged by lines, the median taken off each."""
    x = np.array(signal_mv, dtype=np.float64)
    time = np.arange(x.shape[1])
    for row in x:
        there = np.isfinite(row)
        if not there.all():
            row[:] = np.interp(time, time[there], row[there])
    x -= np.median(x, axis=1, keepdims=True)
    if sampling_rate_hz == RATE_HZ:
        return x
    if sampling_rate_hz > RATE_HZ:  # what the working rate cannot hold
        x = ndimage.uniform_filter1d(x, round(sampling_rate_hz / RATE_HZ), axis=1)
    num_samples = round(x.shape[1] * RATE_HZ / sampling_rate_hz)
    at = np.arange(num_samples)[None] * (sampling_rate_hz / RATE_HZ)
    return np.stack([ndimage.map_coordinates(row, at, order=3, mode="nearest") for row in x])


def filtered(
    x: Float[np.ndarray, "L T"], cutoff_hz: float | tuple[float, float]
) -> Float[np.ndarray, "L T"]:
    """Returns the leads below one frequency or between two (Butterworth, order 2, both ways)."""
    kind = "bandpass" if isinstance(cutoff_hz, tuple) else "lowpass"
    sections = signal.butter(2, cutoff_hz, kind, fs=RATE_HZ, output="sos")
    return signal.sosfiltfilt(sections, x, axis=-1)


def windows(
    x: Shaped[np.ndarray, "*L T"], centres: Shaped[np.ndarray, " N"], first: int, last: int
) -> Shaped[np.ndarray, "*L N W"]:
    """Returns samples `first` to `last` (exclusive) around each centre; edge samples repeat."""
    at = np.asarray(centres, dtype=int)[:, None] + np.arange(first, last)
    return x[..., np.clip(at, 0, x.shape[-1] - 1)]
