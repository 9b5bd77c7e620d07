"""The axis: the direction of the QRS in the frontal plane.

Axes: L leads, T samples, N beats.
"""

from __future__ import annotations

import cmath
import math

import numpy as np
from jaxtyping import Complex, Float

from data_prep.amplitudes import pq_level, qrs_waves
from data_prep.waves import Waves

# Weiszfeld's iteration: its steps, and the least distance that counts, of the points' spread.
MEDIAN_STEPS, MEDIAN_TO_SPREAD = 10, 0.01
MIN_AREA_MV_MS = 0.5  # a shorter frontal vector has no direction to speak of


def frontal_axis(
    signal: Float[np.ndarray, "L T"],
    waves: Waves,
    onset: Float[np.ndarray, " N"],
    offset: Float[np.ndarray, " N"],
) -> float | None:
    """Returns the direction of the frontal QRS vector in degrees, -180 to 180.

    Both leads are summed between the beat's global QRS onset and offset, and the axis is that of
    the geometric median of the beats' vectors: it turns with the heart vector, moves little when
    each beat moves little, and fewer than half of the beats, being ectopic, turn no axis.

    Args:
        signal: in mV.
        waves: its marks.
        onset: global QRS onsets, in samples.
        offset: global QRS offsets, in samples.
    """
    if "I" not in waves.leads or "aVF" not in waves.leads:
        return None
    pair = signal[[waves.leads.index("I"), waves.leads.index("aVF")]]
    if (np.fmin.reduce(pair, axis=1) == np.fmax.reduce(pair, axis=1)).any():
        return None  # a flat lead was off: the vector's other component alone has no direction
    begin, end = (np.broadcast_to(mark, (2, len(mark))) for mark in (onset, offset))
    level = pq_level(pair, begin, waves.sampling_rate_hz)
    area = qrs_waves(pair, begin, end, level, waves.sampling_rate_hz)["qrs_area_mv_ms"]
    vectors = area[0] + 1j * (2.0 / math.sqrt(3.0)) * area[1]
    vectors = vectors[np.isfinite(vectors)]
    if not len(vectors):
        return None
    usual = geometric_median(vectors)
    return math.degrees(cmath.phase(usual)) if abs(usual) >= MIN_AREA_MV_MS else None


def geometric_median(points: Complex[np.ndarray, " N"]) -> complex:
    """Returns the point of the plane whose distances from the given ones have the least sum.

    By Weiszfeld's iteration (Vardi and Zhang, PNAS 97 (2000) 1423), begun at the mean.
    """
    middle = points.mean()
    nearest = MEDIAN_TO_SPREAD * float(np.abs(points - middle).mean()) + 1e-12
    for _ in range(MEDIAN_STEPS):
        weight = 1.0 / np.maximum(np.abs(points - middle), nearest)
        middle = weight @ points / weight.sum()
    return complex(middle)
