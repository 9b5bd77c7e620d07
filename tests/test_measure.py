"""Measurements: definitions to the digit on made signals, the verb on real and on bad records."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep.augment import Change, apply
from data_prep.intervals import corrected_qt, global_bounds, measure_waves
from data_prep.marks import read_marks
from data_prep.measure import Measurement, main, measure, measure_files, table
from data_prep.measurement import BEAT_KINDS, BEAT_QUANTITIES
from data_prep.records import LEADS, BadInput, Record, read
from data_prep.waves import FIDUCIALS, Waves, no_waves
from synthetic import ecg

SAMPLE = Path(__file__).parents[1] / "data_prep" / "sample"
GLOBAL = [
    "n_beats",
    "heart_rate_bpm",
    "rr_sd_ms",
    "rhythm_regular",
    "p_ms",
    "pr_ms",
    "qrs_ms",
    "qt_ms",
    "qtc_bazett_ms",
    "qtc_fridericia_ms",
    "qtc_framingham_ms",
    "qtc_hodges_ms",
    "n_ectopic",
    "n_paced",
    "axis_deg",
    "sokolow_lyon_mv",
    "cornell_mv",
    "lewis_mv",
    "gubner_mv",
    "peguero_mv",
    "cornell_product_mv_ms",
]


def boxes(heights_mv: dict[str, float], level_mv: float = 0.2) -> tuple[Record, Waves]:
    """Returns two leads at 500 Hz with three beats of rectangles, so that sums are known."""
    row = np.full(2500, level_mv, np.float32)
    marks = []
    for start in (500, 1000, 1500):
        p, q, r, s, st, t = (start + shift for shift in (-80, 0, 10, 30, 40, 120))
        row[p : p + 40] += heights_mv.get("p", 0.0)
        row[q : q + 10] += heights_mv.get("q", 0.0)
        row[r : r + 20] += heights_mv.get("r", 0.0)
        row[s : s + 10] += heights_mv.get("s", 0.0)
        row[st : st + 60] += heights_mv.get("st", 0.0)
        row[t : t + 50] += heights_mv.get("t", 0.0)
        marks.append([p, p + 20, p + 40, q, r + 5, s + 10, t, t + 20, t + 50])
    leads = ("I", "aVF")
    record = Record("boxes", leads, np.stack([row, row]), 500.0)
    return record, Waves(leads, 500.0, np.array([marks, marks], float))


def test_amplitudes_and_area_count_from_the_pq_level() -> None:
    heights = {"p": 0.1, "q": -0.1, "r": 1.0, "s": -0.3, "st": 0.05, "t": 0.25}
    record, waves = boxes(heights)
    beats = measure_waves(record, waves).beats
    assert set(beats) == set(BEAT_QUANTITIES)
    for key in "pqrst":
        assert beats[f"{key}_amp_mv"] == pytest.approx(heights[key], abs=1e-6), key
    assert beats["st_mv"] == pytest.approx(0.05, abs=1e-6)
    # 10 samples of -0.1, 20 of 1.0, 10 of -0.3 mV, 2 ms each, and one of ST at the offset.
    assert beats["qrs_area_mv_ms"] == pytest.approx(2 * (-1.0 + 20.0 - 3.0 + 0.05), abs=1e-3)
    assert beats["pr_ms"] == pytest.approx(160.0)
    assert beats["qrs_ms"] == pytest.approx(80.0)
    assert beats["qt_ms"] == pytest.approx(340.0)
    assert np.isnan(beats["rr_ms"][:, 0]).all()
    assert beats["rr_ms"][:, 1:] == pytest.approx(1000.0)


@pytest.mark.parametrize("rate_hz", [250.0, 500.0, 1000.0])
def test_st_is_60_ms_after_the_j_point_above_the_16_ms_before_the_qrs(rate_hz: float) -> None:
    per_ms = rate_hz / 1000
    ramp = np.arange(2000.0 * per_ms, dtype=np.float32) / per_ms  # mV: the time in ms
    marks = np.full((1, 1, len(FIDUCIALS)), np.nan)
    marks[0, 0, 3:6] = np.array([1000.0, 1040.0, 1100.0]) * per_ms
    beats = measure_waves(
        Record("ramp", ("II",), ramp[None], rate_hz), Waves(("II",), rate_hz, marks)
    ).beats
    middle_of_pq = 1000.0 - (16.0 + 1 / per_ms) / 2
    assert beats["st_mv"].item() == pytest.approx(1160.0 - middle_of_pq)


def test_a_complex_that_never_turns_upright_is_a_q() -> None:
    record, waves = boxes({"q": -0.5, "r": -1.0, "s": -0.2})
    beats = measure_waves(record, waves).beats
    assert beats["q_amp_mv"] == pytest.approx(-1.0)
    assert np.isnan(beats["r_amp_mv"]).all()
    assert np.isnan(beats["s_amp_mv"]).all()


def test_a_complex_that_begins_upright_has_no_q() -> None:
    record, waves = boxes({"q": 0.3, "r": -1.0, "s": 0.6})
    beats = measure_waves(record, waves).beats
    assert np.isnan(beats["q_amp_mv"]).all()
    assert beats["r_amp_mv"] == pytest.approx(0.6)
    assert beats["s_amp_mv"] == pytest.approx(-1.0)


@pytest.mark.parametrize("axis_deg", [-150.0, -30.0, 0.0, 60.0, 90.0, 170.0])
def test_the_axis_is_that_of_the_heart_vector(axis_deg: float) -> None:
    record, waves = ecg(axis_deg=axis_deg)
    assert measure_waves(record, waves).summary["axis_deg"] == pytest.approx(axis_deg, abs=2.0)
    found = measure(record).summary["axis_deg"]
    assert isinstance(found, float)
    assert abs((found - axis_deg + 180) % 360 - 180) < 5


def test_global_bounds_pass_over_one_stray_lead() -> None:
    samples = np.full((4, 1, 9), np.nan)
    samples[:, 0, 3], samples[:, 0, 5] = [90, 100, 102, 104], [150, 152, 154, 190]
    onset, offset = global_bounds(Waves(LEADS[:4], 500.0, samples))
    assert (onset[1, 0], offset[1, 0]) == (100, 154)
    onset, offset = global_bounds(Waves(LEADS[:2], 500.0, samples[[0, 3]]))
    assert (onset[1, 0], offset[1, 0]) == (90, 190)
    samples[:2] = np.nan
    onset, _ = global_bounds(Waves(LEADS[:4], 500.0, samples))
    assert onset[1, 0] == 102
    assert np.isnan(onset[[0, 2], 0]).all()


def test_corrected_qt_at_sixty_is_qt_and_follows_the_formulas() -> None:
    assert set(corrected_qt(400.0, 60.0).values()) == {400.0}
    fast = corrected_qt(360.0, 240.0 / 2)  # RR 0.5 s
    assert fast["qtc_bazett_ms"] == pytest.approx(360 / 0.5**0.5)
    assert fast["qtc_fridericia_ms"] == pytest.approx(360 / 0.5 ** (1 / 3))
    assert fast["qtc_framingham_ms"] == pytest.approx(360 + 77)
    assert fast["qtc_hodges_ms"] == pytest.approx(360 + 105)
    assert set(corrected_qt(None, 60.0).values()) == {None}


def test_regularity_and_rate() -> None:
    for rate_bpm in (48.0, 75.0, 130.0):
        regular = measure(ecg(rate_bpm=rate_bpm)[0]).summary
        assert regular["heart_rate_bpm"] == pytest.approx(rate_bpm, abs=0.5)
        assert regular["rhythm_regular"] is True
    assert measure(ecg(jitter_ms=150)[0]).summary["rhythm_regular"] is False


def test_a_p_without_its_qrs_leaves_rate_and_intervals_alone() -> None:
    record, waves = ecg()
    lone = np.full((12, 1, 9), np.nan)
    lone[:, 0, :3] = waves.samples[:, 3, :3] + 250
    samples = np.insert(waves.samples, [4], lone, axis=1)
    blocked = measure_waves(record, dataclasses.replace(waves, samples=samples))
    assert blocked.summary == measure_waves(record, waves).summary
    assert np.isnan(blocked.beats["rr_ms"][:, 4]).all()
    assert np.isfinite(blocked.beats["rr_ms"][:, 5]).all()


def test_beats_that_a_gap_may_hide_do_not_slow_the_rate() -> None:
    record, _ = ecg(rate_bpm=75)
    signal = record.signal_mv.copy()
    signal[:, 1500:3000] = np.nan
    summary = measure(dataclasses.replace(record, signal_mv=signal)).summary
    assert summary["heart_rate_bpm"] == pytest.approx(75, abs=0.5)
    assert summary["rhythm_regular"] is True


def test_stretched_time_and_turned_axis_measure_exactly() -> None:
    record, waves = ecg()
    before = measure_waves(record, waves).summary
    change = Change(time_scale=1.25, rotation_deg=40.0, length_s=12.5)
    after = measure_waves(*apply(record, waves, change)).summary
    assert after["heart_rate_bpm"] == pytest.approx(before["heart_rate_bpm"] / 1.25, rel=1e-3)
    for key in ("pr_ms", "qrs_ms", "qt_ms"):
        assert after[key] == pytest.approx(before[key] * 1.25, rel=1e-2)
    assert after["axis_deg"] == pytest.approx(before["axis_deg"] + 40, abs=0.5)


def test_uncalibrated_records_have_times_and_no_amplitudes() -> None:
    record, _ = ecg()
    measured = measure(dataclasses.replace(record, calibrated=False))
    assert measured.summary["axis_deg"] is None
    assert measured.summary["qt_ms"] is not None
    for key, values in measured.beats.items():
        assert np.isnan(values).all() == ("mv" in key), key
    assert any("calibrated" in reason for reason in measured.quality["reasons"])


def test_no_waves_measure_to_nothing() -> None:
    record, _ = ecg()
    measured = measure_waves(record, no_waves(record.leads, 500.0))
    assert measured.summary["n_beats"] == 0
    assert {v for key, v in measured.summary.items() if key != "n_beats"} == {None}


def test_rate_and_axis_of_real_records_are_those_within_the_marks() -> None:
    rate_errors, axis_errors = [], []
    for header in sorted((SAMPLE / "ludb").rglob("*.hea"))[::12]:
        record = read(header)
        truth = measure_waves(record, read_marks(header)).summary
        found = measure(record).summary
        rate_errors.append(abs(found["heart_rate_bpm"] - truth["heart_rate_bpm"]))
        axis_errors.append(abs((found["axis_deg"] - truth["axis_deg"] + 180) % 360 - 180))
    assert np.median(rate_errors) < 1.0
    assert np.median(axis_errors) < 5.0
    assert max(axis_errors) < 30.0


def test_json_is_the_contract_and_comes_back(sample_record_path: Path) -> None:
    measured = measure(read(sample_record_path))
    said = json.loads(json.dumps(measured.to_json(), allow_nan=False))
    assert said["record"] == str(sample_record_path)
    assert list(said["leads"]) == list(LEADS)
    assert list(said["global"]) == GLOBAL
    lead = said["leads"]["II"]
    assert lead["derived"] is False
    assert set(lead["beats"][0]) == {*FIDUCIALS, *BEAT_QUANTITIES, *BEAT_KINDS}
    for beat in lead["beats"]:
        assert all(isinstance(beat[key], int | None) for key in FIDUCIALS)
    assert said["quality"]["lead_identity"]["verdict"] == "ok"
    back = Measurement.from_json(said)
    assert back.to_json() == said
    assert np.array_equal(back.waves.samples, measured.waves.samples, equal_nan=True)


def test_files_are_measured_in_order_by_two_processes_and_kept(tmp_path: Path) -> None:
    paths: list[Path] = [h.with_suffix("") for h in sorted(SAMPLE.rglob("*.hea"))[:5]]
    paths.insert(2, tmp_path / "absent")
    one = list(measure_files(paths, processes=1, cache_dir=tmp_path / "kept"))
    assert [isinstance(result, BadInput) for result in one] == [i == 2 for i in range(6)]
    assert len(list((tmp_path / "kept").glob("*.json"))) == 5
    two = list(measure_files(paths, processes=2))
    kept = list(measure_files(paths, processes=1, cache_dir=tmp_path / "kept"))
    for first, second, third in zip(one, two, kept, strict=True):
        if isinstance(first, Measurement):
            assert isinstance(second, Measurement)
            assert isinstance(third, Measurement)
            assert first.to_json() == second.to_json() == third.to_json()


def test_the_verb_prints_good_records_and_names_bad_ones(
    tmp_path: Path, sample_record_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "deep" / "folder"
    folder.mkdir(parents=True)
    for file in sample_record_path.parent.glob(f"{sample_record_path.name}[._]*"):
        shutil.copy(file, folder)
    (tmp_path / "empty").mkdir()
    given = (tmp_path / "deep", tmp_path / "absent", tmp_path / "empty")
    assert main(given, json=True, processes=1) == 2
    out, err = capsys.readouterr()
    (line,) = out.splitlines()
    assert json.loads(line)["record"] == str(folder / sample_record_path.name)
    bad = [text for text in err.splitlines() if text.startswith("gem-jax measure:")]
    assert len(bad) == 2
    assert "empty" in bad[0]
    assert "absent" in bad[1]
    assert main((tmp_path / "deep",)) == 0
    assert "heart_rate_bpm" in capsys.readouterr().out
    with pytest.raises(BadInput):
        main(())


def test_the_table_tells_what_to_beware_of() -> None:
    record, _ = ecg()
    text = table(measure(dataclasses.replace(record, calibrated=False, notes=("odd",))))
    assert "! odd" in text
    assert "axis_deg -" in text


def test_the_verb_leaves_jax_alone(sample_record_path: Path) -> None:
    code = (
        "import sys; from gem_jax.cli import main; "
        f"status = main(['measure', '--json', {str(sample_record_path)!r}]); "
        "print([m for m in ('jax', 'flax', 'neurokit2') if m in sys.modules]); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == "[]"
