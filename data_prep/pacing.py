"""Pacing: its spikes and jumps, the beats that begin with one, and leads without the spikes.

A spike is a deflection of a few ms, gone from both sides within 6 ms. Where the recorder's filter
drew it out, the complex begins with a jump instead: the trace is level, and moves within 2 ms by a
good part of the QRS. Either makes a paced beat if it stands at the same place of several beats.
Below 250 Hz a spike cannot be told from a QRS, below 360 Hz a jump, and neither where a recorder
filtered it away.

Axes: L leads, T samples, N beats, K spikes or jumps, M
independent leads.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int

from data_prep.conditioning import bridged, windows
from data_prep.records import LEADS

INDEPENDENT = (0, 1, *range(6, 12))  # of all twelve: the other limb leads follow from I and II
TOGETHER_LEADS = 4  # what a pacemaker does is seen in so many
# A spike: higher than what is 6 ms to its either side; the rest moves less.
SPIKE_MS, AROUND_MS, SPIKE_MV, SPIKE_TO_NOISE, SPIKE_TO_REST = 6.0, 20.0, 0.15, 12.0, 0.45
FEW = 7  # one sample of so many shows the noise
SPIKE_RATE_HZ = 250.0  # from here on a spike is briefer than a QRS
# A jump, of the QRS and of the 12 ms before it. Chosen on the records that they were tried on: all
# seven paced ones of LUDB and PTB-XL are found, and no other of these and of Challenge 2021.
JUMP_MS, LEVEL_MS, JUMP_TO_QRS, JUMP_TO_LEVEL = 2.0, 12.0, 0.15, 1.5
LEVEL_MV = 0.02  # noise of a level trace
JUMP_FROM_ONSET_MS, LONGEST_QRS_MS = (-20.0, 40.0), 200.0
JUMP_RATE_HZ = 360.0  # at 250 Hz QRS of normal beats move as far from one sample to the next
SPIKE_FROM_ONSET_MS = (-260.0, 50.0)  # atrial spikes stand before P
SPIKES_TOGETHER_MS = 16.0
MIN_SPIKES, MIN_SPIKED = 3, 0.5  # beats with a spike at one place, and of the commonest place


def paced_beats(
    spikes: Int[np.ndarray, " K"], onset: Float[np.ndarray, " N"], rate_hz: float
) -> Float[np.ndarray, " N"]:
    """Returns 1 for a beat with a spike where others have one, 0 without, NaN without QRS.

    Args:
        spikes: samples of spikes and jumps.
        onset: global QRS onsets in samples.
        rate_hz: of the samples.
    """
    paced = np.where(np.isfinite(onset), 0.0, np.nan)
    beats = np.flatnonzero(np.isfinite(onset))
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
    """Returns the samples of what is too brief for a heart: pacing spikes, or artefacts.

    Args:
        signal: in mV, as recorded, its gaps bridged.
        rate_hz: of the signal; below 250 Hz no spike is seen.
    """
    near, far = int(SPIKE_MS * rate_hz / 1000), round(AROUND_MS * rate_hz / 1000)
    if rate_hz < SPIKE_RATE_HZ or signal.shape[1] <= 2 * far + 2:
        return np.empty(0, int)
    x = _independent(signal).astype(np.float32)
    middle = x[:, near:-near]
    left, right = x[:, : -2 * near], x[:, 2 * near :]
    height = np.maximum(middle - np.maximum(left, right), np.minimum(left, right) - middle)
    some = np.flatnonzero(height.max(axis=0) > SPIKE_MV)  # elsewhere the leads have less together
    noise_mv = float(np.median(_of_leads(np.maximum(height[:, ::FEW], 0.0))))
    of_leads = np.zeros(x.shape[1], np.float32)
    of_leads[near + some] = _of_leads(np.maximum(height[:, some], 0.0))
    inside = np.flatnonzero(of_leads[far:-far] > max(SPIKE_MV, SPIKE_TO_NOISE * noise_mv)) + far
    if not len(inside):
        return inside
    shifts = np.concatenate([np.arange(-far, -near + 1), np.arange(near, far + 1)])
    around = x[:, inside[:, None] + shifts]
    rest = _of_leads(np.ptp(around, axis=-1))
    inside = inside[of_leads[inside] > SPIKE_TO_REST * (rest + 0.02)]
    top = [i for i in inside if of_leads[i] >= of_leads[max(i - near, 0) : i + near + 1].max()]
    return np.array(top, int)


def pacing_jumps(
    signal: Float[np.ndarray, "L T"],
    onset: Float[np.ndarray, " N"],
    offset: Float[np.ndarray, " N"],
    rate_hz: float,
) -> Int[np.ndarray, " K"]:
    """Returns the sample after which the trace first jumps, of each complex that begins so.

    Args:
        signal: in mV, as recorded, its gaps bridged.
        onset: global QRS onsets in samples.
        offset: global QRS offsets in samples.
        rate_hz: of the signal; below 360 Hz no jump is seen.
    """
    whole = np.isfinite(onset) & np.isfinite(offset)
    if rate_hz < JUMP_RATE_HZ or not whole.any():
        return np.empty(0, int)
    step, level, longest = (
        round(ms * rate_hz / 1000) for ms in (JUMP_MS, LEVEL_MS, LONGEST_QRS_MS)
    )
    before, after = (round(ms * rate_hz / 1000) for ms in JUMP_FROM_ONSET_MS)
    first = np.rint(onset[whole]).astype(int)
    length = np.minimum(offset[whole] - first, longest)[:, None]
    reach = max(longest, after + step)
    course = windows(_independent(signal), onset[whole], before - level, reach)
    qrs = course[..., level - before :]
    qrs = np.where(np.arange(qrs.shape[-1]) <= length, qrs, qrs[..., :1])
    size = _of_leads(np.ptp(qrs, axis=-1))
    course = course[..., : level - before + after + step]
    jump = _of_leads(np.abs(course[..., level + step :] - course[..., level:-step]))
    beats, at = np.nonzero(jump > JUMP_TO_QRS * size[:, None])
    earlier = course[:, beats[:, None], at[:, None] + np.arange(level + 1)]
    sudden = jump[beats, at] > JUMP_TO_LEVEL * (_of_leads(np.ptp(earlier, axis=-1)) + LEVEL_MV)
    beats, place = np.unique(beats[sudden], return_index=True)
    return first[beats] + before + at[sudden][place]


def without_spikes(
    signal: Float[np.ndarray, "L T"], spikes: Int[np.ndarray, " K"], rate_hz: float
) -> Float[np.ndarray, "L T"]:
    """Returns the leads with a straight line over the 6 ms to either side of each spike.

    It is the signal itself if there is no spike; missing samples stay missing.
    """
    if not len(spikes):
        return signal
    reach = math.ceil(SPIKE_MS * rate_hz / 1000)
    over = (spikes[:, None] + np.arange(-reach, reach + 1)).ravel()
    spiked = np.zeros(signal.shape[1], bool)
    spiked[over[(over > 0) & (over < signal.shape[1] - 1)]] = True
    clean = np.where(spiked, np.nan, signal)
    return np.where(np.isnan(signal) | ~spiked, signal, bridged(clean).astype(signal.dtype))


def _independent(signal: Float[np.ndarray, "L T"]) -> Float[np.ndarray, "M T"]:
    """Returns the leads that do not follow from others."""
    return signal[list(INDEPENDENT)] if len(signal) == len(LEADS) else signal


def _of_leads(values: np.ndarray) -> np.ndarray:
    """Returns the root mean square of the largest TOGETHER_LEADS leads, the first axis."""
    count = min(TOGETHER_LEADS, len(values))
    largest = np.partition(values, len(values) - count, axis=0)[len(values) - count :]
    return np.sqrt((largest**2).mean(axis=0))
