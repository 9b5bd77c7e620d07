import numpy as np
import pytest

from data_prep.records import LEADS, BadInput, check, find, read
from wfdb_records import edit_header, samples, write

ROWS = samples(1000, 100.0)


def _part(start, stop, scale=1) -> dict[str, np.ndarray]:
    return {lead: (row[start:stop] * scale).astype(np.int16) for lead, row in ROWS.items()}


@pytest.fixture
def fixed(tmp_path):
    """400 samples at 1000 per mV, a gap of 100, and 500 at 500 per mV."""
    write(tmp_path / "m_0001", _part(0, 400))
    write(tmp_path / "m_0002", _part(500, 1000, 0.5), gain="500(0)/mV")
    text = "m/3 12 100 1000\nm_0001 400\n~ 100\nm_0002 500\n# Age: 61\n# Name: X\n"
    (tmp_path / "m.hea").write_text(text)
    return tmp_path / "m"


def _refused(stem) -> str:
    with pytest.raises(BadInput) as caught:
        read(stem)
    with pytest.raises(BadInput):
        check(stem)
    assert "\n" not in str(caught.value)
    assert str(stem) in str(caught.value)
    return str(caught.value)


def test_segments_are_one_record_each_with_its_gain_and_gaps_are_missing(fixed):
    check(fixed)
    record = read(fixed)
    assert record.leads == record.stored_leads == LEADS
    assert record.duration_s == 10.0
    expected = np.stack(list(ROWS.values())) / 1000
    known = np.isfinite(record.signal_mv)
    assert not known[:, 400:500].any()
    assert known[:, :400].all()
    assert known[:, 500:].all()
    np.testing.assert_allclose(record.signal_mv[known], expected[known], atol=2e-3)
    assert "gaps between segments: 1.00 s are missing" in record.notes
    assert record.meta == {"age": 61.0}
    assert record.calibrated


def test_a_folder_counts_its_segments_once(fixed):
    assert find([fixed.parent]) == [fixed]
    write(fixed.parent / "other_0001", _part(0, 400))
    assert find([fixed.parent]) == [fixed, fixed.parent / "other_0001"]
    assert read(fixed.parent / "m_0001").duration_s == 4.0  # one that is asked for


def test_a_header_of_a_segment_may_leave_rate_and_length_to_the_whole(fixed):
    edit_header(fixed.parent / "m_0001", "m_0001 12 100 400", "m_0001 12")
    assert read(fixed).duration_s == 10.0


def test_the_variable_layout_has_leads_that_come_and_go(tmp_path):
    layout = "\n".join(f"~ 0 1000(0)/mV 16 0 0 0 0 {lead}" for lead in ("II", "V1", "I"))
    (tmp_path / "m_layout.hea").write_text(f"m_layout 3 100 0\n{layout}\n")
    write(tmp_path / "m_0001", {lead: ROWS[lead][:600] for lead in ("V1", "II")})
    write(tmp_path / "m_0002", {lead: ROWS[lead][600:] for lead in ("II", "I")})
    (tmp_path / "m.hea").write_text("m/3 3 100 1000\nm_layout 0\nm_0001 600\nm_0002 400\n")
    record = read(tmp_path / "m")
    assert {"I", "II", "V1"} == set(record.stored_leads)
    for lead, (start, stop) in {"I": (600, 1000), "II": (0, 1000), "V1": (0, 600)}.items():
        row = record.signal_mv[record.leads.index(lead)]
        np.testing.assert_allclose(row[start:stop], ROWS[lead][start:stop] / 1000, atol=1e-6)
        assert np.isnan(np.delete(row, np.s_[start:stop])).all()
    assert find([tmp_path]) == [tmp_path / "m"]


def test_faults_of_a_segment_name_it(fixed):
    edit_header(fixed.parent / "m_0002", "500(0)/mV 16 0 0 ", "500(0)/mV 16 0 9 ")
    assert any("segment m_0002: first sample" in n for n in read(fixed).lead_notes["V1"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("m_0002 500\n", "", "3 segments and 2 lines"),
        ("m_0002 500", "m_0003 500", "segment m_0003: is missing"),
        ("m_0001 400", "m_0001 300", "1000 samples and its segments 900"),
        ("1000\nm_0001 400", "900\nm_0001 300", "segment m_0001: 400 samples"),
        ("12 100 1000", "12 250 1000", "segment m_0001: is of 100.0 Hz"),
        ("m_0002 500", "../m_0002 500", "leaves the record's folder"),
        ("m_0002 500", "m_0002 many", "garbled segment line"),
        ("m_0002 500", "m 500", "segment m: is of 3 segments"),
        ("~ 100", "~ 999999999999", "samples, expected"),
        ("m/3", "m/99999", "99999 segments"),
        ("m/3", "m/0", "0 segments"),
    ],
)  # fmt: skip
def test_faulty_segments_are_refused_by_name(fixed, old, new, said):
    assert said in _refused(edit_header(fixed, old, new))


def test_a_lead_is_upright_or_inverted_in_all_segments(fixed):
    for name in ("m_0001", "m_0002"):
        edit_header(fixed.parent / name, " aVR\n", " -aVR\n")
    np.testing.assert_allclose(read(fixed).signal_mv[3, :400], -ROWS["aVR"][:400] / 1000, atol=1e-6)
    edit_header(fixed.parent / "m_0002", " -aVR\n", " aVR\n")
    with pytest.raises(BadInput, match="segment m_0002: aVR is inverted there"):
        read(fixed)


def test_a_segment_without_data_names_itself(fixed):
    (fixed.parent / "m_0001.dat").unlink()
    assert "segment m_0001" in _refused(fixed)


def test_only_gaps_are_no_record(fixed):
    fixed.with_suffix(".hea").write_text("m/1 12 100 1000\n~ 1000\n")
    with pytest.raises(BadInput, match="expected at least one of I"):
        read(fixed)


def test_an_endless_gap_is_refused_before_memory_is_asked_for(fixed):
    edit_header(fixed, "m/3 12 100 1000", "m/3 12 100")
    assert "samples, expected at most" in _refused(edit_header(fixed, "~ 100", "~ 100000000000"))
    edit_header(fixed, "~ 100000000000", "~ 16000000")
    with pytest.raises(BadInput, match="samples a lead, expected at most"):
        read(fixed)
