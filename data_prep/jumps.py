"""QRS complexes that begin with a jump, as a pacemaker's spike or its after-potential makes it.

No heart moves a trace by a quarter of its QRS from one sample to the next: the paced complex begins
there and not, as that of a heart, in a slope before it.

Axes: L leads, N beats, U samples at the working rate, W samples around an onset.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from data_prep.conditioning import samples_of, windows
from data_prep.nan_median import nan_median

BEFORE_MS, AFTER_MS = 10.0, 32.0  # of the joint onset: where a jump is looked for
LONGEST_MS = 200.0  # of a QRS that is looked at
SHARE, LEAST_MV = 0.22, 0.05  # of a lead's QRS that is a jump, and the least that is one
LEADS_SHARE = 0.3  # of the leads that jump at once
BEATS_SHARE = 0.5  # of the record's QRS: one that jumps is an artefact


def onset_at_jump(
    x: Float[np.ndarray, "L U"], bounds: Float[np.ndarray, "L N 3 2"]
) -> Float[np.ndarray, "L N 3 2"]:
    """Returns the bounds with no QRS onset earlier than the jump that its complex begins with.

    Args:
        x: as recorded, at the working rate.
        bounds: onset and offset of P, QRS and T in samples.
    """
    qrs = bounds[:, :, 1]
    first, last = (np.nan_to_num(nan_median(qrs[..., i], axis=0)) for i in (0, 1))
    length = samples_of(LONGEST_MS)
    inside = np.rint(first)[:, None] + np.arange(length) <= np.maximum(last, first)[:, None]
    course = windows(x, first, 0, length)
    height = np.ptp(np.where(inside, course, course[..., :1]), axis=-1)
    start = first - samples_of(BEFORE_MS)
    steps = np.abs(np.diff(windows(x, start, 0, samples_of(BEFORE_MS + AFTER_MS) + 1)))
    jumps = (steps > SHARE * height[..., None]) & (steps > LEAST_MV)
    together = jumps.mean(axis=0) >= LEADS_SHARE
    at = np.rint(start) + together.argmax(axis=-1)
    jumping = together.any(axis=-1)
    if jumping.sum() < BEATS_SHARE * np.isfinite(qrs).any(axis=(0, 2)).sum():
        return bounds
    moved = bounds.copy()
    moved[:, :, 1, 0] = np.where(jumping, np.fmax(qrs[..., 0], at), qrs[..., 0])
    moved[np.isnan(bounds)] = np.nan
    return moved
