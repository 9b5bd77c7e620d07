"""Shapes and types of public functions are checked while the suite runs."""

from __future__ import annotations

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from data_prep.records import Record


def test_a_wrong_shape_is_caught() -> None:
    Record(name="a", leads=("I",), signal_mv=np.zeros((1, 9), np.float32), sampling_rate_hz=500.0)
    with pytest.raises(TypeCheckError):
        Record(name="a", leads=("I",), signal_mv=np.zeros(9, np.float32), sampling_rate_hz=500.0)


def test_an_int_is_a_float_and_a_text_is_not() -> None:
    signal_mv = np.zeros((1, 9), np.float32)
    Record(name="a", leads=("I",), signal_mv=signal_mv, sampling_rate_hz=500)
    with pytest.raises(TypeCheckError):
        Record(name="a", leads=("I",), signal_mv=signal_mv, sampling_rate_hz="500")  # type: ignore[arg-type]
