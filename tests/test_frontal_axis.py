"""The axis turns with the heart, and neither small noise nor one ectopic beat turns it."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.frontal_axis import geometric_median
from data_prep.intervals import measure_waves
from synthetic import ecg

# Beats in two groups: the half nearest to the central one is one group or the other by a hair.
TWO_GROUPS = np.array([12 + 5j, 12.5 + 5.5j, 12 + 5.4j, 16 + 4j, 16.4 + 4.2j, 16 + 3.8j, 14 + 5j])


def central_half(vectors: np.ndarray) -> complex:
    """Returns the mean of the half of the beats nearest to the most central one: the control."""
    apart = np.abs(vectors[:, None] - vectors)
    central = apart[apart.sum(axis=1).argmin()]
    return complex(vectors[central <= np.median(central)].mean())


def spread_deg(of: object, rng: np.random.Generator) -> float:
    noise = rng.normal(size=(100, TWO_GROUPS.size, 2)) * 0.25
    angles = [np.angle(of(TWO_GROUPS + one), deg=True) for one in noise @ [1, 1j]]  # type: ignore[operator]
    return float(np.ptp(angles))


def test_small_noise_turns_it_little() -> None:
    spread = spread_deg(geometric_median, np.random.default_rng(0))
    assert spread < 5.0
    assert spread_deg(central_half, np.random.default_rng(0)) > 1.5 * spread


@pytest.mark.parametrize("turn_deg", [30.0, 90.0, 217.0])
def test_it_turns_with_the_vectors(turn_deg: float) -> None:
    turn = np.exp(1j * np.radians(turn_deg))
    assert geometric_median(TWO_GROUPS * turn) == pytest.approx(geometric_median(TWO_GROUPS) * turn)
    apart = complex(np.median((TWO_GROUPS * turn).real), np.median((TWO_GROUPS * turn).imag))
    by_component = complex(np.median(TWO_GROUPS.real), np.median(TWO_GROUPS.imag)) * turn
    if turn_deg == 30.0:
        assert apart != pytest.approx(by_component), "the control: medians of components do not"


def test_its_distances_have_the_least_sum() -> None:
    best = geometric_median(TWO_GROUPS)
    least = np.abs(TWO_GROUPS - best).sum()
    for aside in (0.2, -0.2, 0.2j, -0.2j):
        assert np.abs(TWO_GROUPS - best - aside).sum() > least
    assert geometric_median(np.full(3, 2 + 1j)) == pytest.approx(2 + 1j)
    assert geometric_median(np.array([2 - 1j])) == pytest.approx(2 - 1j)


def test_one_ectopic_beat_of_five_turns_no_axis() -> None:
    beats = np.array([10 + 5j, 10.2 + 5j, 10 + 5.2j, 9.9 + 4.9j, -60 + 40j])
    assert np.angle(geometric_median(beats), deg=True) == pytest.approx(26.6, abs=2.0)
    assert np.angle(beats.mean(), deg=True) > 90, "the control: it turns their mean"


@pytest.mark.parametrize("axis_deg", [-75.0, 0.0, 60.0, 130.0])
def test_the_axis_of_a_record_is_its_own_at_any_rate(axis_deg: float) -> None:
    found = [
        measure_waves(*ecg(axis_deg=axis_deg, rate_hz=rate_hz, noise_mv=0.01)).summary["axis_deg"]
        for rate_hz in (250.0, 500.0, 1000.0)
    ]
    assert found == pytest.approx([axis_deg] * 3, abs=2.0)
