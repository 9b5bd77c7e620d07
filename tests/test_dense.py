"""Dense targets: what the measurement finds lies at the token above it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import synthetic
import tiny
from data_prep.intervals import measure_waves
from gem_jax.dense import (
    AMPLITUDE_MV,
    AREA_MV_MS,
    QRS_MS,
    RATE_BPM,
    RR_MS,
    qrs_targets,
    summary_targets,
    wave_targets,
)

ECG = tiny.MODEL.ecg  # ten tokens of 100 samples: 200 ms each at 500 Hz
P, QRS, T = range(3)


@pytest.fixture(scope="module")
def measured():
    # Beats at 0.5, 1.5 … s; at 500 Hz the first R lies at sample 250.
    return measure_waves(*synthetic.ecg(rate_bpm=60.0, axis_deg=60.0))


def test_waves_lie_over_their_tokens(measured):
    found = wave_targets(measured, ECG, 500.0)
    assert found.shape == (10, 12, 3)
    # P 300 to 390 ms, QRS 455 to 545, T 650 to 830 after the beginning; again 1,000 ms later.
    expected = {P: [1, 6], QRS: [2, 7], T: [3, 4, 8, 9]}
    for wave, tokens in expected.items():
        assert np.flatnonzero(found[:, 0, wave]).tolist() == tokens
    assert (found == found[:, :1]).all()
    assert not found[[0, 5]].any(), "nothing lies between the beats"


def test_a_missing_wave_is_no_target(measured):
    samples = measured.waves.samples.copy()
    samples[4, :, :3] = np.nan
    without = dataclasses.replace(
        measured, waves=dataclasses.replace(measured.waves, samples=samples)
    )
    found = wave_targets(without, ECG, 500.0)
    assert not found[:, 4, P].any()
    assert found[:, 5, P].any()
    np.testing.assert_array_equal(found[:, :, QRS:], wave_targets(measured, ECG, 500.0)[:, :, QRS:])


def test_a_record_of_another_rate_gives_the_same_targets(measured):
    slow = measure_waves(*synthetic.ecg(rate_bpm=60.0, axis_deg=60.0, rate_hz=250.0))
    np.testing.assert_array_equal(
        wave_targets(slow, ECG, 500.0), wave_targets(measured, ECG, 500.0)
    )
    assert (wave_targets(slow, ECG, 250.0) != wave_targets(measured, ECG, 500.0)).any()
    np.testing.assert_array_equal(
        np.isnan(qrs_targets(slow, ECG, 500.0)), np.isnan(qrs_targets(measured, ECG, 500.0))
    )


def test_each_qrs_stands_at_the_token_of_its_peak(measured):
    targets = qrs_targets(measured, ECG, 500.0)
    assert targets.shape == (10, 12, 3)
    known = np.isfinite(targets)
    assert np.flatnonzero(known[:, 1, 0]).tolist() == [2, 7]
    beats = measured.beats
    area, height, rr = targets[7, 1]
    assert area == pytest.approx(beats["qrs_area_mv_ms"][1, 1] / AREA_MV_MS[1], rel=1e-5)
    assert rr == pytest.approx((1000.0 - RR_MS[0]) / RR_MS[1], abs=1e-3)
    lowest = np.nanmin([beats["q_amp_mv"][1, 1], beats["s_amp_mv"][1, 1], 0.0])
    expected = (np.nan_to_num(beats["r_amp_mv"][1, 1]) + lowest) / AMPLITUDE_MV[1]
    assert height == pytest.approx(expected, rel=1e-5)
    assert np.isnan(targets[2, 1, 2]), "the first beat has no RR before it"


def test_the_sign_of_the_qrs_is_told(measured):
    targets = qrs_targets(measured, ECG, 500.0)
    lead_ii, avr = targets[7, 1], targets[7, 3]
    assert lead_ii[0] > 0 > avr[0]
    assert lead_ii[1] > 0 > avr[1]


def test_beats_beyond_the_models_record_are_left_out(measured):
    assert measured.waves.samples.shape[1] > 3
    targets = qrs_targets(measured, ECG, 500.0)
    assert np.isfinite(targets[:, 0, 0]).sum() == 2
    longer = dataclasses.replace(ECG, seq_length=5000)
    assert np.isfinite(qrs_targets(measured, longer, 500.0)[:, 0, 0]).sum() == 9


def test_the_summary_is_scaled_and_the_axis_a_direction(measured):
    values = summary_targets(measured)
    assert values[0] == pytest.approx((60.0 - RATE_BPM[0]) / RATE_BPM[1], abs=1e-3)
    assert values[1] == pytest.approx(np.cos(np.deg2rad(60.0)), abs=0.03)
    assert values[2] == pytest.approx(np.sin(np.deg2rad(60.0)), abs=0.03)
    qrs_ms = measured.summary["qrs_ms"]
    assert values[4] == pytest.approx((qrs_ms - QRS_MS[0]) / QRS_MS[1], rel=1e-5)


def test_what_was_not_measured_is_nan(measured):
    unknown = dataclasses.replace(
        measured, summary={**measured.summary, "pr_ms": None, "axis_deg": None}
    )
    assert np.isnan(summary_targets(unknown)).tolist() == [False, True, True, True, False, False]
    assert np.isfinite(summary_targets(measured)).all()
