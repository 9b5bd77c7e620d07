"""P and T waves around known QRS: joint magnitude of all leads first, then lead by lead.

A wave begins and ends where the tangent of its steepest flank meets the level beside it
(Lepeschkin and Surawicz, Circulation 6 (1952) 378). A P wave is believed where the stretch before
the QRS looks like that of the other beats; in atrial fibrillation it does not.

Axes: L leads, T samples (at the working rate), N beats, W samples of a segment.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy import signal

from data_prep.conditioning import RATE_HZ, filtered, samples_of, windows

LONGEST_QT_S = 0.56  # at 60 bpm; scaled by the root of RR
RECORD_LIKENESS = 0.5  # median; in LUDB >= 0.63 with P, <= 0.36 in fibrillation
BEAT_LIKENESS = 0.2
P_SHARE = 0.01  # of the height of QRS; LUDB: >= 0.02
# How far a lead's peak and its bounds may lie from the joint ones.
P_REACH_MS, T_REACH_MS = (40, 16), (70, 40)
SEARCH_MS, PROOF_MS = (280, 24), (240, 32)  # before QRS onset: where P is sought, and believed


def find_t(
    x: Float[np.ndarray, "L T"], onset: Int[np.ndarray, " N"], offset: Int[np.ndarray, " N"]
) -> Float[np.ndarray, "L N 3"]:
    """Returns onset, peak and offset of the T after each QRS; NaN where the record ends first."""
    t = np.full((len(x), len(onset), 3), np.nan)
    smooth = filtered(x, 12.0)
    rr = np.diff(onset).astype(float)
    typical = float(np.median(rr)) if len(rr) else float(RATE_HZ)
    for k, qrs in enumerate(onset):
        interval = rr[k] if k < len(rr) else typical
        reach = np.sqrt(min(interval, 1.2 * typical) / RATE_HZ) * RATE_HZ
        start = int(offset[k]) + samples_of(50)
        stop = int(qrs + min(LONGEST_QT_S * reach, interval - samples_of(60)))
        if stop >= x.shape[1]:
            stop = x.shape[1] if x.shape[1] - qrs > 0.4 * reach else start
        if stop - start >= samples_of(100):
            t[:, k] = start + _marks_of(smooth[:, start:stop], T_REACH_MS, settles=True)
    return t


def find_p(
    x: Float[np.ndarray, "L T"],
    onset: Int[np.ndarray, " N"],
    t_offset: Float[np.ndarray, " N"],
) -> Float[np.ndarray, "L N 3"]:
    """Returns onset, peak and offset of the P wave before each QRS; NaN where none is credible."""
    p = np.full((len(x), len(onset), 3), np.nan)
    likeness = p_likeness(x, onset, t_offset)
    if np.median(likeness) < RECORD_LIKENESS:
        return p
    before, after = (samples_of(edge) for edge in SEARCH_MS)
    window = windows(filtered(x, 40.0), onset, -before, -after)
    qrs = windows(x, onset, 0, samples_of(100))
    if _bump(window.mean(axis=1)) < P_SHARE * _bump(np.median(qrs, axis=1)):
        return p  # no more than the filters' trace of the QRS
    start = _free_from(onset, t_offset, before)
    for k in np.flatnonzero(likeness > BEAT_LIKENESS):
        if onset[k] > before - start[k]:
            segment = window[:, k, start[k] :]
            marks = _marks_of(segment, P_REACH_MS, settles=False)
            p[:, k] = onset[k] - before + start[k] + marks
    return p


def p_likeness(
    x: Float[np.ndarray, "L T"],
    onset: Int[np.ndarray, " N"],
    t_offset: Float[np.ndarray, " N"],
) -> Float[np.ndarray, " N"]:
    """Returns the correlation of each beat's way to the QRS, over all leads, with the others' mean.

    A single beat has no others: its likeness is 1.
    """
    if len(onset) < 2:
        return np.ones(len(onset))
    before, after = (samples_of(edge) for edge in PROOF_MS)
    window = windows(filtered(x, (1.0, 20.0)), onset, -before, -after)
    start = _free_from(onset, t_offset, before)
    free = np.broadcast_to(np.arange(window.shape[-1]) >= start[:, None], window.shape)
    flat = np.zeros_like(window)
    for k, first in enumerate(start):
        flat[:, k, first:] = signal.detrend(window[:, k, first:], axis=-1)
    others = np.maximum(free.sum(axis=1, keepdims=True) - free, 1)
    mean = (flat.sum(axis=1, keepdims=True) - flat) / others * free
    size = np.sqrt((flat**2).sum(axis=(0, 2)) * (mean**2).sum(axis=(0, 2)))
    return (flat * mean).sum(axis=(0, 2)) / (size + 1e-12)


def _free_from(
    onset: Int[np.ndarray, " N"], t_offset: Float[np.ndarray, " N"], before: int
) -> Int[np.ndarray, " N"]:
    """Returns the sample, counted from `before` ahead of each QRS, where the last T has ended."""
    end = np.concatenate([[0], t_offset[:-1] - onset[1:] + before + samples_of(20)])
    return np.clip(np.nan_to_num(end), 0, before - samples_of(112)).astype(int)


def _marks_of(
    segment: Float[np.ndarray, "L W"], reach_ms: tuple[int, int], settles: bool
) -> Float[np.ndarray, "L 3"]:
    """Returns onset, peak and offset of the one wave in the segment, for each lead.

    Args:
        segment: the leads between two other waves.
        reach_ms: how far a lead's peak, and its bounds, may lie from the joint ones.
        settles: the segment ends at rest (T), so that the offset is sought against its last level;
            else against the chord between its ends.
    """
    width = segment.shape[1]
    above = _above_chord(segment)
    at_rest = segment - segment[:, -1:] if settles else above
    magnitude = np.sqrt((above**2).sum(axis=0))
    joint = int(magnitude.argmax())
    first = _onset(magnitude, joint)
    last = _offset(np.sqrt((at_rest**2).sum(axis=0)), joint)
    of_peak, of_bound = (samples_of(reach) for reach in reach_ms)
    near = slice(max(joint - of_peak, 1), min(joint + of_peak, width - 1))
    peaks = near.start + np.abs(above[:, near]).argmax(axis=1)
    marks = np.empty((len(segment), 3))
    for lead, peak in enumerate(peaks.tolist()):
        onset = _onset(above[lead] * np.sign(above[lead, peak]), peak)
        offset = _offset(at_rest[lead] * np.sign(at_rest[lead, peak]), peak)
        marks[lead] = (
            min(np.clip(onset, first - of_bound, first + of_bound), peak - 2),
            peak,
            max(np.clip(offset, last - of_bound, last + of_bound), peak + 2),
        )
    return marks


def _above_chord(segment: Float[np.ndarray, "L W"]) -> Float[np.ndarray, "L W"]:
    """Returns the leads less the lines that join their ends."""
    return segment - np.linspace(segment[:, 0], segment[:, -1], segment.shape[1], axis=1)


def _bump(segment: Float[np.ndarray, "L W"]) -> float:
    """Returns the largest joint magnitude above the chords."""
    return float(np.sqrt((_above_chord(segment) ** 2).sum(axis=0)).max())


def _onset(curve: Float[np.ndarray, " W"], peak: int) -> float:
    """Returns where the rise to `peak` begins: `_offset` seen from the other end."""
    return len(curve) - 1 - _offset(curve[::-1], len(curve) - 1 - peak)


def _offset(curve: Float[np.ndarray, " W"], peak: int) -> float:
    """Returns where the tangent of the steepest fall after `peak` meets the level that follows."""
    last = len(curve) - 1
    fall = curve[peak:]
    if len(fall) < 3:
        return float(last)
    lowest = fall.min()
    down = int(np.argmax(fall <= lowest + 0.3 * (fall[0] - lowest))) + 1
    slope = np.diff(fall[: max(down, 2) + 1])
    steepest = int(slope.argmin())
    if slope[steepest] >= 0:
        return float(last)
    level = fall[min(down, len(fall) - 1) : down + samples_of(120)].min()
    return min(peak + steepest + (fall[steepest] - level) / -slope[steepest], float(last))
