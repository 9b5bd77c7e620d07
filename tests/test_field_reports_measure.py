"""What users of other packages met when they measured ECGs, made again: each ends as it should.

A test's docstring says what was met, and where.
"""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.intervals import measure_waves
from data_prep.marks import read_marks
from data_prep.measure import main, measure
from data_prep.measurement import Measurement
from data_prep.records import LEADS, BadInput, Record, read, resample
from data_prep.waves import FIDUCIALS, P_PEAK, QRS_PEAK, T_PEAK
from synthetic import ecg
from wfdb_records import write

SAMPLE = Path(__file__).parents[1] / "data_prep" / "sample"
INTERVALS = ("p_ms", "pr_ms", "qrs_ms", "qt_ms")


@cache
def sample(name: str) -> Record:
    return read(SAMPLE / name)


def with_signal(record: Record, signal: np.ndarray) -> Record:
    return dataclasses.replace(record, signal_mv=signal.astype(np.float32))


def in_order(m: Measurement) -> bool:
    """Returns whether the marks of every beat and lead rise, and none lies outside the record."""
    last = round(m.duration_s * m.sampling_rate_hz) - 1
    for lead in m.waves.samples:
        for beat in lead:
            known = np.flatnonzero(np.isfinite(beat))
            marks = beat[known]
            if ((marks < 0) | (marks > last)).any():
                return False
            ties = (known[:-1] == 2) & (known[1:] == 3)  # P may end where QRS begins
            if ((np.diff(marks) < 0) | ((np.diff(marks) == 0) & ~ties)).any():
                return False
    return True


@pytest.mark.parametrize("kind", ["flat", "missing", "short", "a blink", "one sample"])
def test_an_empty_record_is_measured_to_nulls_with_a_reason(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """NeuroKit#364, #472, #580, #773: flat, missing and short records ended in a traceback."""
    record, _ = ecg(rate_bpm=25.0)
    rows = np.rint(record.signal_mv * 1000)
    made = {
        "flat": np.zeros_like(rows),
        "missing": np.full_like(rows, -32768),
        "short": rows[:, 600:1600],
        "a blink": rows[:, :100],
        "one sample": rows[:, :1],
    }[kind]
    write(tmp_path / "bad", dict(zip(LEADS, made.astype(np.int16), strict=True)), 500)
    for given in ((tmp_path / "bad",), (tmp_path, SAMPLE / "ludb" / "11")):
        assert main(given, json=True, processes=1) == 0
        one = json.loads(capsys.readouterr().out.splitlines()[0])
        assert one["global"]["heart_rate_bpm"] is None
        assert one["global"]["rhythm_regular"] is None
        assert one["global"]["n_ectopic"] is None
        assert any("QRS found" in reason for reason in one["quality"]["reasons"])
        if kind == "flat":
            assert "flat" in one["quality"]["leads"]["V2"]["reasons"][0]


def test_an_inverted_t_is_found_where_the_cardiologist_saw_it() -> None:
    """NeuroKit#1138, LUDB record 11, lead II: the T peak was put 124 to 200 ms off."""
    m, truth = measure(sample("ludb/11")), read_marks(SAMPLE / "ludb" / "11")
    marked = truth.samples[truth.leads.index("II"), :, T_PEAK]
    two = m.leads.index("II")
    found = m.waves.samples[two, :, T_PEAK]
    off_ms = np.abs(found[:, None] - marked[np.isfinite(marked)]).min(axis=0) * 2.0
    assert off_ms.max() <= 30
    inside = (found > np.nanmin(marked) - 100) & (found < np.nanmax(marked) + 100)
    assert (m.beats["t_amp_mv"][two, inside] < 0).all()


def test_an_inverted_lead_keeps_its_times_and_turns_its_amplitudes() -> None:
    """NeuroKit#368, #1186: with I negative, R was sought in the wrong place."""
    record = sample("ptbxl/00270")
    turned = record.signal_mv.copy()
    turned[0] *= -1
    before, after = measure(record), measure(with_signal(record, turned))
    assert after.summary["n_beats"] == before.summary["n_beats"]
    beats = min(after.waves.num_beats, before.waves.num_beats)  # the last may be a P alone
    marks = [m.waves.samples[0, :beats, 3:6] for m in (before, after)]
    assert np.nanmax(np.abs(marks[1] - marks[0])) * 2.0 <= 20

    def of(m: Measurement, key: str) -> np.ndarray:
        return m.beats[key][0, : int(m.summary["n_beats"])]  # type: ignore[arg-type]

    assert np.isfinite(of(before, "qrs_area_mv_ms")).all()
    assert np.allclose(of(after, "qrs_area_mv_ms"), -of(before, "qrs_area_mv_ms"), atol=3.0)
    deep = np.fmin(of(after, "q_amp_mv"), of(after, "s_amp_mv"))
    assert np.allclose(deep, -of(before, "r_amp_mv"), atol=0.05)


def test_marks_are_in_order_and_pr_is_the_cardiologists() -> None:
    """NeuroKit#1042, #761: 52 ms of PR for 130 ms, onsets after their peaks."""
    errors = []
    for header in sorted((SAMPLE / "ludb").glob("*.hea"))[::10]:
        record = read(header)
        m = measure(record)
        assert in_order(m), header
        truth = measure_waves(record, read_marks(header)).summary["pr_ms"]
        found = m.summary["pr_ms"]
        if truth is not None and found is not None:
            errors.append(abs(found - truth))
    assert len(errors) >= 8
    assert np.median(errors) <= 20


@pytest.mark.parametrize("rate_bpm", [140.0, 180.0])
def test_a_fast_rhythm_does_not_tangle(rate_bpm: float) -> None:
    """NeuroKit#506: at 140 bpm T, P and QRS offsets ran into one another."""
    record, waves = ecg(rate_bpm=rate_bpm)
    m = measure(record)
    assert abs(m.summary["n_beats"] - waves.num_beats) <= 1  # type: ignore[operator]
    assert in_order(m)
    t_offset, p_onset = m.waves.samples[:, :-1, 8], m.waves.samples[:, 1:, 0]
    assert not (t_offset > p_onset).any()


@pytest.mark.parametrize("where", ["begin", "end"])
def test_a_beat_at_the_edge_is_there(where: str) -> None:
    """NeuroKit#481, #422: an R near an edge gave an index outside the record."""
    record, waves = ecg()
    r = int(waves.samples[0, 3 if where == "begin" else -3, QRS_PEAK])
    cut = slice(r - 5, None) if where == "begin" else slice(None, r + 4)
    m = measure(with_signal(record, record.signal_mv[:, cut]))
    assert in_order(m)
    whole = [beat for beat in range(waves.num_beats) if where == "begin" and beat > 3]
    assert m.summary["n_beats"] >= len(whole)  # type: ignore[operator]
    json.dumps(m.to_json(), allow_nan=False)


@pytest.mark.parametrize("rate_hz", [100.0, 200.0, 1000.0])
def test_the_rate_is_never_assumed(rate_hz: float) -> None:
    """NeuroKit#134, #304: 1000 Hz was assumed of a signal of 200 Hz."""
    record = sample("ptbxl/00164")
    expected = measure(record).summary
    found = measure(resample(record, rate_hz)).summary
    assert found["heart_rate_bpm"] == pytest.approx(expected["heart_rate_bpm"], abs=1.0)
    lowest = min(rate_hz, 500.0)
    for key in INTERVALS:
        assert found[key] == pytest.approx(expected[key], abs=1000.0 / lowest + 2.0), key


def test_a_signal_without_a_rate_is_refused(tmp_path: Path) -> None:
    """NeuroKit#134: a rate was made up where none was given."""
    stem = write(tmp_path / "rate", {"II": np.arange(500, dtype=np.int16)}, "0")
    with pytest.raises(BadInput):
        measure(read(stem))


def test_peaks_are_the_extrema_of_the_raw_lead() -> None:
    """NeuroKit#553: peaks stood beside the maximum."""
    record = sample("ptbxl/00270")
    m = measure(record)
    beside = []
    for row, beats in zip(record.signal_mv, m.waves.samples, strict=True):
        for peak in (P_PEAK, QRS_PEAK, T_PEAK):
            for at in beats[np.isfinite(beats[:, peak]), peak].astype(int):
                if 3 <= at < row.size - 3:
                    near = row[at - 3 : at + 4]
                    top = at - 3 + min((near.argmax(), near.argmin()), key=lambda i: abs(i - 3))
                    beside.append(abs(top - at) > 1)
    assert len(beside) > 200
    assert np.mean(beside) < 0.05  # a P on the slope of a T has no extremum of its own


def test_one_missing_sample_changes_nothing_but_its_beat() -> None:
    """OSAS#2: NaN was filled without a word, or spread over the lead."""
    record = sample("ptbxl/00270")
    whole = measure(record)
    two, beat = record.leads.index("II"), 4
    at = int(whole.waves.samples[two, beat, QRS_PEAK])
    signal = record.signal_mv.copy()
    signal[two, at] = np.nan
    m = measure(with_signal(record, signal))
    leads = m.quality["leads"]
    assert leads["II"]["missing_samples"] == 1
    assert {leads[lead]["missing_samples"] for lead in LEADS if lead != "II"} == {0}
    assert m.waves.num_beats == whole.waves.num_beats
    others = [k for k in range(m.waves.num_beats) if k != beat]
    for key, values in m.beats.items():
        was = whole.beats[key]
        assert np.allclose(values[two, others], was[two, others], equal_nan=True, atol=0.02), key
        rest = np.delete(values, two, 0) - np.delete(was, two, 0)
        assert np.nanmax(np.abs(rest), initial=0) < 4.1, key  # bounds are found on all leads
    assert np.isnan(m.beats["r_amp_mv"][two, beat])
    for key in INTERVALS:
        assert m.summary[key] == pytest.approx(whole.summary[key], abs=2.0)


@pytest.mark.parametrize("name", ["ptbxl/00270", "ptbxl/00164", "ludb/1"])
def test_a_sample_missing_in_all_leads_deletes_no_beat(name: str) -> None:
    record = sample(name)
    whole = measure(record)
    at = int(np.nanmedian(whole.waves.samples[:, 4, QRS_PEAK]))
    signal = record.signal_mv.copy()
    signal[:, at] = np.nan
    m = measure(with_signal(record, signal))
    assert m.waves.num_beats == whole.waves.num_beats
    for key in ("heart_rate_bpm", "rr_sd_ms"):
        assert m.summary[key] == pytest.approx(whole.summary[key], abs=1.5)
    assert np.isnan(m.beats["qrs_area_mv_ms"][:, 4]).all()
    signal[:, at - 40 : at + 40] = np.nan
    lost = measure(with_signal(record, signal)).waves.samples[:, :, QRS_PEAK]
    assert not (np.abs(lost - at) < 40).any(), "the control: a gap as long as the QRS hides it"


def test_missing_samples_are_no_pacing_spikes() -> None:
    record, waves = ecg(noise_mv=0.005)
    at = np.rint(waves.samples[0, :, 3]).astype(int) - 8
    signal = record.signal_mv + np.float32(1.0)
    signal[:, at] = np.nan
    assert measure(with_signal(record, signal)).summary["n_paced"] == 0
    signal[:, at] = 3.0
    assert measure(with_signal(record, signal)).summary["n_paced"] == waves.num_beats


def test_a_record_that_begins_late_is_measured_where_it_is() -> None:
    record, waves = ecg()
    signal = record.signal_mv.copy()
    signal[:, :3000] = np.nan
    m = measure(with_signal(record, signal))
    peaks = m.waves.samples[1, :, QRS_PEAK]
    expected = waves.samples[1, :, QRS_PEAK]
    assert np.abs(peaks - expected[expected > 3050][: len(peaks)]).max() <= 5
    assert m.summary["heart_rate_bpm"] == pytest.approx(72.0, abs=0.5)


def test_beats_in_a_gap_are_absent_and_no_rr_crosses_it() -> None:
    """wfdb-python#14: a record of segments has gaps, which are no pauses of the heart."""
    record, waves = ecg(rate_bpm=75)
    signal = record.signal_mv.copy()
    signal[:, 2000:2500] = np.nan
    m = measure(with_signal(record, signal))
    times = m.waves.samples[1, :, QRS_PEAK]
    assert not ((times >= 2000) & (times < 2500)).any()
    after = int(np.flatnonzero(times >= 2500)[0])
    assert np.isnan(m.beats["rr_ms"][:, after]).all()
    assert m.summary["heart_rate_bpm"] == pytest.approx(75.0, abs=0.5)
    assert m.summary["rhythm_regular"] is True
    assert m.quality["leads"]["V1"]["missing_samples"] == 500
    short = record.signal_mv.copy()
    quiet = int(waves.samples[0, 5, 8]) + 15
    short[:, quiet : quiet + 3] = np.nan  # too short to hide a beat
    m = measure(with_signal(record, short))
    assert np.isfinite(m.beats["rr_ms"][0, 1:]).all()


@pytest.mark.parametrize("name", ["ptbxl/00318", "ptbxl/00337", "ludb/112", "ludb/173"])
def test_atrial_fibrillation_has_no_p_and_is_irregular(name: str) -> None:
    """After NeuroKit#1032: P waves were marked in fibrillation."""
    m = measure(sample(name))
    assert np.isfinite(m.waves.samples[:, :, P_PEAK]).mean() < 0.1
    assert m.summary["rhythm_regular"] is False
    assert m.summary["pr_ms"] is None or np.isfinite(m.waves.samples[:, :, P_PEAK]).any()


@pytest.mark.parametrize("name", ["ptbxl/00338", "ptbxl/00489"])
def test_a_left_bundle_branch_block_is_wide(name: str) -> None:
    """After NeuroKit#1138: offsets were put amid a wide QRS."""
    assert measure(sample(name)).summary["qrs_ms"] >= 120  # type: ignore[operator]


@pytest.mark.parametrize("name", ["ptbxl/00190", "ptbxl/00385", "ludb/72", "ludb/93", "ludb/111"])
def test_pacing_spikes_are_seen_and_not_taken_for_r(name: str) -> None:
    """After NeuroKit#1138: a spike is no beat, and no R."""
    m = measure(sample(name))
    said: dict[str, Any] = m.to_json()
    assert m.summary["n_paced"] >= 0.8 * m.summary["n_beats"]  # type: ignore[operator]
    assert said["leads"]["I"]["beats"][2]["paced"] is True
    assert m.summary["n_ectopic"] == 0
    rr = m.beats["rr_ms"][0]
    assert np.nanmin(rr) > 0.6 * np.nanmedian(rr), "a spike would be a beat close to its own"
    assert set(FIDUCIALS) <= set(said["leads"]["I"]["beats"][2])
    assert measure(sample("ptbxl/00338")).summary["n_paced"] == 0, "without spikes none is paced"


def test_the_paced_beats_of_a_demand_pacemaker_are_told_from_the_hearts_own() -> None:
    """After NeuroKit#1138: fibrillation with three paced beats among ten of its own."""
    m = measure(sample("ptbxl/00382"))
    assert np.flatnonzero(m.paced == 1).size == 3
    assert m.summary["n_ectopic"] == 0


def test_a_spike_sets_no_amplitude_of_a_paced_beat() -> None:
    """After NeuroKit#1138: spikes of 1.1 mV in II, where the paced complexes rise to 0.6 mV."""
    record = sample("ptbxl/00190")
    m = measure(record)
    two = record.leads.index("II")
    r_mv, onset, offset = (
        m.beats["r_amp_mv"][two],
        m.waves.samples[two, :, 3],
        m.waves.samples[two, :, 5],
    )
    whole = (m.paced == 1) & np.isfinite(onset) & np.isfinite(offset)
    within = [
        record.signal_mv[two, int(a) : int(b)].max()
        for a, b in zip(onset[whole], offset[whole], strict=True)
    ]
    assert np.median(within) > 0.9, "the control: the spike lies in QRS"
    assert np.nanmax(r_mv[whole]) < 0.8
