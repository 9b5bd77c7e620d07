"""Bounds on traces that are level beside a wave: there the wave begins where it leaves the level.

What cardiologists mark on a living trace the network has learned. On a quiet one, such as the
calibration ECGs of simulators (IEC 60601-2-25), the beats of a record are averaged and the bound is
read off the average, to the sample. Where the trace beside a wave is not level to within its white
noise, the network's bound stays.

Axes: L leads, N beats, U samples at the working rate, W samples around a beat.
"""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Bool, Float

from data_prep.conditioning import samples_of, windows
from data_prep.nan_median import nan_median

BEFORE_MS, AFTER_MS = 440, 760  # of a beat's middle that are averaged
BESIDE_MS, GAP_MS, INTO_MS = 24, 6, 44  # looked at outside of a bound, left free there, and inside
LEAST_BEATS, LEAST_BESIDE_MS = 3, 8
LEVEL, LEAVES = 4.2, 4.5  # in white noise: what is level, and what is no more
MARGIN_MS, LEAST_GAPS_MS = 8, 20  # of gaps between waves: left free, and looked at in all
FINEST_MV, QUIET_MV = 0.001, 0.008  # of an average beat: its digits, and its white noise at most
OUTER = (25, 75)  # percentiles of onsets and offsets over the leads
ALIKE_MS = 12  # leads whose P or T differs by no more begin together: the rest is noise
REACH_MS = 24  # from the network's bound
RISE = 7  # samples after leaving the level that tell where the wave began
FARTHEST_MS = 20  # at most so long before
PLAINLY = 0.2  # share of the other fit's misfit


def level_edges(
    x: Float[np.ndarray, "L U"], bounds: Float[np.ndarray, "L N 3 2"]
) -> Float[np.ndarray, "L N 3 2"]:
    """Returns the bounds, those beside a level trace moved to where the average beat leaves it.

    Args:
        x: as recorded: a filter against wander would tilt what is level.
        bounds: onset and offset of P, QRS and T in samples.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a mark that no beat has
        middle = nan_median(bounds[:, :, 1].mean(axis=-1), axis=0)
        if np.isfinite(middle).sum() < LEAST_BEATS:
            return bounds
        beat = _average(x, middle[np.isfinite(middle)])
        usual = nan_median(bounds - middle[:, None, None], axis=1) + samples_of(BEFORE_MS)
        noise = _white_noise(beat)
        cycle = float(nan_median(np.diff(middle), axis=0))
        level = _is_level(beat, usual, cycle, noise)
        if 2 * level.sum() < len(level):
            return bounds
        moved = np.where(level[:, None, None], _departures(beat, usual, noise), np.nan)
        # In a lead where it is fainter a wave leaves its level later.
        outer = [np.nanpercentile(moved[..., i], q, axis=0) for i, q in enumerate(OUTER)]
        joint = np.stack(outer, axis=-1)
    known = np.isfinite(moved)
    faint = np.array([[True], [False], [True]]) & (np.abs(moved - joint) <= samples_of(ALIKE_MS))
    moved = np.where((faint | ~known) & (known.mean(axis=0) >= 0.5), joint, moved)
    moved -= samples_of(BEFORE_MS)
    at = middle[:, None, None] + moved[:, None]
    return np.where(np.abs(at - bounds) <= samples_of(REACH_MS), at, bounds)


def _average(x: Float[np.ndarray, "L U"], middle: Float[np.ndarray, " N"]) -> np.ndarray:
    """Returns the mean beat of each lead, L x W."""
    first, last = -samples_of(BEFORE_MS), samples_of(AFTER_MS)
    at = np.rint(middle)[:, None] + np.arange(first, last)
    there = (at >= 0) & (at < x.shape[1])
    window = np.where(there, windows(x, middle, first, last), 0.0)
    return window.sum(axis=1) / np.where(there.any(axis=0), there.sum(axis=0), np.nan)


def _white_noise(beat: Float[np.ndarray, "L W"]) -> Float[np.ndarray, " L"]:
    rough = np.abs(np.diff(beat, n=3, axis=1))
    return nan_median(rough, axis=1) / 0.6745 / np.sqrt(20.0)


def _is_level(
    beat: Float[np.ndarray, "L W"],
    usual: Float[np.ndarray, "L 3 2"],
    cycle: float,
    noise: Float[np.ndarray, " L"],
) -> Bool[np.ndarray, " L"]:
    """Returns which leads show nothing but white noise in all gaps between their waves."""
    time = np.arange(beat.shape[1])
    most = LEVEL * noise + FINEST_MV
    level, seen = np.ones(len(beat), bool), np.zeros(len(beat), int)
    following = np.where(np.isfinite(usual[:, 0, 0]), usual[:, 0, 0], usual[:, 1, 0]) + cycle
    for first, last in (
        (usual[:, 0, 1], usual[:, 1, 0]),
        (usual[:, 1, 1], usual[:, 2, 0]),
        (usual[:, 2, 1], following),
    ):
        low, high = first + samples_of(MARGIN_MS), last - samples_of(MARGIN_MS)
        inside = (time >= low[:, None]) & (time <= high[:, None]) & np.isfinite(beat)
        gap = np.where(inside, beat, np.nan)
        away = np.abs(gap - np.nanmean(gap, axis=1, keepdims=True))
        level &= ~(away > most[:, None]).any(axis=1)
        seen += inside.sum(axis=1)
    return level & (noise <= QUIET_MV) & (seen >= samples_of(LEAST_GAPS_MS))


def _departures(
    beat: Float[np.ndarray, "L W"],
    usual: Float[np.ndarray, "L 3 2"],
    noise: Float[np.ndarray, " L"],
) -> Float[np.ndarray, "L 3 2"]:
    """Returns where each wave leaves the level beside it; NaN where there is none."""
    last = beat.shape[1] - 1
    ends = np.zeros(len(beat)), np.full(len(beat), float(last))
    out = np.empty_like(usual)
    for wave in range(3):
        before = usual[:, wave - 1, 1] if wave else ends[0]
        after = usual[:, wave + 1, 0] if wave < 2 else ends[1]
        out[:, wave, 0] = _departure(beat, usual[:, wave, 0], before, noise)
        out[:, wave, 1] = last - _departure(
            beat[:, ::-1], last - usual[:, wave, 1], last - after, noise
        )
    return out


def _departure(
    beat: Float[np.ndarray, "L W"],
    edge: Float[np.ndarray, " L"],
    free_from: Float[np.ndarray, " L"],
    noise: Float[np.ndarray, " L"],
) -> Float[np.ndarray, " L"]:
    """Returns the sample at which each lead leaves its level before `edge`; NaN without a level."""
    at = np.nan_to_num(edge).astype(int)
    outside = np.arange(-samples_of(GAP_MS + BESIDE_MS), -samples_of(GAP_MS))
    beside = _values(beat, at, outside)
    beside = np.where(at[:, None] + outside > np.nan_to_num(free_from)[:, None], beside, np.nan)
    level = nan_median(beside, axis=1)
    spread = np.nanmax(np.abs(beside - level[:, None]), axis=1)
    level_there = np.isfinite(beside).sum(axis=1) >= samples_of(LEAST_BESIDE_MS)
    level_there &= spread <= LEVEL * noise + FINEST_MV
    inside = np.arange(-samples_of(GAP_MS), samples_of(INTO_MS))
    away = np.abs(_values(beat, at, inside) - level[:, None])
    above = away > (LEAVES * noise + FINEST_MV)[:, None]
    runs = np.lib.stride_tricks.sliding_window_view(above, RISE, axis=1)
    stays = np.logical_and.reduce(runs[..., :3], axis=-1)
    first = stays.argmax(axis=1)
    there = level_there & stays.any(axis=1) & (first > 0) & np.isfinite(edge)
    rise = np.take_along_axis(away, first[:, None] + np.arange(RISE), axis=1)
    return np.where(there, at + inside[0] + first - _since_corner(rise), np.nan)


def _since_corner(rise: Float[np.ndarray, "L V"]) -> Float[np.ndarray, " L"]:
    """Returns how many samples before the first one a rise began.

    A corner is where its tangent meets the level. A wave that plainly rises as the square of time
    began where the tangent of its root does.
    """
    short, long = (np.maximum(rise[:, i] - rise[:, 0], 1e-9) / i for i in (3, RISE - 1))
    corner = rise[:, 0] / np.maximum(short, long)
    smooth, _ = _line(np.sqrt(rise))
    misfit = [_line(shape)[1] for shape in (rise, np.sqrt(rise))]
    plainly = (misfit[1] < PLAINLY * misfit[0]) & (np.diff(rise, axis=1) > 0).all(axis=1)
    return np.clip(np.where(plainly, smooth, corner), 0.0, samples_of(FARTHEST_MS))


def _line(shape: Float[np.ndarray, "L V"]) -> tuple[np.ndarray, np.ndarray]:
    """Returns how long before the first sample a fitted line is zero, and its share of misfit."""
    time = np.arange(shape.shape[1]) - (shape.shape[1] - 1) / 2
    middle = shape.mean(axis=1, keepdims=True)
    slope = (shape @ time / (time @ time))[:, None]
    rest = shape - middle - slope * time
    total = np.maximum(((shape - middle) ** 2).sum(axis=1), 1e-12)
    return (middle / np.maximum(slope, 1e-9))[:, 0] + time[0], (rest**2).sum(axis=1) / total


def _values(
    beat: Float[np.ndarray, "L W"], at: np.ndarray, around: np.ndarray
) -> Float[np.ndarray, "L V"]:
    index = np.clip(at[:, None] + around, 0, beat.shape[1] - 1)
    return np.take_along_axis(beat, index, axis=1)
