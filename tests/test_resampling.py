import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.resampling import ratio_of, resample_rows

RATES = [100.0, 128.0, 250.0, 257.3, 360.0, 400.0, 500.0, 1000.0]


def _tones(rate_hz, tones_hz, seconds=10.0):
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return np.stack([np.sin(2 * np.pi * tone * time_s + tone) for tone in tones_hz]) + 0.3


@given(from_hz=st.sampled_from(RATES), to_hz=st.sampled_from(RATES), share=st.floats(0.01, 0.84))
def test_what_both_rates_hold_stays_where_and_as_it_is(from_hz, to_hz, share):
    """No delay, no droop: tones up to 84 % of the slower Nyquist frequency come through."""
    tone = share * min(from_hz, to_hz) / 2
    new = resample_rows(_tones(from_hz, [tone]).astype(np.float32), from_hz, to_hz)
    expected = _tones(to_hz, [tone])
    assert new.shape == expected.shape
    assert new.dtype == np.float32
    inner = slice(int(0.35 * to_hz), -int(0.35 * to_hz))
    np.testing.assert_allclose(new[:, inner], expected[:, inner], atol=4e-3)


@pytest.mark.parametrize(("from_hz", "to_hz"), [(500.0, 100.0), (1000.0, 257.3), (400.0, 250.0)])
def test_what_the_new_rate_cannot_hold_is_gone_and_makes_no_other_tone(from_hz, to_hz):
    tones = np.array([0.6, 0.7, 0.9]) * to_hz  # Nyquist is 0.5
    tones = tones[tones < from_hz / 2]
    new = resample_rows(_tones(from_hz, tones).astype(np.float32), from_hz, to_hz)
    inner = slice(int(0.35 * to_hz), -int(0.35 * to_hz))
    assert np.abs(new[:, inner] - 0.3).max() < 3e-3
    control = _tones(from_hz, tones)[:, :: round(from_hz / to_hz)]
    assert np.abs(control - 0.3).max() > 0.5


@pytest.mark.parametrize("rate_hz", [100.0, 128.0, 257.3, 400.0, 1000.0])
def test_ten_seconds_are_5000_samples_at_500_hz(rate_hz):
    signal = np.ones((1, round(10 * rate_hz)), np.float32)
    new = resample_rows(signal, rate_hz, 500.0)
    assert new.shape == (1, 5000)
    np.testing.assert_allclose(new, 1.0, atol=2e-3)  # the edges, too
    assert ratio_of(rate_hz, 500.0) * round(10 * rate_hz) == 5000


def test_a_step_at_the_edge_does_not_ring_into_the_record():
    """The edge is held, not dropped to zero: a level of 5 mV stays one."""
    new = resample_rows(np.full((1, 1000), 5.0, np.float32), 100.0, 500.0)
    assert np.abs(new - 5.0).max() < 0.01


@given(start=st.integers(0, 999), length=st.integers(1, 400), to_hz=st.sampled_from(RATES[1:]))
def test_a_gap_stays_where_it_is_and_spreads_nowhere(start, length, to_hz):
    signal = _tones(100.0, [2.0]).astype(np.float32)
    whole = resample_rows(signal, 100.0, to_hz)
    signal[0, start : start + length] = np.nan
    new = resample_rows(signal, 100.0, to_hz)
    time_s = np.arange(new.shape[1]) / to_hz
    end = min(start + length, 1000)
    lost = (time_s > (start - 1) / 100 + 1e-9) & (time_s < end / 100 - 1e-9)
    if end == 1000:
        lost |= time_s > (start - 1) / 100 + 1e-9
    np.testing.assert_array_equal(np.isnan(new[0]), lost)
    far = ~lost & (np.abs(time_s - start / 100) > 0.4) & (np.abs(time_s - end / 100) > 0.4)
    np.testing.assert_allclose(new[0, far], whole[0, far], atol=2e-3)


def test_a_missing_row_stays_missing_and_the_same_rate_is_the_same():
    signal = _tones(100.0, [1.0, 2.0]).astype(np.float32)
    signal[1] = np.nan
    assert resample_rows(signal, 100.0, 100.0) is signal
    new = resample_rows(signal, 100.0, 250.0)
    assert np.isnan(new).all(axis=1).tolist() == [False, True]
    assert not np.isnan(new[0]).any()
