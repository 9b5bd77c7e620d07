import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wfdb_records
from data_prep.readers.padding import without_padding


def _signal(num_leads=12, num_samples=2000) -> np.ndarray:
    rows = wfdb_records.samples(num_samples, 200.0)
    noise = np.random.default_rng(0).integers(-3, 4, (12, num_samples))
    return ((np.stack(list(rows.values())) + noise) / 1000).astype(np.float32)[:num_leads]


def _set(signal, head, tail, value):
    """The same with other samples at both ends: one value, or each lead's own last one."""
    signal = signal.copy()
    end = signal.shape[1] - tail
    signal[:, :head] = signal[:, head : head + 1] if value == "held" else value
    signal[:, end:] = signal[:, end - 1 : end] if value == "held" else value
    return signal


@given(
    head=st.integers(0, 900), tail=st.integers(0, 900), value=st.sampled_from([0.0, -1.5, "held"])
)
def test_what_is_still_in_all_leads_at_an_end_is_missing_and_nothing_else(head, tail, value):
    signal = _signal()
    shortest = 20 if value == 0.0 else 50
    padded = _set(signal, head, tail, value)
    new, padding = without_padding(padded, 200.0)
    # A held lead is still on the sample that it holds, too.
    extra = value == "held"
    expected = [n + extra if n + extra >= shortest else 0 for n in (head, tail)]
    assert padding.num_samples == sum(expected)
    missing = np.zeros(signal.shape[1], bool)
    missing[: expected[0]] = True
    missing[signal.shape[1] - expected[1] :] = True
    np.testing.assert_array_equal(np.isnan(new), np.broadcast_to(missing, new.shape))
    np.testing.assert_array_equal(new[:, ~missing], padded[:, ~missing])
    for count, end in zip(expected, ("start", "end"), strict=True):
        told = f"{count / 200:.2f} s at the {end}" in "".join(padding.notes)
        assert told is bool(count)


def test_a_flat_record_is_not_padded_and_a_flat_lead_tells_nothing():
    flat = np.zeros((12, 2000), np.float32)
    assert without_padding(flat, 200.0)[0] is flat
    one_flat = _signal()
    one_flat[3] = 0.0
    assert without_padding(one_flat, 200.0)[1].num_samples == 0
    padded = _set(one_flat, 300, 0, 0.0)
    new, padding = without_padding(padded, 200.0)
    assert padding.num_samples == 300
    assert np.isnan(new[3, :300]).all()
    assert not np.isnan(new[3, 300:]).any()


def test_a_lead_that_moves_keeps_the_others_from_being_padded():
    padded = _set(_signal(), 300, 300, 0.0)
    padded[5] = _signal()[5]
    assert without_padding(padded, 200.0)[1].num_samples == 0


def test_one_lead_may_pause():
    one = _set(_signal(1), 80, 0, 0.0)
    assert without_padding(one, 200.0)[1].num_samples == 0
    assert without_padding(_set(_signal(1), 120, 0, -9.0), 200.0)[1].num_samples == 120


@pytest.mark.parametrize("lost", [np.s_[:, :100], np.s_[4, 50:200]])
def test_missing_samples_at_the_end_are_no_movement(lost):
    padded = _set(_signal(), 300, 0, 0.0)
    padded[lost] = np.nan
    new, padding = without_padding(padded, 200.0)
    assert padding.num_samples == 300
    assert np.isnan(new[:, :300]).all()
    assert not np.isnan(new[:, 300:]).any()


def test_samples_that_are_missing_are_no_padding():
    signal = _signal()
    signal[:, :300] = np.nan
    assert without_padding(signal, 200.0)[1].num_samples == 0
