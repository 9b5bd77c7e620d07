"""Beats and the bounds of their QRS, found once on all leads together.

Axes: L leads, T samples (at the working rate), N beats.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage, signal

from data_prep.conditioning import RATE_HZ, filtered, samples_of, windows

# Shares of a beat's top velocity that bound its QRS, tuned on 120 records of LUDB: among them are
# the sample's held-out ones, so our accuracy on these is no held-out figure.
ONSET_SHARE, OFFSET_SHARE = 0.025, 0.045
LEAD_REACH_MS = 12  # from a joint bound to a lead's own
HEIGHT_SHARE = (
    0.4  # of the record's typical outburst: flutter waves stay below, extrasystoles above
)
OUTBURST = 2.8  # over the median energy; LUDB's records have >= 3.9, noise <= 2.4


def find_beats(x: Float[np.ndarray, "L T"]) -> Int[np.ndarray, " N"]:
    """Returns the middle sample of each QRS: the outbursts of QRS-band energy; none in noise."""
    energy = qrs_energy(x)
    highest = ndimage.maximum_filter1d(energy, 2 * RATE_HZ)[:: RATE_HZ // 2]
    typical = float(np.median(highest))
    if typical < OUTBURST * np.median(energy):
        return np.empty(0, dtype=int)
    peaks, found = signal.find_peaks(
        energy, height=HEIGHT_SHARE * typical, distance=samples_of(220)
    )
    height = found["peak_heights"]
    near = np.abs(peaks[:, None] - peaks) < samples_of(380)  # as far as a T from its taller QRS
    tall = height >= 0.5 * np.where(near, height, 0).max(axis=1, initial=0)
    whole = (peaks >= samples_of(40)) & (peaks < x.shape[1] - samples_of(40))  # no half QRS
    return peaks[tall & whole]


def qrs_energy(x: Float[np.ndarray, "L T"]) -> Float[np.ndarray, " T"]:
    """Returns the mean 8-30 Hz amplitude over leads, each lead in units of its own large values."""
    band = filtered(x, (8.0, 30.0))
    band /= np.percentile(np.abs(band), 98, axis=1, keepdims=True) + 1e-12
    power = np.minimum(band**2, 9.0).mean(axis=0)  # a lead's spike must not outvote the others
    smooth = ndimage.uniform_filter1d(power, samples_of(80))
    return np.sqrt(np.maximum(smooth, 0.0))  # its running sum may end below zero


def qrs_bounds(
    x: Float[np.ndarray, "L T"], beats: Int[np.ndarray, " N"]
) -> tuple[Int[np.ndarray, "K N"], Int[np.ndarray, "K N"]]:
    """Returns onset and offset of each QRS: in row 0 of all leads together, then of each lead.

    The joint ones lie where the spatial velocity, the length of the leads' joint derivative, leaves
    and reaches its quiet level around the beat; a lead's own, by its own velocity, near those.
    """
    slope = np.gradient(filtered(x, 45.0), axis=1)
    slope = np.concatenate([np.sqrt((slope**2).sum(axis=0, keepdims=True)), np.abs(slope)])
    velocity = ndimage.uniform_filter1d(slope, samples_of(8), axis=1)
    onset, offset = _bounds(velocity, beats)
    reach = samples_of(LEAD_REACH_MS)
    onset = np.clip(onset, onset[:1] - reach, onset[:1] + reach)
    offset = np.clip(offset, offset[:1] - reach, offset[:1] + reach)
    return onset, offset


def _bounds(
    velocity: Float[np.ndarray, "K T"], beats: Int[np.ndarray, " N"]
) -> tuple[Int[np.ndarray, "K N"], Int[np.ndarray, "K N"]]:
    """Returns where each velocity leaves its quiet level before a beat, and reaches it after."""
    before, core, half = samples_of(130), samples_of(60), samples_of(8)
    window = windows(velocity, beats, -before, samples_of(180))
    middle = window[..., before - core : before + core]
    top = middle.max(axis=-1, keepdims=True)
    at_top = before - core + middle.argmax(axis=-1)[..., None]
    quiet = np.percentile(window, 10, axis=-1, keepdims=True)
    time = np.arange(window.shape[-1])
    calm = _calm(window < quiet + ONSET_SHARE * (top - quiet))
    first = np.where(calm & (time < at_top), time, 0).max(axis=-1) + half
    calm = _calm(window < quiet + OFFSET_SHARE * (top - quiet))
    last = np.where(calm & (time > at_top), time, time[-1]).min(axis=-1) - half
    return beats - before + first, beats - before + last


def _calm(below: Bool[np.ndarray, "K N W"]) -> Bool[np.ndarray, "K N W"]:
    """Returns where all of the 16 ms around a sample are below the threshold."""
    return ndimage.minimum_filter1d(below.astype(np.uint8), samples_of(16), axis=-1).astype(bool)
