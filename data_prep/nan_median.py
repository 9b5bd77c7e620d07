"""Medians of what is there: `numpy.nanmedian` takes much longer on a record's few marks."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def nan_median(values: Float[np.ndarray, ...], axis: int) -> Float[np.ndarray, ...]:
    """Returns the median along an axis of what is not NaN; NaN where nothing is."""
    if not values.shape[axis]:
        return np.full(np.delete(values.shape, axis), np.nan)
    ordered = np.sort(values, axis=axis)  # NaN last
    count = (~np.isnan(values)).sum(axis=axis, keepdims=True)
    low = np.take_along_axis(ordered, np.maximum(count - 1, 0) // 2, axis=axis)
    high = np.take_along_axis(ordered, np.minimum(count // 2, values.shape[axis] - 1), axis=axis)
    return ((low + high) / 2).squeeze(axis=axis)
