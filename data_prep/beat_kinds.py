"""Which beats are ectopic.

A beat is ectopic if its QRS has another shape than the record's own beats and comes early, late or
before a pause, or if it comes early with their shape. In an irregular rhythm time says nothing:
there it must be wider and quite unlike them too.

Axes: L leads, T samples, N beats (of these B have a QRS), W bins of a QRS.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

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
        paced: see `pacing.paced_beats`.
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
        wider = width > WIDER * (np.median(width[own]) if own.any() else np.inf)
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
