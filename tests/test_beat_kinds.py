"""Kinds of beats and voltage indices: ectopic beats are marked and turn no axis."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from data_prep.intervals import measure_waves
from data_prep.measure import measure
from data_prep.measurement import Measurement
from data_prep.records import read
from data_prep.waves import Waves, no_waves
from synthetic import ecg

SAMPLE = Path(__file__).parents[1] / "data_prep" / "sample"


def test_ectopic_beats_are_marked_and_set_nothing() -> None:
    clean = measure_waves(*ecg()).summary
    m = measure_waves(*ecg(early=(3, 7)))
    assert np.flatnonzero(m.ectopic == 1).tolist() == [3, 7]
    assert m.summary["n_ectopic"] == 2
    for key in ("p_ms", "pr_ms", "qrs_ms", "qt_ms", "axis_deg", "sokolow_lyon_mv", "cornell_mv"):
        assert m.summary[key] == pytest.approx(clean[key], abs=0.5), key
    assert m.summary["rhythm_regular"] is True
    assert m.summary["rr_sd_ms"] < 5  # type: ignore[operator]
    assert m.summary["heart_rate_bpm"] == pytest.approx(72, abs=0.5)
    beats = m.to_json()["leads"]["II"]["beats"]
    assert [beat["ectopic"] for beat in beats] == [k in (3, 7) for k in range(len(beats))]
    again = Measurement.from_json(m.to_json())
    assert again.ectopic is not None
    assert again.to_json() == m.to_json()


def test_every_second_beat_may_be_ectopic() -> None:
    m = measure_waves(*ecg(early=(1, 3, 5, 7, 9)))
    assert np.flatnonzero(m.ectopic == 1).tolist() == [1, 3, 5, 7, 9]
    assert m.summary["qrs_ms"] == pytest.approx(90, abs=0.5)


def test_an_early_beat_of_the_own_shape_is_ectopic_in_a_regular_rhythm_only() -> None:
    record, waves = ecg(rate_bpm=60)
    shift = -150  # samples: the beat comes 300 ms early
    at = int(waves.samples[0, 5, 4])
    signal, marks = record.signal_mv.copy(), waves.samples.copy()
    beat = signal[:, at - 120 : at + 180].copy()
    signal[:, at - 120 : at + 180] = signal[:, :1]
    signal[:, at + shift - 120 : at + shift + 180] += beat - signal[:, :1]
    marks[:, 5] += shift
    m = measure_waves(
        dataclasses.replace(record, signal_mv=signal), dataclasses.replace(waves, samples=marks)
    )
    assert np.flatnonzero(m.ectopic == 1).tolist() == [5]
    irregular = measure_waves(*ecg(rate_bpm=60, jitter_ms=250, seed=3))
    assert irregular.summary["n_ectopic"] == 0
    assert irregular.summary["rhythm_regular"] is False


def test_what_cannot_be_told_is_null() -> None:
    record, waves = ecg(duration_s=1.9)
    assert waves.num_beats == 2
    m = measure_waves(record, waves)
    assert np.isnan(m.ectopic).all()  # type: ignore[arg-type]
    assert m.summary["n_ectopic"] is None
    assert m.to_json()["leads"]["I"]["beats"][0]["ectopic"] is None
    assert m.summary["n_paced"] == 0
    none = measure_waves(record, no_waves(record.leads, 500.0)).summary
    assert (none["n_ectopic"], none["n_paced"], none["cornell_mv"]) == (None, None, None)


def test_real_extrasystoles_are_seen_and_sinus_rhythm_has_none() -> None:
    with_some = ("ludb/106", "ludb/66", "ludb/7", "ludb/78", "ptbxl/00297", "ptbxl/00349")
    seen = [measure(read(SAMPLE / name)).summary["n_ectopic"] for name in with_some]
    assert min(seen) >= 1  # type: ignore[type-var]
    none = [measure(read(path)).summary["n_ectopic"] for path in normal_records()]
    assert sum(none) <= 1  # type: ignore[arg-type]
    assert len(none) >= 8


def normal_records() -> list[Path]:
    headers = sorted((SAMPLE / "ptbxl").glob("*.hea"))
    return [h for h in headers if "NORM 100" in h.read_text() and "SR 0" in h.read_text()][:10]


def test_voltage_indices_are_sums_of_r_and_s() -> None:
    record, waves = ecg()
    summary = measure_waves(record, waves).summary
    assert summary["sokolow_lyon_mv"] == pytest.approx(1.0 + 1.4, abs=0.02)  # S V1 + R V5
    m = measure_waves(record, waves)
    r_avl = float(np.median(m.beats["r_amp_mv"][m.leads.index("aVL")]))
    assert summary["cornell_mv"] == pytest.approx(r_avl + 1.0, abs=0.02)  # S V3
    assert summary["cornell_product_mv_ms"] == pytest.approx(
        summary["cornell_mv"] * summary["qrs_ms"],  # type: ignore[operator]
    )
    assert summary["peguero_mv"] == pytest.approx(1.3 + 0.6, abs=0.02)  # deepest is V2, and V4


def test_a_qs_complex_counts_by_its_depth() -> None:
    record, waves = ecg()
    signal = record.signal_mv.copy()
    v1 = record.leads.index("V1")
    onset, offset = waves.samples[0, :, 3].astype(int), waves.samples[0, :, 5].astype(int)
    for first, last in zip(onset, offset, strict=True):
        signal[v1, first : last + 1] = np.minimum(signal[v1, first : last + 1], 0.0)
    qs = measure_waves(dataclasses.replace(record, signal_mv=signal), waves)
    assert np.isnan(qs.beats["r_amp_mv"][v1]).all()
    assert qs.summary["sokolow_lyon_mv"] == pytest.approx(2.4, abs=0.02)


@pytest.mark.parametrize("how", ["missing", "not stored", "uncalibrated"])
def test_an_index_without_its_lead_is_null(how: str) -> None:
    record, waves = ecg()
    signal = record.signal_mv.copy()
    if how == "missing":
        marks = waves.samples.copy()
        signal[6], marks[6] = np.nan, np.nan
        record, waves = (
            dataclasses.replace(record, signal_mv=signal),
            dataclasses.replace(waves, samples=marks),
        )
    elif how == "not stored":
        leads = tuple(lead for lead in record.leads if lead != "V1")
        keep = [record.leads.index(lead) for lead in leads]
        record = dataclasses.replace(record, leads=leads, signal_mv=signal[keep])
        waves = Waves(leads, 500.0, waves.samples[keep])
    else:
        record = dataclasses.replace(record, calibrated=False)
    summary = measure_waves(record, waves).summary
    assert summary["sokolow_lyon_mv"] is None
    assert (summary["cornell_mv"] is None) == (how == "uncalibrated")
    assert (summary["cornell_product_mv_ms"] is None) == (how == "uncalibrated")
