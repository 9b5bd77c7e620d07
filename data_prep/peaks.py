"""Peaks of waves between known bounds, on the raw signal of each lead.

Axes: L leads, T samples, N beats, W samples of a window, counted from a wave's onset.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from data_prep.amplitudes import PQ_MS
from data_prep.nan_median import nan_median

SMOOTH_MS = 24.0
SPIKE_MS, SPIKY = 4.0, 1.7  # a pacemaker spike: half its width, and how far it stands out
# How far the raw extremum of P and T may lie from the smooth one.
SNAP_MS = {"p": 16.0, "t": 40.0}


def qrs_peak(
    signal: Float[np.ndarray, "L T"], bounds: Float[np.ndarray, "L N 2"], rate_hz: float
) -> Float[np.ndarray, "L N"]:
    """Returns the sample of the largest deflection from the PQ level, either way, inside QRS.

    NaN where there is no QRS, or a sample of it is missing.
    """
    before = max(1, round(PQ_MS * rate_hz / 1000))
    first = _first(bounds)
    level = _values(signal, first - before, before + 1).mean(axis=-1)
    if (first < before).any():  # a QRS at the start has no PQ level
        level = np.where(first >= before, level, nan_median(signal, axis=1)[:, None])
    level = level[..., None]
    window, inside = _window(signal, bounds)
    height = np.where(inside, np.abs(window - level), -1.0)
    reach = max(1, round(SPIKE_MS * rate_hz / 1000))
    top = height.argmax(axis=-1)[..., None]
    beside = np.clip(top + np.array([-reach, reach]), 0, height.shape[-1] - 1)
    least = np.take_along_axis(height, beside, -1).max(axis=-1)
    spike = np.take_along_axis(height, top, -1)[..., 0] > SPIKY * least
    height[spike] = _without_spikes(height[spike], reach)
    return _at(first, height, bounds, window)


def _without_spikes(height: Float[np.ndarray, "K W"], reach: int) -> Float[np.ndarray, "K W"]:
    """Returns the median of each sample and those up to `reach` before and after it."""
    padded = np.pad(height, ((0, 0), (reach, reach)), mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=-1)
    return np.median(around, axis=-1)


def smoothed(whole: Float[np.ndarray, "L T"], rate_hz: float) -> Float[np.ndarray, "L T"]:
    """Returns the leads, which have no gaps, as means over SMOOTH_MS: for `wave_peak`."""
    return ndimage.uniform_filter1d(whole, max(1, round(SMOOTH_MS * rate_hz / 1000)), axis=1)


def wave_peak(
    signal: Float[np.ndarray, "L T"],
    smooth: Float[np.ndarray, "L T"],
    bounds: Float[np.ndarray, "L N 2"],
    rate_hz: float,
    wave: str,
) -> Float[np.ndarray, "L N"]:
    """Returns the sample of the raw extremum next to where the smooth lead is farthest from the
    chord between the wave's bounds; on a slope without an extremum, the latter.

    NaN where there is no such wave, or a sample of it is missing.

    Args:
        signal: NaN where a sample is missing.
        smooth: the same with gaps bridged, `smoothed`.
        bounds: onset and offset, whole samples.
        rate_hz: of the signal.
        wave: "p" or "t".
    """
    course, inside = _window(smooth, bounds)
    first = _first(bounds)
    time = np.arange(course.shape[-1])
    length = np.maximum(np.nan_to_num(bounds[..., 1]) - first, 1.0)[..., None]
    chord = np.take_along_axis(course, np.stack([0 * first, length[..., 0].astype(int)], -1), -1)
    above = course - chord[..., :1] - np.diff(chord) * time / length
    near = np.where(inside, np.abs(above), -1.0).argmax(axis=-1)[..., None]
    sign = np.where(np.take_along_axis(above, near, axis=-1) < 0, -1.0, 1.0)
    raw, _ = _window(signal, bounds)
    reach = max(1, round(SNAP_MS[wave] * rate_hz / 1000))
    close = inside & (np.abs(time - near) <= reach)
    height = np.where(close, sign * np.nan_to_num(raw), -np.inf)
    extremum = height.argmax(axis=-1)[..., None]
    on_edge = ~np.take_along_axis(close, np.maximum(extremum - 1, 0), axis=-1)
    on_edge |= ~np.take_along_axis(close, np.minimum(extremum + 1, len(time) - 1), axis=-1)
    chosen = np.where(on_edge, near, extremum)
    return _at(first, (time == chosen).astype(float), bounds, raw)


def _at(
    first: Int[np.ndarray, "L N"],
    height: Float[np.ndarray, "L N W"],
    bounds: Float[np.ndarray, "L N 2"],
    window: Float[np.ndarray, "L N W"],
) -> Float[np.ndarray, "L N"]:
    """Returns the sample of the largest height; NaN without two bounds, room, and all samples."""
    length = bounds[..., 1] - bounds[..., 0]
    time = np.arange(window.shape[-1])
    gap = (np.isnan(window) & (time <= length[..., None])).any(axis=-1)
    return np.where((length >= 2) & ~gap, first + height.argmax(axis=-1), np.nan)


def _window(
    signal: Float[np.ndarray, "L T"], bounds: Float[np.ndarray, "L N 2"]
) -> tuple[Float[np.ndarray, "L N W"], Bool[np.ndarray, "L N W"]]:
    """Returns the samples from each onset on, and which lie between onset and offset."""
    length = np.nan_to_num(bounds[..., 1] - bounds[..., 0])
    width = max(3, int(length.max(initial=0.0)) + 1)
    time = np.arange(width)
    return _values(signal, _first(bounds), width), (time > 0) & (time < length[..., None])


def _first(bounds: Float[np.ndarray, "L N 2"]) -> Int[np.ndarray, "L N"]:
    return np.nan_to_num(bounds[..., 0]).astype(int)


def _values(
    signal: Float[np.ndarray, "L T"], first: Int[np.ndarray, "L N"], width: int
) -> Float[np.ndarray, "L N W"]:
    at = np.clip(first[..., None] + np.arange(width), 0, signal.shape[1] - 1)
    return signal[np.arange(len(signal))[:, None, None], at]
