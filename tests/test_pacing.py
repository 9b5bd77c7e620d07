"""Pacing: paced beats are marked, and neither spikes nor artefacts count as parts of a QRS."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from data_prep.intervals import global_bounds, measure_waves
from data_prep.pacing import pacing_jumps, pacing_spikes, without_spikes
from data_prep.records import Record, read
from data_prep.waves import find_waves
from synthetic import ecg

SAMPLE = Path(__file__).parents[1] / "data_prep" / "sample"

OF_QRS = ("q_amp_mv", "r_amp_mv", "s_amp_mv", "qrs_area_mv_ms")


def spiked(record: Record, at: np.ndarray, mv: float = 0.8) -> Record:
    signal = record.signal_mv.copy()
    scale = np.linspace(0.5, 1.2, len(signal))[:, None]
    signal[:, at] += (mv * scale).astype(np.float32)
    return dataclasses.replace(record, signal_mv=signal)


def held(record: Record, at: np.ndarray, mv: float = 0.3) -> Record:
    """Returns the record with what a filter makes of spikes: jumps, held for 24 ms."""
    signal = record.signal_mv.copy()
    for first in at:
        signal[:, first : first + round(0.024 * record.sampling_rate_hz)] += np.float32(mv)
    return dataclasses.replace(record, signal_mv=signal)


def test_spikes_before_the_qrs_make_paced_beats() -> None:
    record, waves = ecg(noise_mv=0.005)
    onset = np.rint(waves.samples[0, :, 3]).astype(int)
    m = measure_waves(spiked(record, onset - 5), waves)
    assert m.summary["n_paced"] == waves.num_beats
    assert m.summary["n_ectopic"] == 0
    some = measure_waves(spiked(record, onset[::2] - 5), waves)
    assert np.flatnonzero(some.paced == 1).tolist() == list(range(0, waves.num_beats, 2))
    atrial = np.rint(waves.samples[0, :, 0]).astype(int) - 10
    assert measure_waves(spiked(record, atrial), waves).summary["n_paced"] == waves.num_beats


def test_artefacts_and_hearts_are_no_pacemaker() -> None:
    record, waves = ecg(noise_mv=0.005)
    rng = np.random.default_rng(0)
    assert measure_waves(record, waves).summary["n_paced"] == 0
    once = np.rint(waves.samples[0, 4:5, 3]).astype(int) - 5
    assert measure_waves(spiked(record, once), waves).summary["n_paced"] == 0
    anywhere = rng.integers(100, 4900, 12)
    assert measure_waves(spiked(record, anywhere), waves).summary["n_paced"] == 0
    noisy = record.signal_mv + 0.15 * rng.normal(size=record.signal_mv.shape)
    noise = dataclasses.replace(record, signal_mv=noisy.astype(np.float32))
    assert measure_waves(noise, waves).summary["n_paced"] == 0
    assert len(pacing_spikes(record.signal_mv[:, :20], 500.0)) == 0
    assert len(pacing_spikes(record.signal_mv, 100.0)) == 0


@pytest.mark.parametrize("rate_hz", [250.0, 500.0, 1000.0])
@pytest.mark.parametrize("after_ms", [-8.0, 8.0])
def test_spikes_are_no_part_of_the_qrs(rate_hz: float, after_ms: float) -> None:
    record, waves = ecg(rate_hz=rate_hz)
    clean = measure_waves(record, waves)
    at = np.rint(waves.samples[0, :, 3] + after_ms * rate_hz / 1000).astype(int)
    paced = spiked(record, at, mv=2.0)
    before = paced.signal_mv.copy()
    found = measure_waves(paced, waves)
    onset, offset = waves.samples[0, 4, 3:6:2].astype(int)
    if after_ms > 0:
        assert paced.signal_mv[0, onset:offset].max() > 0.9, "the control: as recorded it is in R"
    assert (paced.signal_mv == before).all()
    coarse = 3.0 if rate_hz < 500 else 1.0  # a line of 16 ms cuts the corner at the onset
    for key in OF_QRS:
        bound = coarse * (0.02 if key.endswith("amp_mv") else 2.0)
        same = np.nan_to_num(found.beats[key]) - np.nan_to_num(clean.beats[key])
        assert np.abs(same).max() < bound, key
    assert found.summary["axis_deg"] == pytest.approx(clean.summary["axis_deg"], abs=1.0)
    assert found.summary["sokolow_lyon_mv"] == pytest.approx(
        clean.summary["sokolow_lyon_mv"], abs=0.05
    )


def test_at_100_hz_a_spike_cannot_be_told_from_the_qrs() -> None:
    record, waves = ecg(rate_hz=100.0)
    at = np.rint(waves.samples[0, :, 3]).astype(int) + 1
    paced = spiked(record, at, mv=4.0)
    assert len(pacing_spikes(paced.signal_mv, 100.0)) == 0
    r = record.leads.index("I")
    heights = [measure_waves(one, waves).beats["r_amp_mv"][r] for one in (record, paced)]
    assert np.median(heights[1] - heights[0]) > 1.0, "the control: here the spike is in R"


def test_lines_lie_over_spikes_alone_and_gaps_stay() -> None:
    record, _ = ecg(noise_mv=0.005)
    signal = record.signal_mv.copy()
    signal[2, 1000:1010] = np.nan
    clean = without_spikes(signal, np.array([500]), 500.0)
    changed = np.flatnonzero((clean != signal).any(axis=0) & np.isfinite(clean).all(axis=0))
    assert changed.min() == 497
    assert changed.max() == 503
    assert (np.isnan(clean) == np.isnan(signal)).all()
    assert np.allclose(np.diff(clean[:, 496:505], n=2), 0.0, atol=1e-5)
    assert without_spikes(signal, np.empty(0, int), 500.0) is signal
    signal[:, 498:503] = np.nan
    gone = without_spikes(signal, np.array([500]), 500.0)
    assert (np.isnan(gone) == np.isnan(signal)).all()


@pytest.mark.parametrize("rate_hz", [360.0, 500.0, 1000.0])
def test_complexes_that_begin_with_a_jump_are_paced(rate_hz: float) -> None:
    record, waves = ecg(rate_hz=rate_hz, noise_mv=0.003)
    onset, offset = (bound[1] for bound in global_bounds(waves))
    at = np.rint(onset).astype(int) - round(0.008 * rate_hz)
    jumping = held(record, at)
    found = pacing_jumps(jumping.signal_mv, onset, offset, rate_hz)
    assert np.abs(found - at).max() <= 0.003 * rate_hz
    assert measure_waves(jumping, waves).summary["n_paced"] == waves.num_beats
    assert len(pacing_jumps(record.signal_mv, onset, offset, rate_hz)) == 0
    assert measure_waves(held(record, at[:2]), waves).summary["n_paced"] == 0


def test_a_steep_qrs_is_no_jump() -> None:
    record, waves = ecg(noise_mv=0.003)
    onset, offset = (bound[1] for bound in global_bounds(waves))
    steep = dataclasses.replace(record, signal_mv=record.signal_mv[:, ::2].copy())
    assert len(pacing_jumps(steep.signal_mv, onset / 2, offset / 2, 500.0)) == 0
    at = np.rint(onset / 2).astype(int) - 4
    assert len(pacing_jumps(held(steep, at).signal_mv, onset / 2, offset / 2, 500.0)) == len(at)


def test_a_discharge_in_one_beat_changes_no_amplitude() -> None:
    record, waves = ecg(noise_mv=0.003)
    clean = measure_waves(record, waves)
    at = np.rint(waves.samples[0, 4:5, 3]).astype(int) + 4
    once = spiked(record, at, mv=5.0)
    found = measure_waves(once, waves)
    assert found.summary["n_paced"] == 0
    r = np.nan_to_num(found.beats["r_amp_mv"]) - np.nan_to_num(clean.beats["r_amp_mv"])
    assert np.abs(r).max() < 0.05
    onset, offset = waves.samples[0, 4, 3:6:2].astype(int)
    assert once.signal_mv[6, onset:offset].max() > 2.0, "the control: as recorded it is the largest"


@pytest.mark.parametrize("name", ["00270", "00017", "00164"])
def test_a_spike_without_capture_is_no_beat(name: str) -> None:
    record = read(SAMPLE / "ptbxl" / name)
    waves = find_waves(record)
    r = waves.samples[:, :, 4]
    r = np.nanmedian(r[:, np.isfinite(r).any(axis=0)], axis=0)
    between = np.rint(r[2:-1:3] + 0.6 * np.diff(r)[2::3]).astype(int)
    found = find_waves(spiked(record, between, mv=3.0))
    assert found.num_beats == waves.num_beats
    broad = spiked(record, (between[:, None] + np.arange(-20, 20)).ravel(), mv=3.0)
    assert find_waves(broad).num_beats != waves.num_beats, "the control: as long as a QRS"
