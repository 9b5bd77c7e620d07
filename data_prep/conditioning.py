"""Leads made ready for the delineation network: without gaps or wander, at one rate, in frames.

Axes: L leads, T samples, U samples at the working rate, F frames, V values of a frame,
N centres of windows, W samples of a window.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

RATE_HZ = 500  # the working rate: 2 ms, the grid that cardiologists mark on
FRAME_STEP = 8  # samples from one frame to the next: 16 ms
FRAME_LENGTH = 32  # samples that a frame sees
MOMENT = 2  # samples that are of one class: 4 ms
WANDER_HZ = 0.4
# Above it a record of 100 Hz holds nothing: so the same ECG is seen alike at every rate.
HIGHEST_HZ, ROLL_OFF = 45.0, 0.6
OUTERMOST = (0.005, 0.995)  # of a lead's values: beyond lie artefacts
CLIP = 15.0  # of a lead's heights: beyond lie spikes that are no ECG


def samples_of(duration_ms: float) -> int:
    """Returns a duration in samples of the working rate."""
    return round(duration_ms * RATE_HZ / 1000)


def windows(
    x: Float[np.ndarray, "L U"], centres: Float[np.ndarray, " N"], first: int, last: int
) -> Float[np.ndarray, "L N W"]:
    """Returns samples `first` to `last` (exclusive) around each centre; edge samples repeat."""
    at = np.rint(centres).astype(int)[:, None] + np.arange(first, last)
    return x[:, np.clip(at, 0, x.shape[1] - 1)]


def alive_leads(signal_mv: Float[np.ndarray, "L T"]) -> Bool[np.ndarray, " L"]:
    """Returns which leads carry a signal: at least half of it is there, and it is not constant."""
    present = np.isfinite(signal_mv)
    some = np.sort(np.where(present[:, ::4], signal_mv[:, ::4], np.nan), axis=1)  # NaN last
    last = np.isfinite(some).sum(axis=1, keepdims=True) - 1
    ends = [np.take_along_axis(some, np.rint(q * last).astype(int), axis=1) for q in OUTERMOST]
    spread = np.where(present.mean(axis=1) >= 0.5, (ends[1] - ends[0])[:, 0], 0.0)
    return spread > max(1e-3 * float(spread.max()), 1e-9)


def bridged(signal_mv: Float[np.ndarray, "L T"]) -> Float[np.ndarray, "L T"]:
    """Returns the leads with straight lines over what is missing; zero where all of it is."""
    x = np.array(signal_mv, dtype=np.float64)
    for row, there in zip(x, np.isfinite(x), strict=True):
        if not there.any():
            row[:] = 0.0
        elif not there.all():
            row[~there] = np.interp(np.flatnonzero(~there), np.flatnonzero(there), row[there])
    return x


def at_working_rate(
    x: Float[np.ndarray, "L T"], sampling_rate_hz: float
) -> Float[np.ndarray, "L U"]:
    """Returns the leads at RATE_HZ, by cubic interpolation; x has no gaps."""
    if sampling_rate_hz == RATE_HZ:
        return x
    if sampling_rate_hz > RATE_HZ:  # what the working rate cannot hold
        x = ndimage.uniform_filter1d(x, round(sampling_rate_hz / RATE_HZ), axis=1)
    num_samples = round(x.shape[1] * RATE_HZ / sampling_rate_hz)
    at = np.arange(num_samples)[None] * (sampling_rate_hz / RATE_HZ)
    return np.stack([ndimage.map_coordinates(row, at, order=3, mode="nearest") for row in x])


def between(
    x: Float[np.ndarray, "L U"], lowest_hz: float = WANDER_HZ, highest_hz: float = HIGHEST_HZ
) -> Float[np.ndarray, "L U"]:
    """Returns the leads without what is slower (Butterworth, order 2, both ways) or faster (half a
    cosine, from ROLL_OFF of it on), mirrored at their ends.

    By its response in frequency: scipy.signal would take longer to import than a record to measure.

    Args:
        x: at the working rate.
        lowest_hz: where a quarter of the power passes; 0 keeps all.
        highest_hz: where nothing passes any more; infinite keeps all.
    """
    beyond = min(2 * RATE_HZ, x.shape[1] - 1)
    count = x.shape[1] + 2 * beyond
    hz = np.fft.rfftfreq(count, 1.0 / RATE_HZ)
    warped = np.tan(np.pi * np.maximum(hz, 1e-9) / RATE_HZ)
    slow = 1.0 / (1.0 + (np.tan(np.pi * lowest_hz / RATE_HZ) / warped) ** 4)
    into = (hz / highest_hz - ROLL_OFF) / (1.0 - ROLL_OFF)
    gain = slow * (0.5 + 0.5 * np.cos(np.pi * np.clip(into, 0.0, 1.0)))
    gain = gain.astype(np.float32)
    kept = np.empty(x.shape, np.float32)
    for row, out in zip(x, kept, strict=True):  # one at a time: a day of twelve is large
        mirrored = np.concatenate([row[beyond:0:-1], row, row[-2 : -beyond - 2 : -1]])
        offset = row.mean()  # without it single precision will do, at half the time
        spectrum = np.fft.rfft((mirrored - offset).astype(np.float32)) * gain
        out[:] = np.fft.irfft(spectrum, count)[beyond : count - beyond] + offset * gain[0]
    return kept


def frames(x: Float[np.ndarray, "L U"]) -> Float[np.ndarray, "L F V"]:
    """Returns overlapping stretches of each lead in units of its own height.

    The last column is that height against the leads' common one, as a logarithm, so that the
    network knows a faint lead. Frame f is centred on samples 8 f to 8 f + 7.

    Args:
        x: of `between`, a multiple of FRAME_STEP long.
    """
    own = heights(x)
    common = np.sqrt(np.mean(own**2)) + 1e-9
    beside = (FRAME_LENGTH - FRAME_STEP) // 2
    scaled = np.clip(x / np.maximum(own, 0.05 * common), -CLIP, CLIP).astype(np.float32)
    padded = np.pad(scaled, ((0, 0), (beside, beside)), mode="edge")
    seen = np.lib.stride_tricks.sliding_window_view(padded, FRAME_LENGTH, axis=1)[:, ::FRAME_STEP]
    size = np.log(np.maximum(own, 1e-3 * common) / common).astype(np.float32)
    return np.concatenate([seen, np.broadcast_to(size[:, None], (*seen.shape[:2], 1))], axis=2)


def heights(x: Float[np.ndarray, "L U"]) -> Float[np.ndarray, "L 1"]:
    """Returns a quarter of the height that most seconds of a lead reach.

    A second with an artefact does not count, nor do slow rhythms' seconds without a beat.
    """
    seconds = max(x.shape[1] // RATE_HZ, 1)
    top = np.abs(x[:, : seconds * RATE_HZ]).reshape(len(x), seconds, -1).max(axis=2)
    return 0.25 * np.sort(top, axis=1)[:, [round(0.7 * (seconds - 1))]]
