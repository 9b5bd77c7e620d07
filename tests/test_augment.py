"""Changes of a record: every number moves with them exactly, and nothing else does."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.augment import LENGTH_S, TIME_SCALE, Change, add_noise, apply, draw
from data_prep.intervals import measure_waves
from data_prep.records import BadInput, read, select_leads
from data_prep.sample_index import SAMPLE
from data_prep.waves import FIDUCIALS, find_waves
from synthetic import ecg

INTERVALS = ("pr_ms", "qrs_ms", "qt_ms", "p_ms")
SCALES = st.floats(*TIME_SCALE)
ANGLES = st.floats(-180.0, 179.0)
WHOLE = Change(length_s=60.0)


def summary(record, waves) -> dict:
    return dict(measure_waves(record, waves).summary)


def apart_deg(a: float, b: float) -> float:
    return abs((a - b + 180.0) % 360.0 - 180.0)


@settings(max_examples=15, deadline=None)
@given(scale=SCALES)
def test_rate_and_intervals_scale_exactly(scale: float) -> None:
    record, waves = ecg()
    before = summary(record, waves)
    after = summary(*apply(record, waves, dataclasses.replace(WHOLE, time_scale=scale)))
    assert after["heart_rate_bpm"] == pytest.approx(before["heart_rate_bpm"] / scale, rel=1e-3)
    for key in INTERVALS:
        assert after[key] == pytest.approx(before[key] * scale, abs=0.1), key
    assert apart_deg(after["axis_deg"], before["axis_deg"]) < 1.0


@settings(max_examples=15, deadline=None)
@given(angle=ANGLES, axis=st.floats(-170.0, 170.0))
def test_axis_moves_by_exactly_the_angle(angle: float, axis: float) -> None:
    record, waves = ecg(axis_deg=axis)
    before = summary(record, waves)
    after = summary(*apply(record, waves, dataclasses.replace(WHOLE, rotation_deg=angle)))
    assert apart_deg(after["axis_deg"], before["axis_deg"] + angle) < 1e-3
    for key in ("heart_rate_bpm", *INTERVALS):
        assert after[key] == pytest.approx(before[key], rel=0.02), key


def test_another_change_moves_other_numbers() -> None:
    """The control: a gain moves neither rate nor axis, a stretch not the axis alone."""
    record, waves = ecg()
    before = summary(record, waves)
    louder = summary(*apply(record, waves, dataclasses.replace(WHOLE, gain=1.3)))
    assert louder["heart_rate_bpm"] == pytest.approx(before["heart_rate_bpm"])
    assert louder["heart_rate_bpm"] != pytest.approx(before["heart_rate_bpm"] / 1.3, rel=1e-2)
    assert apart_deg(louder["axis_deg"], before["axis_deg"] + 30.0) > 20.0
    mirrored = dataclasses.replace(record, signal_mv=record.signal_mv * -1.0)
    assert apart_deg(summary(mirrored, waves)["axis_deg"], before["axis_deg"]) > 170.0


@settings(max_examples=15, deadline=None)
@given(angle=ANGLES, scale=SCALES, gain=st.floats(0.7, 1.4))
def test_limb_leads_keep_their_relations(angle: float, scale: float, gain: float) -> None:
    record, waves = ecg()
    change = Change(scale, angle, gain, noise_mv=0.03, wander_mv=0.1, seed=3)
    changed, _ = apply(record, waves, change)
    one, two, three, avr, avl, avf = add_noise(changed, change).signal_mv[:6]
    assert np.abs(two - one - three).max() < 1e-5
    assert np.abs(avr + (one + two) / 2).max() < 1e-5
    assert np.abs(avl - (one - three) / 2).max() < 1e-5
    assert np.abs(avf - (two + three) / 2).max() < 1e-5
    np.testing.assert_allclose(
        changed.signal_mv[6:],
        apply(record, waves, dataclasses.replace(change, rotation_deg=0.0))[0].signal_mv[6:],
    )


@settings(max_examples=10, deadline=None)
@given(angle=ANGLES, scale=SCALES, gain=st.floats(0.7, 1.4))
def test_the_inverse_change_restores(angle: float, scale: float, gain: float) -> None:
    record, waves = ecg()
    there = Change(scale, angle, gain, length_s=60.0)
    back = Change(1 / scale, -angle, 1 / gain, length_s=60.0)
    restored, marks = apply(*apply(record, waves, there), back)
    length = restored.signal_mv.shape[1]
    assert abs(length - record.signal_mv.shape[1]) <= 3
    assert np.abs(restored.signal_mv - record.signal_mv[:, :length]).max() < 0.06
    edges = [k for k, name in enumerate(FIDUCIALS) if not name.endswith("peak")]
    np.testing.assert_allclose(marks.samples[..., edges], waves.samples[..., edges], atol=1e-6)
    np.testing.assert_allclose(marks.samples[6:], waves.samples[6:], atol=1e-6)


def test_waves_outside_the_window_are_dropped() -> None:
    record, waves = ecg(rate_bpm=60.0)
    changed, inside = apply(record, waves, Change(start_s=3.0, length_s=4.2))
    assert changed.duration_s == pytest.approx(4.2)
    np.testing.assert_array_equal(changed.signal_mv, record.signal_mv[:, 1500:3600])
    peaks = inside.samples[0, :, FIDUCIALS.index("qrs_peak")]
    np.testing.assert_allclose(peaks, [250.0, 750.0, 1250.0, 1750.0])
    assert np.nanmax(inside.samples) <= 2099
    assert np.isfinite(inside.samples).any(axis=(0, 2)).all()


def test_a_beat_cut_in_two_keeps_what_is_inside() -> None:
    record, waves = ecg(rate_bpm=60.0)
    _, inside = apply(record, waves, Change(start_s=3.5, length_s=4.0))
    first = inside.samples[0, 0]
    assert np.isnan(first[:4]).all()
    assert np.isfinite(first[5:]).all()


def test_turned_peaks_are_the_largest_deflections() -> None:
    record, waves = ecg(axis_deg=0.0)
    changed, turned = apply(record, waves, dataclasses.replace(WHOLE, rotation_deg=120.0))
    peak = turned.samples[0, :, FIDUCIALS.index("qrs_peak")].astype(int)
    for at in peak:
        window = changed.signal_mv[0, at - 25 : at + 25]
        assert abs(changed.signal_mv[0, at]) == pytest.approx(np.abs(window).max())


def test_missing_samples_stay_missing() -> None:
    record, waves = ecg()
    signal_mv = record.signal_mv.copy()
    signal_mv[0, 1000:1100] = np.nan
    record = dataclasses.replace(record, signal_mv=signal_mv)
    changed, _ = apply(record, waves, dataclasses.replace(WHOLE, time_scale=1.3))
    assert np.isnan(changed.signal_mv[0, 1305:1425]).all()
    assert np.isfinite(changed.signal_mv[0, :1290]).all()
    assert np.isfinite(changed.signal_mv[1:]).all()


def test_noise_is_of_the_size_asked_for_and_the_same_for_a_seed() -> None:
    record, _ = ecg()
    change = Change(noise_mv=0.02, seed=5)
    noise_mv = add_noise(record, change).signal_mv - record.signal_mv
    assert noise_mv[6:].std() == pytest.approx(0.02, rel=0.05)
    np.testing.assert_array_equal(
        add_noise(record, change).signal_mv, add_noise(record, change).signal_mv
    )
    other = add_noise(record, dataclasses.replace(change, seed=6))
    assert np.abs(other.signal_mv - record.signal_mv - noise_mv).max() > 0.02
    assert add_noise(record, Change()) is record


def test_a_rotation_needs_two_limb_leads() -> None:
    record, _ = ecg()
    _, waves = ecg()
    chest = select_leads(record, ("V1", "V2"))
    with pytest.raises(BadInput, match="no lead I, and turning"):
        apply(chest, waves, Change(rotation_deg=10.0))


def test_a_window_beyond_the_record_is_refused() -> None:
    record, waves = ecg()
    with pytest.raises(BadInput, match="leaves no signal"):
        apply(record, waves, Change(start_s=12.0))


def test_draws_stay_in_range_and_cover_every_axis() -> None:
    rng = np.random.default_rng(0)
    changes = [draw(rng) for _ in range(500)]
    scales = np.array([c.time_scale for c in changes])
    assert TIME_SCALE[0] <= scales.min() < 0.75 < 1.35 < scales.max() <= TIME_SCALE[1]
    assert all(LENGTH_S[0] <= c.length_s <= LENGTH_S[1] for c in changes)
    assert all(c.start_s + c.length_s <= 10.0 * c.time_scale + 1e-9 for c in changes)
    turns = np.histogram([c.rotation_deg for c in changes], bins=6, range=(-180, 180))[0]
    assert turns.min() > 5
    assert draw(np.random.default_rng(1)) == draw(np.random.default_rng(1))


@pytest.mark.parametrize("record_id", ["ludb/1", "ludb/38", "ptbxl/00423"])
def test_real_records_turn_and_stretch_exactly(record_id: str) -> None:
    record = read(SAMPLE / record_id)
    waves = find_waves(record)
    before = summary(record, waves)
    turned = summary(*apply(record, waves, Change(rotation_deg=-120.0)))
    assert apart_deg(turned["axis_deg"], before["axis_deg"] - 120.0) < 1e-3
    assert apart_deg(turned["axis_deg"], before["axis_deg"] - 119.0) > 0.5
    slower = summary(*apply(record, waves, Change(time_scale=1.25, length_s=12.5)))
    assert slower["heart_rate_bpm"] == pytest.approx(before["heart_rate_bpm"] / 1.25, rel=1e-9)
