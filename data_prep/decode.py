"""Bounds of waves from the network's probabilities: decided on all leads, bounded lead by lead.

A heartbeat's waves are in all leads at once, so whether there is one is decided on the joint
probabilities; where it begins and ends in a lead, by that lead's own. A bound is the mean of what
the probabilities leave open: the probability that the wave has begun, summed outward from where it
is sure. No other estimate has a smaller mean square error.

Axes: L leads, S moments (MOMENT samples each), N beats, M moments of a window.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from data_prep.conditioning import MOMENT, RATE_HZ
from data_prep.nan_median import nan_median
from data_prep.network import CLASSES

WAVES = ("p", "qrs", "t")
SURE, DOUBTFUL = 0.5, 0.2  # of a wave in all leads
LONGEST_PR_MS = 400.0
LONGEST_RR_MS = 4000.0  # on average; what is rarer is noise that looks like QRS
P_SHARE = 0.45  # fewer P than this share of the beats are chance: fibrillation has none

Stretch = tuple[int, int]  # first moment of a wave, and the one after its last


def moments(duration_ms: float) -> int:
    """Returns a duration in moments."""
    return round(duration_ms * RATE_HZ / 1000 / MOMENT)


@dataclass(frozen=True)
class Shape:
    """What a wave of a kind is like, in moments.

    Attributes:
        joined: Stretches nearer than this are one wave.
        shortest: So much probability a wave has at least.
        reach: How far a lead's bounds may lie from the joint ones.
        absent: A lead in which no moment of it is likelier does not show it.
        alike: Bounds that lie farther from where they usually do are of another kind of beat.
    """

    joined: int
    shortest: int
    reach: int
    absent: float
    alike: int


SHAPES = {
    "p": Shape(moments(20), moments(28), moments(80), 0.15, moments(60)),
    "qrs": Shape(moments(32), moments(24), moments(60), 0.15, moments(20)),
    "t": Shape(moments(60), moments(40), moments(120), 0.6, moments(60)),
}


def decode(
    lead: Float[np.ndarray, "L S K"], joint: Float[np.ndarray, "S K"]
) -> Float[np.ndarray, "L N 3 2"]:
    """Returns onset and offset of P, QRS and T of each beat in samples; NaN for what is not there.

    Args:
        lead: class probabilities in each lead.
        joint: the same of the record as a whole.
    """
    beats = find_beats(joint)
    bounds = np.full((len(lead), len(beats), len(WAVES), 2), np.nan)
    for w, wave in enumerate(WAVES):
        having = [(k, one) for k, beat in enumerate(beats) if (one := beat[w]) is not None]
        if having:
            beat_of, stretches = zip(*having, strict=True)
            own = lead[..., CLASSES.index(wave)]
            found = _bounds(own, stretches, SHAPES[wave])
            bounds[:, beat_of, w] = _alike(found, SHAPES[wave].alike)
    return _apart(bounds * MOMENT - 0.5)


Beat = tuple[Stretch | None, Stretch | None, Stretch | None]


def find_beats(joint: Float[np.ndarray, "S K"]) -> list[Beat]:
    """Returns P, QRS and T of each heartbeat in time; a P that no QRS follows is one of its own.

    Without a QRS there is no heartbeat.
    """
    p, qrs, t = (joint[:, CLASSES.index(wave)] for wave in WAVES)
    complexes = _stretches(qrs, SHAPES["qrs"], SURE)
    if len(complexes) * moments(LONGEST_RR_MS) < len(joint):
        return []
    waves_p = _stretches(p, SHAPES["p"], SURE)
    edges = [0, *(edge for stretch in complexes for edge in stretch), len(joint)]
    gaps = list(zip(edges[::2], edges[1::2], strict=True))  # before, between and after the QRS
    in_gap = _by_gap(waves_p, gaps)
    if len(waves_p) < P_SHARE * len(complexes):
        in_gap = [[] for _ in gaps]
    elif sum(map(bool, in_gap[:-1])) > len(complexes) / 2:
        in_gap = [some or _doubtful(p, gap, "p") for some, gap in zip(in_gap, gaps, strict=True)]
    after_qrs = _by_gap(_stretches(t, SHAPES["t"], SURE), gaps[1:])
    beats: list[Beat] = []
    for k, complex_ in enumerate(complexes):
        own = in_gap[k][-1:] if in_gap[k] and _leads_to(in_gap[k][-1], complex_) else []
        beats += [(one, None, None) for one in in_gap[k][: len(in_gap[k]) - len(own)]]
        waves_t = after_qrs[k] or _doubtful(t, gaps[k + 1], "t")
        largest = max(waves_t, key=lambda one: t[slice(*one)].sum(), default=None)
        beats.append((own[0] if own else None, complex_, largest))
    return beats + [(one, None, None) for one in in_gap[-1]]


def _by_gap(waves: Sequence[Stretch], gaps: Sequence[Stretch]) -> list[list[Stretch]]:
    """Returns for each gap between QRS the waves whose middle lies in it."""
    within: list[list[Stretch]] = [[] for _ in gaps]
    begins = [low for low, _ in gaps]
    for one in waves:
        gap = bisect_right(begins, sum(one) / 2) - 1
        if gap >= 0 and sum(one) / 2 < gaps[gap][1]:
            within[gap].append(one)
    return within


def _leads_to(p: Stretch, qrs: Stretch) -> bool:
    return qrs[0] - p[0] <= moments(LONGEST_PR_MS)


def _doubtful(probability: Float[np.ndarray, " S"], gap: Stretch, wave: str) -> list[Stretch]:
    """Returns the likeliest wave of a gap that has no sure one, if it is likely at all."""
    low, high = gap
    shape = SHAPES[wave]
    found = _stretches(probability[low:high], shape, DOUBTFUL)
    found.sort(key=lambda one: probability[low + one[0] : low + one[1]].sum())
    return [(low + first, low + last) for first, last in found[-1:]]


def _stretches(probability: Float[np.ndarray, " S"], shape: Shape, above: float) -> list[Stretch]:
    """Returns where a wave is likelier than `above`, near ones joined, faint ones left out."""
    change = np.diff(np.concatenate([[0], probability > above, [0]]).astype(np.int8))
    joined: list[Stretch] = []
    for first, last in zip(np.flatnonzero(change > 0), np.flatnonzero(change < 0), strict=True):
        if joined and first - joined[-1][1] < shape.joined:
            joined[-1] = (joined[-1][0], int(last))
        else:
            joined.append((int(first), int(last)))
    least = shape.shortest * (1.0 if above >= SURE else 0.5)
    return [one for one in joined if probability[slice(*one)].sum() >= least]


def _windows(found: Sequence[Stretch], num_moments: int) -> list[Stretch]:
    """Returns for each wave the stretch that is nearer to it than to its like."""
    middles = [(one[1] + after[0]) // 2 for one, after in pairwise(found)]
    edges = [0, *middles, num_moments]
    return list(pairwise(edges)) if found else []


def _bounds(
    own: Float[np.ndarray, "L S"], joint: Sequence[Stretch], shape: Shape
) -> Float[np.ndarray, "L N 2"]:
    """Returns the edges of each wave in each lead, in moments; NaN where the lead shows none."""
    within, stretch = np.array(_windows(joint, own.shape[1])), np.array(joint)
    low = np.maximum(np.minimum(within, stretch)[:, 0], stretch[:, 0] - shape.reach)
    high = np.minimum(np.maximum(within, stretch)[:, 1], stretch[:, 1] + shape.reach)
    time = np.arange(int((high - low).max()))
    at = low[:, None] + time
    window = np.where(at < high[:, None], own[:, np.minimum(at, own.shape[1] - 1)], 0.0)
    top = window.max(axis=-1, keepdims=True)
    likely = window / np.maximum(top, 1e-9)
    peak = likely.argmax(axis=-1)[..., None]
    begun = np.minimum.accumulate(np.where(time > peak, 1.0, likely)[..., ::-1], axis=-1)
    going = np.minimum.accumulate(np.where(time < peak, 1.0, likely), axis=-1)
    edges = np.stack([low + len(time) - begun.sum(axis=-1), low + going.sum(axis=-1)], axis=-1)
    return np.where(top > shape.absent, edges, np.nan)


def _alike(bounds: Float[np.ndarray, "L N 2"], limit: int) -> Float[np.ndarray, "L N 2"]:
    """Returns bounds moved halfway to where they usually lie in their lead, seen from the middle
    of the wave in all leads: a wave looks alike from beat to beat.
    """
    if bounds.shape[1] < 3:
        return bounds
    known = np.isfinite(bounds)
    middle = np.where(known, bounds, 0.0).sum(axis=(0, 2))
    middle /= np.maximum(known.sum(axis=(0, 2)), 1)
    from_middle = bounds - middle[:, None]
    apart = from_middle - nan_median(from_middle, axis=1)[:, None]
    return bounds - np.where(np.abs(apart) <= limit, apart / 2, 0.0)


def _apart(bounds: Float[np.ndarray, "L N 3 2"]) -> Float[np.ndarray, "L N 3 2"]:
    """Returns the bounds with those moved that overlap the wave before or after: QRS stays."""
    p, qrs, t = np.moveaxis(bounds, 2, 0)  # views, each L N 2
    absent = np.isnan(bounds)
    p[..., 1] = np.fmin(p[..., 1], qrs[..., 0])
    t[..., 0] = np.fmax(t[..., 0], qrs[..., 1] + 1)
    t[:, :-1, 1] = np.fmin(t[:, :-1, 1], qrs[:, 1:, 0] - 1)
    ended = np.fmax(qrs[:, :-1, 1], t[:, :-1, 1])
    p[:, 1:, 0] = np.fmax(p[:, 1:, 0], ended + 1)
    bounds[absent] = np.nan
    return bounds
