"""Whether what was taken for heartbeats looks alike, as beats of one heart do.

Axes: L leads, T samples, N beats, W samples around a beat.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from data_prep.conditioning import samples_of, windows

REACH_MS = 80.0
ALIKE = 0.7  # real records have 0.8 and more, ectopic beats among them; noise mostly less


def likeness(x: Float[np.ndarray, "L T"], middle: Float[np.ndarray, " N"]) -> float:
    """Returns the median over the beats of their correlation with the others' mean, in all leads.

    A single beat has no others: its likeness is 1. One that the record's end cuts does not count.

    Args:
        x: without wander.
        middle: of each QRS, in samples.
    """
    reach = samples_of(REACH_MS)
    middle = middle[(middle >= reach) & (middle < x.shape[1] - reach)]
    if len(middle) < 2:
        return 1.0
    window = windows(x, middle, -reach, reach + 1)
    window = window - window.mean(axis=-1, keepdims=True)
    window /= np.sqrt((window**2).mean(axis=(1, 2), keepdims=True)) + 1e-12
    others = window.sum(axis=1, keepdims=True) - window
    size = np.sqrt((window**2).sum(axis=(0, 2)) * (others**2).sum(axis=(0, 2)))
    return float(np.median((window * others).sum(axis=(0, 2)) / (size + 1e-12)))
