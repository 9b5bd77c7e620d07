"""Padding: what files of one length hold before and after a record that is shorter.

There every lead keeps one value, mostly zero, at the same time; no heart and no amplifier does.
A lead that keeps one value throughout is flat, which is no padding, and says nothing of the others.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# CODE-15% puts 0.12 s of zeros on each side of 10 s. PTB-XL's recorder held the last value of every
# lead for 0.12 s, which is no padding. A pause may keep one or two coarse leads still.
_MIN_OF_ZEROS_S = 0.1
_MIN_HELD_S = 0.25
_MIN_OF_FEW_S = 0.5
_FEW = 3


@dataclass(frozen=True)
class Padding:
    """What was taken for padding: samples of each lead at both ends, and notes."""

    num_samples: int = 0
    notes: tuple[str, ...] = ()


def without_padding(
    signal_mv: Float[np.ndarray, "L T"], rate_hz: float
) -> tuple[Float[np.ndarray, "L T"], Padding]:
    """The signal with padded ends missing, and what was padded."""
    head, tail = (_padded(end, rate_hz) for end in (signal_mv, signal_mv[:, ::-1]))
    if not head + tail or head + tail >= signal_mv.shape[1]:
        return signal_mv, Padding()
    padded = signal_mv.copy()
    padded[:, :head] = np.nan
    padded[:, signal_mv.shape[1] - tail :] = np.nan
    where = [
        f"{count / rate_hz:.2f} s at the {end}"
        for count, end in ((head, "start"), (tail, "end"))
        if count
    ]
    note = f"padded for {' and '.join(where)}, where every lead keeps one value: left out"
    return padded, Padding(head + tail, (note,))


def _padded(signal_mv: Float[np.ndarray, "L T"], rate_hz: float) -> int:
    """How many samples from the first one on are padding."""
    if (np.abs(signal_mv[:, 1:8] - signal_mv[:, :1]) > 0).any():  # most records move at once
        return 0
    missing = np.isnan(signal_mv)
    first = np.take_along_axis(signal_mv, (~missing).argmax(axis=1)[:, None], axis=1)
    same = (signal_mv == first) | missing  # what is missing does not move
    moving = ~same.all(axis=1)
    if not moving.any():
        return 0
    count = int((~same[moving].all(axis=0)).argmax())
    held = int((~missing[moving, :count].all(axis=0)).sum())
    shortest_s = _MIN_HELD_S if np.any(first[moving]) else _MIN_OF_ZEROS_S
    if moving.sum() < _FEW:
        shortest_s = _MIN_OF_FEW_S
    return count if held >= max(round(shortest_s * rate_hz), 8) else 0
