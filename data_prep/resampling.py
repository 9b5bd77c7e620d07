"""Signals at another sampling rate: a polyphase low-pass filter, no delay, gaps kept.

L leads, T samples.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float

# Of the filter: its half length in samples of the slower rate, and its Kaiser window's shape.
# Flat to 0.1 % below 85 % of the slower Nyquist frequency, 65 dB down above 115 %.
_HALF_LENGTH = 16
_KAISER_BETA = 6.0
_FINEST = 10_000  # of the ratio of two rates


def ratio_of(from_hz: float, to_hz: float) -> Fraction:
    """The ratio of two rates, which may be as odd as 500 to 257.3."""
    return (Fraction(repr(float(to_hz))) / Fraction(repr(float(from_hz)))).limit_denominator(
        _FINEST
    )


def resample_rows(
    signal: Float[np.ndarray, "L T"], from_hz: float, to_hz: float
) -> Float[np.ndarray, "L T2"]:
    """Rows at another rate, float32; what lies beside a missing sample is missing.

    Sample k of the result lies at k / to_hz, as sample k of the signal at k / from_hz.
    """
    if from_hz == to_hz:
        return signal
    from scipy.signal import firwin, resample_poly

    ratio = ratio_of(from_hz, to_hz)
    up, down = ratio.numerator, ratio.denominator
    slower = max(up, down)
    taps = firwin(2 * _HALF_LENGTH * slower + 1, 1 / slower, window=("kaiser", _KAISER_BETA))
    missing = np.isnan(signal)
    new = resample_poly(_bridge(signal, missing), up, down, axis=1, window=taps, padtype="edge")
    if missing.any():
        new[_beside(missing, new.shape[1], ratio)] = np.nan
    return new.astype(np.float32)


def _bridge(
    signal: Float[np.ndarray, "L T"], missing: Bool[np.ndarray, "L T"]
) -> Float[np.ndarray, "L T"]:
    """The signal with straight lines over gaps, so that the filter does not spread NaN."""
    bridged = signal.astype(np.float64)
    for row, gap in zip(bridged, missing, strict=True):
        if gap.all():
            row[:] = 0
        elif gap.any():
            row[gap] = np.interp(np.flatnonzero(gap), np.flatnonzero(~gap), row[~gap])
    return bridged


def _beside(
    missing: Bool[np.ndarray, "L T"], num_samples: int, ratio: Fraction
) -> Bool[np.ndarray, "L T2"]:
    """True where a new sample lies beside a missing one."""
    last = missing.shape[1] - 1
    position = np.arange(num_samples) / float(ratio)
    before = np.minimum(np.floor(position + 1e-9).astype(int), last)
    after = np.minimum(np.ceil(position - 1e-9).astype(int), last)
    return missing[:, before] | missing[:, after]
