import shutil

import numpy as np
import pytest
import wfdb

from data_prep.marks import pair_brackets, read_marks
from data_prep.records import LEADS, BadInput
from data_prep.sample_index import SAMPLE
from data_prep.waves import FIDUCIALS

COLUMN = {name: index for index, name in enumerate(FIDUCIALS)}


def _write(stem, marks):
    """Annotation files by lead: text of symbols, and their samples; a header beside them."""
    stem.with_suffix(".hea").write_text(
        f"{stem.name} 1 500 5000\n{stem.name}.dat 16 1000/mV 16 0\n"
    )
    for lead, (symbols, samples) in marks.items():
        wfdb.wrann(stem.name, lead, np.array(samples), list(symbols), write_dir=str(stem.parent))
    return stem


def test_record_1_is_what_its_annotation_files_say():
    waves = read_marks(SAMPLE / "ludb" / "1")
    assert waves.leads == LEADS
    assert waves.sampling_rate_hz == 500
    assert waves.samples.dtype == np.float64
    native = wfdb.rdann(str(SAMPLE / "ludb" / "1"), "i")
    assert list(native.symbol[:9]) == list("(N)(t)(p)")
    first, second = waves.samples[0, 0], waves.samples[0, 1]
    np.testing.assert_array_equal(first[3:9], native.sample[:6])
    assert np.isnan(first[:3]).all()
    np.testing.assert_array_equal(second[:3], native.sample[6:9])


@pytest.mark.parametrize("number", [1, 8, 38, 47, 83, 101, 106, 111, 116, 198])
def test_every_marked_qrs_is_in_one_beat_and_beats_are_the_same_over_leads(number):
    path = SAMPLE / "ludb" / str(number)
    waves = read_marks(path)
    peaks = waves.samples[:, :, COLUMN["qrs_peak"]]
    for lead, row in zip(LEADS, peaks, strict=True):
        native = wfdb.rdann(str(path), lead.lower())
        marked = [s for s, kind in zip(native.sample, native.symbol, strict=True) if kind == "N"]
        assert row[~np.isnan(row)].tolist() == marked
    middle = np.nanmedian(peaks, axis=0)
    assert np.nanmax(np.abs(peaks - middle)) < 0.12 * 500
    assert np.diff(middle).min() > 0.25 * 500
    assert (
        np.nan_to_num(np.diff(waves.samples, axis=2)) >= 0
    ).all()  # onset, peak, offset; P, QRS, T


def test_a_mark_that_is_not_there_is_nan():
    assert pair_brackets(list("N)(t"), [10, 20, 30, 40])[1][1:3] == (30, 40)
    assert np.isnan(pair_brackets(list("(t(p)"), [1, 2, 3, 4, 5])[0].offset)
    (wave,) = pair_brackets(list("N"), [10])
    assert np.isnan([wave.onset, wave.offset]).all()


def test_onset_at_or_just_after_its_peak_is_the_peak():
    (late,) = pair_brackets(list("N()"), [10, 12, 30])
    assert late[1:] == (10, 10, 30)
    (absorbed,) = pair_brackets(list("N)"), [10, 30])
    assert absorbed[1:] == (10, 10, 30)


def test_marks_set_several_times_count_once():
    (wave,) = pair_brackets(list("(((ttt)))"), [1, 2, 3, 11, 12, 13, 21, 22, 23])
    assert wave[1:] == (2, 12, 22)


def test_brackets_without_a_peak_are_no_wave():
    waves = pair_brackets(list("(t)()(N)"), range(8))
    assert [wave.kind for wave in waves] == ["t", "N"]


def test_beats_are_aligned_where_a_lead_lacks_one(tmp_path):
    three = ("(N)(t)" * 3, [*range(500, 506), *range(1000, 1006), *range(1500, 1506)])
    two = ("(N)(t)" * 2, [*range(520, 526), *range(1520, 1526)])
    waves = read_marks(_write(tmp_path / "x", {"ii": three, "avf": two}))
    assert waves.leads == ("II", "aVF")
    np.testing.assert_array_equal(
        waves.samples[:, :, COLUMN["qrs_peak"]], [[501, 1001, 1501], [521, np.nan, 1521]]
    )


def test_a_blocked_p_is_a_beat_of_its_own(tmp_path):
    marks = ("(p)(N)(t)(p)(p)(N)", [100, 105, 110, 180, 190, 200, 300, 310, 320])
    marks[1].extend([500, 505, 510, 900, 905, 910, 980, 990, 1000])
    waves = read_marks(_write(tmp_path / "x", {"i": marks, "ii": marks}))
    assert waves.samples.shape == (2, 3, 9)
    np.testing.assert_array_equal(waves.samples[1, :, COLUMN["p_peak"]], [105, 505, 905])
    np.testing.assert_array_equal(waves.samples[1, :, COLUMN["qrs_peak"]], [190, np.nan, 990])


def test_a_far_p_is_not_conducted(tmp_path):
    marks = ("(p)(N)", [100, 105, 110, 400, 410, 420])  # PR 600 ms
    waves = read_marks(_write(tmp_path / "x", {"i": marks}))
    assert waves.samples.shape == (1, 2, 9)


def test_a_record_without_marks_and_a_broken_file_are_refused(tmp_path):
    with pytest.raises(BadInput, match="no marks"):
        read_marks(SAMPLE / "ptbxl" / "00002")
    for suffix in (".hea", ".i"):
        shutil.copy(SAMPLE / "ludb" / f"1{suffix}", tmp_path / f"1{suffix}")
    (tmp_path / "1.i").write_bytes(b"x")
    with pytest.raises(BadInput, match="not a WFDB annotation file"):
        read_marks(tmp_path / "1")
