"""Waves: order, beats and bounds on made and on real records, and what must find nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from data_prep.marks import read_marks
from data_prep.records import LEADS, Record, read, resample, select_leads
from data_prep.waves import FIDUCIALS, P_PEAK, QRS_PEAK, T_PEAK, Waves, find_waves, in_order
from synthetic import ecg

SAMPLE = Path(__file__).parents[1] / "data_prep" / "sample"
MATCH_MS = 150.0


def made(signal: np.ndarray, rate_hz: float = 500.0) -> Record:
    """Returns a record of the first leads with this signal."""
    return Record("made", LEADS[: len(signal)], signal.astype(np.float32), rate_hz)


def matched(found: Waves, truth: Waves, mark: int) -> tuple[float, float]:
    """Returns sensitivity and predictive value of one peak between the first and last mark."""
    tolerance = MATCH_MS * truth.sampling_rate_hz / 1000
    hits = marks = finds = 0
    for lead in truth.leads:
        t = truth.samples[truth.leads.index(lead), :, mark]
        f = found.samples[found.leads.index(lead), :, mark]
        t, f = t[np.isfinite(t)], f[np.isfinite(f)]
        if t.size:
            f = f[(f >= t[0] - tolerance) & (f <= t[-1] + tolerance)]
            hits += int((np.abs(t[:, None] - f).min(axis=1, initial=np.inf) <= tolerance).sum())
        marks, finds = marks + t.size, finds + f.size
    return hits / marks, hits / max(finds, 1)


def ordered(samples: np.ndarray) -> bool:
    """Returns whether the marks of every beat and lead rise, ties allowed from P to QRS only."""
    for beat in samples.reshape(-1, len(FIDUCIALS)):
        known = beat[np.isfinite(beat)]
        if (np.diff(known) < 0).any():
            return False
    return True


@pytest.mark.parametrize("rate_hz", [250.0, 500.0, 1000.0])
def test_marks_of_a_made_record_are_found(rate_hz: float) -> None:
    record, truth = ecg(rate_bpm=72, rate_hz=rate_hz)
    found = find_waves(record)
    assert found.samples.shape == truth.samples.shape
    error_ms = np.abs(found.samples - truth.samples)[:, 1:-1] * 1000 / rate_hz
    middle = np.nanmedian(error_ms, axis=(0, 1))
    assert (middle[[P_PEAK, T_PEAK]] < 15).all()
    assert middle[FIDUCIALS.index("qrs_onset")] < 15
    assert middle[FIDUCIALS.index("qrs_offset")] < 20  # limb leads have no S: they end earlier
    assert (middle < 45).all()
    assert ordered(found.samples)


def test_no_p_in_a_record_without_p() -> None:
    with_p, without = (find_waves(ecg(with_p=p, jitter_ms=80)[0]) for p in (True, False))
    assert np.isfinite(with_p.samples[:, 1:, P_PEAK]).mean() > 0.9
    assert np.isfinite(without.samples[..., P_PEAK]).mean() < 0.1


@pytest.mark.parametrize("number", range(4))
def test_waves_of_real_records_agree_with_the_cardiologists(number: int) -> None:
    path = sorted((SAMPLE / "ludb").rglob("*.hea"))[10 * number].with_suffix("")
    record, truth = read(path), read_marks(path)
    found = find_waves(record)
    for mark in (QRS_PEAK, T_PEAK):
        assert min(matched(found, truth, mark)) > 0.95, path
    shifted = dataclasses.replace(found, samples=found.samples + 0.3 * truth.sampling_rate_hz)
    assert matched(shifted, truth, QRS_PEAK)[0] < 0.5, "the comparison must be able to fail"


def test_qrs_peak_is_the_largest_deflection_of_its_lead(sample_record_path: Path) -> None:
    record = read(sample_record_path)
    found = find_waves(record)
    for row, beats in zip(record.signal_mv, found.samples, strict=True):
        for onset, peak, offset in beats[:, 3:6]:
            if np.isfinite([onset, peak, offset]).all():
                inside = row[int(onset) : int(offset) + 1]
                level = row[int(onset) - 8 : int(onset) + 1].mean()
                assert abs(row[int(peak)] - level) == pytest.approx(np.abs(inside - level).max())


def test_a_flat_or_missing_lead_leaves_the_others_alone() -> None:
    record, _ = ecg()
    signal = record.signal_mv.copy()
    signal[3], signal[7], signal[9, 1000:2000] = 0.0, np.nan, np.nan
    found = find_waves(dataclasses.replace(record, signal_mv=signal))
    assert found.num_beats == find_waves(record).num_beats
    assert np.isnan(found.samples[[3, 7]]).all()
    gap = found.samples[9, :, QRS_PEAK]
    assert not ((gap > 1000) & (gap < 2000)).any()
    assert np.isfinite(gap).any()


@pytest.mark.parametrize("num_leads", [1, 12])
@pytest.mark.parametrize("kind", ["flat", "missing", "white", "walk", "hum", "sine"])
def test_nothing_is_found_where_no_heart_beats(kind: str, num_leads: int) -> None:
    rng = np.random.default_rng(0)
    time_s = np.arange(5000) / 500
    white = rng.normal(size=(num_leads, 5000))
    signal = {
        "flat": 0 * white,
        "missing": np.nan * white,
        "white": white,
        "walk": white.cumsum(axis=1),
        "hum": np.sin(2 * np.pi * 50 * time_s) + 0.01 * white,
        "sine": np.sin(2 * np.pi * 1.5 * time_s) + 0 * white,
    }[kind]
    assert find_waves(made(signal)).num_beats == 0


@pytest.mark.parametrize("duration_s", [0.002, 0.3, 0.8, 1.5, 3.0, 60.0])
def test_any_length_is_taken(duration_s: float) -> None:
    record, truth = ecg(duration_s=60.0)
    cut = dataclasses.replace(record, signal_mv=record.signal_mv[:, : round(duration_s * 500)])
    found = find_waves(cut)
    assert ordered(found.samples)
    assert np.nanmax(found.samples, initial=0) < cut.signal_mv.shape[1]
    if duration_s == 60.0:
        assert found.num_beats == truth.samples.shape[1]


def test_a_single_lead_and_a_low_rate_still_show_every_beat() -> None:
    record, truth = ecg(rate_bpm=80)
    assert find_waves(select_leads(record, ["II"])).num_beats == truth.samples.shape[1]
    assert find_waves(resample(record, 100.0)).num_beats == truth.samples.shape[1]


def test_what_is_out_of_order_goes_wave_by_wave() -> None:
    good = np.array([10.0, 20, 30, 40, 50, 60, 70, 80, 90])
    next_beat = good + 100
    assert (in_order(np.stack([good, next_beat])[None]) == [good, next_beat]).all()
    peak_late, t_early, p_on_t = good.copy(), good.copy(), next_beat.copy()
    peak_late[1] = 31
    t_early[6] = 55
    p_on_t[0] = 85
    kept = in_order(np.stack([peak_late, next_beat])[None])[0]
    assert np.isnan(kept[0, :3]).all()
    assert np.isfinite(kept[0, 3:]).all()
    assert np.isfinite(kept[1]).all()
    kept = in_order(np.stack([t_early, next_beat])[None])[0]
    assert np.isnan(kept[0, 6:]).all()
    assert np.isfinite(kept[0, :6]).all()
    kept = in_order(np.stack([good, p_on_t])[None])[0]
    assert np.isnan(kept[1, :3]).all()
    assert np.isfinite(kept[1, 3:]).all()


def test_neurokit2_marks_the_same_beats() -> None:
    record, truth = ecg(duration_s=6.0)
    few = select_leads(record, ["II", "V3"])
    peer = find_waves(few, method="neurokit2")
    assert peer.samples.shape == (2, truth.samples.shape[1], 9)
    assert ordered(peer.samples)
    ours = find_waves(few)
    assert np.nanmax(np.abs(peer.samples - ours.samples)[..., QRS_PEAK]) < 25
