"""Scores: pure functions of errors and references. Axes: R records, S bootstrap samples."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


def absolute_error(
    said: Float[np.ndarray, "R"], truth: Float[np.ndarray, "R"]
) -> Float[np.ndarray, "R"]:
    """Returns |said − truth|, in the quantity's unit."""
    return np.abs(said - truth)


def angular_error(
    said_deg: Float[np.ndarray, "R"], truth_deg: Float[np.ndarray, "R"]
) -> Float[np.ndarray, "R"]:
    """Returns the smaller angle between two directions, 0 to 180 degrees."""
    return np.abs((said_deg - truth_deg + 180.0) % 360.0 - 180.0)


@dataclass(frozen=True)
class Difference:
    """A paired mean difference with its bootstrap interval."""

    mean: float
    ci_low: float
    ci_high: float


def paired_bootstrap(
    errors: Float[np.ndarray, "R"],
    control: Float[np.ndarray, "R"],
    *,
    samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Returns mean(errors − control) with the percentile interval over resampled records.

    Pairs stay together: each record's own difference is resampled (Efron and Tibshirani
    1993, chapter 13).
    """
    differences = errors - control
    picks = np.random.default_rng(seed).integers(len(differences), size=(samples, len(differences)))
    means = differences[picks].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Difference(float(differences.mean()), float(low), float(high))
