"""How much of each lead is noise, mains hum or baseline wander, and where it is cut off or flat.

Axes: L leads, T samples, W samples of a stretch, M mains frequencies, C columns.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

MAINS_HZ = (50.0, 60.0)
BLOCK_S = 0.5  # of baseline wander: a block's middle value is nearly free of QRS
MIN_S = 1.0  # shorter, hum and wander cannot be told from waves
STRETCH_S = 10.0  # of hum: the mains frequency wanders, and over minutes a tone fits it no more


def white_noise(x: Float[np.ndarray, "L T"]) -> Float[np.ndarray, " L"]:
    """Returns the standard deviation of white noise, by the median third difference of fours."""
    whole = x[:, : x.shape[1] // 4 * 4]
    if not whole.shape[1]:
        return np.zeros(len(x))
    first, second, third, fourth = (whole[:, i::4] for i in range(4))
    return _median(np.abs(fourth - first - 3 * (third - second))) / 0.6745 / np.sqrt(20.0)


def hum(x: Float[np.ndarray, "L T"], rate_hz: float) -> dict[float, Float[np.ndarray, " L"]]:
    """Returns the amplitude at each mains frequency above that 3 Hz to its either side.

    The mean over stretches of the record. Nothing for a rate that cannot hold it. A missing sample
    counts as its neighbour.
    """
    held = tuple(mains_hz for mains_hz in MAINS_HZ if mains_hz + 4 < rate_hz / 2)
    if x.shape[1] < MIN_S * rate_hz or not held:
        return {}
    stretches = max(1, int(x.shape[1] / (STRETCH_S * rate_hz)))
    size = x.shape[1] // stretches
    above = np.mean(
        [_above(x[:, i * size : (i + 1) * size], held, rate_hz) for i in range(stretches)], axis=0
    )
    return {mains_hz: np.maximum(above[:, i], 0.0) for i, mains_hz in enumerate(held)}


def _above(
    x: Float[np.ndarray, "L W"], mains_hz: tuple[float, ...], rate_hz: float
) -> Float[np.ndarray, "L M"]:
    """Returns by how much the amplitude at each mains frequency exceeds those beside it."""
    step = np.nan_to_num(np.diff(x, axis=1), copy=False)  # no baseline, no slow waves
    parts = (step @ _tones(mains_hz, step.shape[1], rate_hz)).reshape(len(x), 2, len(mains_hz), 3)
    size = np.hypot(parts[:, 0], parts[:, 1])
    return size[..., 0] - size[..., 1:].max(axis=-1)


@lru_cache(maxsize=8)
def _tones(
    mains_hz: tuple[float, ...], num_samples: int, rate_hz: float
) -> Float[np.ndarray, "W C"]:
    """Returns cosines and sines, for steps of a signal: at each frequency and 3 Hz beside it."""
    tones_hz = (np.array(mains_hz)[:, None] + [0.0, -3.0, 3.0]).ravel()
    angle = 2 * np.pi * tones_hz / rate_hz * np.arange(num_samples)[:, None]
    taper = np.hanning(num_samples)[:, None]
    scale = taper / (taper.sum() / 2) / (2 * np.sin(np.pi * tones_hz / rate_hz))
    return np.hstack([np.cos(angle) * scale, np.sin(angle) * scale]).astype(np.float32)


def wander(x: Float[np.ndarray, "L T"], rate_hz: float) -> Float[np.ndarray, " L"]:
    """Returns the range of the baseline: of the middle values of half-second blocks."""
    size = round(BLOCK_S * rate_hz)
    count = x.shape[1] // max(size, 1)
    if not size or x.shape[1] < MIN_S * rate_hz:
        return np.zeros(len(x))
    blocks = x[:, : count * size].reshape(len(x), count, size)
    middle = _median(blocks[..., ::4])  # as good, and quick
    return np.fmax.reduce(middle, axis=1) - np.fmin.reduce(middle, axis=1)


def longest_flat(x: Float[np.ndarray, "L T"], least: int) -> Int[np.ndarray, " L"]:
    """Returns the most samples on end of one value, 0 where fewer than `least`."""
    longest = np.zeros(len(x), int)
    some = x[:, :: max(least // 4, 1)]
    same = some[:, 1:] == some[:, :-1]
    three = same[:, 2:] & same[:, 1:-1] & same[:, :-2]  # of which a long stretch holds one
    for i in np.flatnonzero(three.any(axis=1)):
        longest[i] = _runs(np.diff(x[i]) == 0).max(initial=0) + 1
    return np.where(longest >= least, longest, 0)


def cut_off(x: Float[np.ndarray, "L T"], least: int) -> Int[np.ndarray, " L"]:
    """Returns for each lead how often it stays at its greatest or least value for `least` samples.

    Rounded waves rest at their top for a while too, but seldom all at the same height; a baseline
    without noise rests too, but it lies by the lead's middle value.
    """
    found = np.zeros(len(x), int)
    top, bottom, middle = np.fmax.reduce(x, axis=1), np.fmin.reduce(x, axis=1), _median(x[:, ::8])
    for end in (top, bottom):
        far = np.abs(end - middle) > 0.25 * (top - bottom)
        there = (x == end[:, None]) & far[:, None]
        for i in np.flatnonzero(there.sum(axis=1) >= least):
            found[i] = max(found[i], int((_runs(there[i]) >= least).sum()))
    return found


def _runs(true: np.ndarray) -> Int[np.ndarray, " K"]:
    """Returns the lengths of the stretches that are true."""
    edges = np.flatnonzero(np.diff(true.astype(np.int8), prepend=0, append=0))
    return edges[1::2] - edges[::2]


def _median(values: np.ndarray) -> np.ndarray:
    """Returns the median over the last axis of what is not missing."""
    if not np.isnan(values).any():
        middle = values.shape[-1] // 2
        return np.partition(values, middle, axis=-1)[..., middle]
    ordered = np.sort(values, axis=-1)  # NaN last
    last = np.isfinite(values).sum(axis=-1, keepdims=True) - 1
    return np.take_along_axis(ordered, np.maximum(last, 0) // 2, axis=-1)[..., 0]
