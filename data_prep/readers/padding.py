"""Padding: what files of one length hold before and after a record that is shorter.

There every lead keeps one value, mostly zero, at the same time; no heart and no amplifier does.
A lead that keeps one value throughout is flat, which is no padding, and says nothing of the others.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# CODE-15% pads 10 s with 0.12 s on each side. A pause may keep one or two coarse leads still.
_MIN_S = 0.1
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
    moving = signal_mv[np.fmax.reduce(signal_mv, axis=1) > np.fmin.reduce(signal_mv, axis=1)]
    if not len(moving):
        return signal_mv, Padding()
    shortest = round((_MIN_OF_FEW_S if len(moving) < _FEW else _MIN_S) * rate_hz)
    head, tail = _still(moving), _still(moving[:, ::-1])
    head, tail = (count if count >= max(shortest, 2) else 0 for count in (head, tail))
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


def _still(signal_mv: Float[np.ndarray, "L T"]) -> int:
    """From the first sample on, how many keep their value, or are missing, in every lead."""
    step = 64  # most records move at once
    while step < signal_mv.shape[1]:
        if (moved := _moves(signal_mv[:, :step])).any():
            return int(moved.argmax())
        step *= 8
    moved = _moves(signal_mv)
    return int(moved.argmax()) if moved.any() else signal_mv.shape[1]


def _moves(signal_mv: Float[np.ndarray, "L T"]) -> np.ndarray:
    """Which samples differ from the first in some lead; what is missing at both does not."""
    first = signal_mv[:, :1]
    same = (signal_mv == first) | (np.isnan(signal_mv) & np.isnan(first))
    return ~same.all(axis=0)
