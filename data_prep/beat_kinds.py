"""Which beats are ectopic and which are paced.

A beat is ectopic if its QRS has another shape than the record's own beats and comes early, late or
before a pause, or if it comes early with their shape. In an irregular rhythm time says nothing:
there it must be wider and quite unlike them too.
It is paced if a pacing spike stands at its begin: a deflection of a few ms, which is gone from both
sides within 6 ms, at the same place of several beats. Spikes that a recorder filtered away
are not seen.

Axes: L leads, T samples, N beats (of these B have a QRS), W bins of a QRS.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from data_prep.records import LEADS
from data_prep.waves import QRS_PEAK, Waves

# Shape of a QRS, in bins from its global onset on.
BIN_MS, BEFORE_MS, LENGTH_MS, LAG_BINS = 8.0, 24.0, 176.0, 2
ALIKE = 0.85  # correlation over all leads
SAME_SIZE = 2.0
MAX_COMPARED = 24  # beats among which the record's own shape is sought
UNLIKE = 0.5  # as likeness: quite another shape
# Early, early in the own shape, the beat after that, a pause: of the usual RR; wider: of the QRS.
EARLY, EARLY_ALONE, EARLY_NEXT, LATE, WIDER = 0.88, 0.85, 0.95, 1.15, 1.2
IRREGULAR, MIN_REGULAR = 0.1, 3  # spread of so many other RR, beyond which early says nothing
# A spike: higher than what is 6 ms to its either side, in four leads; the rest moves less.
SPIKE_MS, AROUND_MS, SPIKE_MV, SPIKE_TO_NOISE, SPIKE_TO_REST = 6.0, 20.0, 0.15, 12.0, 0.45
SPIKE_LEADS = 4
INDEPENDENT = (0, 1, *range(6, 12))  # of all twelve: the other limb leads follow from I and II
SPIKE_FROM_ONSET_MS = (-260.0, 50.0)  # atrial spikes stand before P
SPIKES_TOGETHER_MS = 16.0
MIN_SPIKES, MIN_SPIKED = 3, 0.5  # beats with a spike at one place, and of the commonest place


def paced_beats(
    signal: Float[np.ndarray, "L T"], onset: Float[np.ndarray, " N"], rate_hz: float
) -> Float[np.ndarray, " N"]:
    """Returns 1 for a beat with a pacing spike, 0 without, NaN for a beat without QRS.

    Args:
        signal: in mV, as recorded.
        onset: global QRS onsets in samples.
        rate_hz: of the signal; below 250 Hz no spike is seen.
    """
    paced = np.where(np.isfinite(onset), 0.0, np.nan)
    beats = np.flatnonzero(np.isfinite(onset))
    spikes = pacing_spikes(signal, rate_hz)
    if not len(spikes) or not len(beats):
        return paced
    after = (spikes[None] - onset[beats, None]) * 1000.0 / rate_hz
    near = (after > SPIKE_FROM_ONSET_MS[0]) & (after < SPIKE_FROM_ONSET_MS[1])
    with_others = np.zeros(len(beats), int)
    for delay_ms in np.unique(after[near]):
        here = (near & (np.abs(after - delay_ms) <= SPIKES_TOGETHER_MS)).any(axis=1)
        with_others[here] = np.maximum(with_others[here], here.sum())
    several = with_others >= max(MIN_SPIKES, MIN_SPIKED * with_others.max())
    paced[beats[several]] = 1.0
    return paced


def pacing_spikes(signal: Float[np.ndarray, "L T"], rate_hz: float) -> Int[np.ndarray, " K"]:
    """Returns the samples of what is too brief for a heart: pacing spikes, or artefacts."""
    near, far = round(SPIKE_MS * rate_hz / 1000), round(AROUND_MS * rate_hz / 1000)
    if rate_hz < 250 or signal.shape[1] <= 2 * far + 2:
        return np.empty(0, int)
    x = np.nan_to_num(signal[list(INDEPENDENT)] if len(signal) == len(LEADS) else signal)
    middle = x[:, near:-near]
    left, right = x[:, : -2 * near], x[:, 2 * near :]
    height = np.maximum(middle - np.maximum(left, right), np.minimum(left, right) - middle)
    height = np.pad(_of_leads(np.maximum(height, 0.0)), near)
    least = max(SPIKE_MV, SPIKE_TO_NOISE * float(np.median(height)))
    inside = np.flatnonzero(height[far:-far] > least) + far
    if not len(inside):
        return inside
    shifts = np.concatenate([np.arange(-far, -near + 1), np.arange(near, far + 1)])
    around = x[:, inside[:, None] + shifts]
    rest = _of_leads(np.ptp(around, axis=-1))
    inside = inside[height[inside] > SPIKE_TO_REST * (rest + 0.02)]
    top = [i for i in inside if height[i] >= height[max(i - near, 0) : i + near + 1].max()]
    return np.array(top, int)


def _of_leads(values: Float[np.ndarray, "L T"]) -> Float[np.ndarray, " T"]:
    """Returns the root mean square of the largest SPIKE_LEADS leads."""
    count = min(SPIKE_LEADS, len(values))
    largest = np.partition(values, len(values) - count, axis=0)[len(values) - count :]
    return np.sqrt((largest**2).mean(axis=0))


def ectopic_beats(
    signal: Float[np.ndarray, "L T"],
    waves: Waves,
    bounds: Float[np.ndarray, "2 N"],
    rr_ms: Float[np.ndarray, " N"],
    paced: Float[np.ndarray, " N"],
) -> Float[np.ndarray, " N"]:
    """Returns 1 for an ectopic beat, 0 for another, NaN where it cannot be told.

    Fewer than three beats cannot be told apart. A paced beat is not ectopic.

    Args:
        signal: in mV.
        waves: its marks.
        bounds: global QRS onsets and offsets in samples.
        rr_ms: from the QRS before, NaN where unknown.
        paced: see `paced_beats`.
    """
    ectopic = np.full(waves.num_beats, np.nan)
    beats = np.flatnonzero(
        np.isfinite(bounds).all(axis=0) & np.isfinite(waves.samples[:, :, QRS_PEAK]).any(axis=0)
    )
    if len(beats) < 3:
        return ectopic
    rate_hz = waves.sampling_rate_hz
    likeness = _likeness_to_own(_shapes(signal, bounds[0, beats], rate_hz), rr_ms[beats])
    own = likeness >= ALIKE
    rr = rr_ms[beats]
    next_rr = np.append(rr[1:], np.nan)
    usual = _usual_rr(rr, own)
    width = np.diff(bounds[:, beats], axis=0)[0]
    with np.errstate(invalid="ignore"):
        wider = width > WIDER * np.median(width[own])
        out_of_time = (rr < EARLY * usual) | (next_rr > LATE * usual)
        out_of_time |= wider & (rr > LATE * usual)
        early = own & (rr < EARLY_ALONE * usual) & ~(next_rr < EARLY_NEXT * usual)
        rest = rr[own & ~early & ~np.append(False, early[:-1]) & np.isfinite(rr)]
    regular = len(rest) >= MIN_REGULAR and _spread(rest) <= IRREGULAR * usual
    odd = ~own & out_of_time & (regular | (wider & (likeness < UNLIKE)))
    ectopic[beats] = (odd | (early & regular)) & (paced[beats] != 1)
    return ectopic


def _usual_rr(rr_ms: Float[np.ndarray, " B"], own: Bool[np.ndarray, " B"]) -> float:
    """Returns the median RR between own beats, or between all; NaN if none is known."""
    between_own = rr_ms[own & np.append(False, own[:-1]) & np.isfinite(rr_ms)]
    known = between_own if len(between_own) else rr_ms[np.isfinite(rr_ms)]
    return float(np.median(known)) if len(known) else float("nan")


def _spread(values: Float[np.ndarray, " N"]) -> float:
    """Returns how far the middle half of the values is spread."""
    quarter, three = np.percentile(values, [25, 75])
    return float(three - quarter)


def _shapes(
    signal: Float[np.ndarray, "L T"], onset: Float[np.ndarray, " B"], rate_hz: float
) -> Float[np.ndarray, "B L W"]:
    """Returns each QRS in bins around its onset, its mean off each lead; zeros where missing."""
    bins = round(LENGTH_MS / BIN_MS) + 2 * LAG_BINS
    first_ms = -BEFORE_MS - LAG_BINS * BIN_MS
    per_bin = max(1, round(BIN_MS * rate_hz / 1000))
    edges = (first_ms + BIN_MS * np.arange(bins)) * rate_hz / 1000
    at = np.rint(onset[:, None] + edges).astype(int)[:, :, None] + np.arange(per_bin)
    window = signal[:, np.clip(at, 0, signal.shape[1] - 1)].mean(axis=-1)
    window = np.where(np.isfinite(window).all(axis=-1, keepdims=True), window, 0.0)
    return np.moveaxis(window - window.mean(axis=-1, keepdims=True), 0, 1)


def _likeness_to_own(
    shapes: Float[np.ndarray, "B L W"], rr: Float[np.ndarray, " B"]
) -> Float[np.ndarray, " B"]:
    """Returns how like each beat is to the record's own: the commonest, or in a tie the later.

    Every second beat ectopic (bigeminy) is the tie: those come early, the own ones after a pause.
    """
    count = min(len(shapes), MAX_COMPARED)
    some = np.linspace(0, len(shapes) - 1, count).astype(int)
    likeness = _likeness(shapes, shapes[some])
    alike = likeness >= ALIKE
    first = int(alike[:, some].sum(axis=1).argmax())
    others = some[~alike[first, some]]
    second = int(alike[:, others].sum(axis=1).argmax())
    if alike[second, others].sum() < max(3, 0.8 * alike[first, some].sum()):
        return likeness[first]
    waited = [np.nanmedian(np.append(rr[alike[one]], -1.0)) for one in (first, second)]
    return likeness[(first, second)[int(np.argmax(waited))]]


def _likeness(
    shapes: Float[np.ndarray, "B L W"], models: Float[np.ndarray, "M L W"]
) -> Float[np.ndarray, "M B"]:
    """Returns each beat's correlation with each model at the best of a few shifts.

    It is -1 for a beat of quite another size.
    """
    width = models.shape[-1] - 2 * LAG_BINS
    middle = models[:, :, LAG_BINS : LAG_BINS + width].reshape(len(models), -1)
    best = np.full((len(models), len(shapes)), -1.0)
    for shift in range(2 * LAG_BINS + 1):
        rows = shapes[:, :, shift : shift + width].reshape(len(shapes), -1)
        scale = np.linalg.norm(middle, axis=1)[:, None] * np.linalg.norm(rows, axis=1)
        best = np.maximum(best, (middle @ rows.T) / np.maximum(scale, 1e-9))
    sizes = np.linalg.norm(shapes.reshape(len(shapes), -1), axis=1)
    own = np.linalg.norm(models.reshape(len(models), -1), axis=1)
    ratio = sizes / np.maximum(own, 1e-9)[:, None]
    return np.where((ratio < SAME_SIZE) & (ratio > 1 / SAME_SIZE), best, -1.0)
