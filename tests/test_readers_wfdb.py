import os
import struct

import numpy as np
import pytest
import soundfile
import wfdb

from data_prep.records import LEADS, BadInput, read
from data_prep.sample_index import SAMPLE
from wfdb_records import edit_header, samples, write

# The gains of LUDB's original header of record 1, each set so that its lead spans 1 mV.
LUDB_GAINS = (
    *("1716(6)", "1206(2)", "1229(-5)", "1368(-5)", "1368(5)", "698(-1)"),
    *("1372(-1)", "1572(2)", "2259(3)", "2317(4)", "2074(4)", "1457(1)"),
)


@pytest.fixture
def good(tmp_path):
    return write(tmp_path / "rec", samples())


def _checksum(lead) -> int:
    return int(samples()[lead].astype(int).sum()) % 65536


def _refused(stem) -> str:
    with pytest.raises(BadInput) as caught:
        read(stem)
    message = str(caught.value)
    assert "\n" not in message
    assert stem.name in message
    return message


def test_a_good_record_has_millivolts_and_nothing_to_say_but_its_rate(good):
    record = read(good)
    assert record.leads == record.stored_leads == LEADS
    assert record.signal_mv[1].max() == pytest.approx(samples()["II"].max() / 1000)
    assert record.calibrated
    assert record.lead_notes == {}
    assert record.notes == ("sampled at 100 Hz: times are no finer than 10 ms",)


# --- handled, and said ---


@pytest.mark.parametrize(
    ("gain", "unit"), [("1(0)/uV", "uV"), ("1(0)/µV", "µV"), ("1000000(0)/V", "V")]
)
def test_other_units_of_voltage(tmp_path, good, gain, unit):
    record = read(write(tmp_path / "other", samples(), gain=gain))
    np.testing.assert_allclose(record.signal_mv, read(good).signal_mv, rtol=1e-6)
    assert f"stored in {unit}, converted to mV" in record.notes
    assert record.calibrated


def test_a_header_in_latin_1(tmp_path, good):
    stem = write(tmp_path / "latin", samples(), gain="1(0)/uV")
    header = stem.with_suffix(".hea")
    header.write_bytes(header.read_text().replace("uV", "µV").encode("latin-1"))
    np.testing.assert_allclose(read(stem).signal_mv, read(good).signal_mv, rtol=1e-6)


def test_baseline_is_subtracted(tmp_path, good):
    rows = {lead: row + 100 for lead, row in samples().items()}
    record = read(write(tmp_path / "rec2", rows, gain="1000(100)/mV"))
    np.testing.assert_allclose(record.signal_mv, read(good).signal_mv, atol=1e-6)


def test_other_order_and_spelling(tmp_path, good):
    spelled = {"V6": "v6", "aVR": "AVR", "I": "Lead I", "II": "II+"}
    rows = {spelled.get(lead, lead): row for lead, row in reversed(samples().items())}
    record = read(write(tmp_path / "rec2", rows))
    np.testing.assert_array_equal(record.signal_mv, read(good).signal_mv)
    assert record.leads == LEADS
    assert record.stored_leads == LEADS[::-1]
    said = "; ".join(record.notes)
    assert "AVR for aVR" in said
    assert "another order: V6 V5" in said


@pytest.mark.parametrize("seconds", [3, 60])
def test_other_lengths(tmp_path, seconds):
    record = read(write(tmp_path / "rec2", samples(seconds * 100)))
    assert record.duration_s == seconds
    assert f"{seconds}.0 s long, not the usual 10 s" in record.notes


def test_missing_samples_and_flat_leads(tmp_path):
    rows = samples()
    rows["V2"][100:150] = -32768
    rows["V3"][:] = -32768
    rows["V4"][:] = 7
    record = read(write(tmp_path / "rec2", rows))
    assert np.isnan(record.signal_mv[7, 100:150]).all()
    assert np.isnan(record.signal_mv).sum() == 50 + 1000
    assert record.lead_notes == {
        "V2": ("missing for 0.50 s of 10.00 s",),
        "V3": ("missing throughout",),
        "V4": ("flat: one value throughout",),
    }


def test_eight_leads_become_twelve(tmp_path, good):
    rows = {lead: row for lead, row in samples().items() if lead in ("I", "II") or lead[0] == "V"}
    record = read(write(tmp_path / "rec2", rows))
    assert record.leads == LEADS
    assert record.derived == ("III", "aVR", "aVL", "aVF")
    assert len(record.stored_leads) == 8
    assert "III, aVR, aVL, aVF derived from I and II" in record.notes
    np.testing.assert_allclose(record.signal_mv, read(good).signal_mv, atol=2e-3)


def test_fewer_leads_and_other_signals_are_said(tmp_path):
    rows = samples()
    record = read(write(tmp_path / "rec2", {"II": rows["II"], "MLII": rows["I"], "V1": rows["V1"]}))
    assert record.leads == ("II", "V1")
    assert "signal 'MLII' is none of the twelve leads: left out" in record.notes
    assert "not recorded: I, III, aVR, aVL, aVF, V2, V3, V4, V5, V6" in record.notes


@pytest.mark.parametrize("gain", ["0(0)/mV", "0"])
def test_no_gain_is_the_usual_200_and_uncalibrated(tmp_path, good, gain):
    record = read(write(tmp_path / "rec2", samples(), gain=gain))
    np.testing.assert_allclose(record.signal_mv, 5 * read(good).signal_mv, rtol=1e-6)
    assert not record.calibrated
    assert "no gain in the header: 200 per mV assumed" in record.lead_notes["V1"]


def test_check_values_that_differ_are_said_of_their_lead(good):
    line = next(x for x in good.with_suffix(".hea").read_text().splitlines() if x.endswith(" V1"))
    fields = line.split()
    edit_header(good, line, " ".join([*fields[:5], "12345", *fields[6:]]))
    data = np.fromfile(good.with_suffix(".dat"), "<i2")
    data[12 * 500 + 7] += 1  # one sample of V2
    data.tofile(good.with_suffix(".dat"))
    record = read(good)
    assert record.lead_notes["V2"] == (
        f"checksum is {_checksum('V2') + 1}, the header says {_checksum('V2')}: "
        "samples may be damaged",
    )
    assert any("the header says 12345" in note for note in record.lead_notes["V1"])
    assert "V5" not in record.lead_notes
    assert record.calibrated


def test_false_gains_are_noticed_and_true_ones_are_not(tmp_path):
    original = wfdb.rdrecord(str(SAMPLE / "ludb" / "1"), physical=False)
    rows = {
        name.lower(): row.astype(np.int16)
        for name, row in zip(original.sig_name, original.d_signal.T, strict=True)
    }
    false = read(write(tmp_path / "1", rows, 500, [f"{gain}/mV" for gain in LUDB_GAINS]))
    assert not false.calibrated
    assert any("holds in the raw samples and not in mV" in note for note in false.notes)
    assert np.ptp(false.signal_mv, axis=1) == pytest.approx(1.0, abs=0.01)
    true = read(write(tmp_path / "2", rows, 500, "1000(0)/mV"))
    assert true.calibrated
    assert not any("raw samples" in note for note in true.notes)


LIMB = LEADS[:6]


@pytest.mark.parametrize("shift", range(1, 6))
def test_exchanged_leads_are_no_false_gains(tmp_path, shift):
    """Their relations hold neither way; of exchanged electrodes they hold both ways."""
    rows, names = samples(), LIMB[shift:] + LIMB[:shift]
    moved = {lead: rows[name] for lead, name in zip(LIMB, names, strict=True)}
    gains = ["1000(0)/mV" if lead != "V1" else "500(0)/mV" for lead in LEADS]
    assert read(write(tmp_path / "a", rows | moved, gain=gains)).calibrated
    arms = {"I": -rows["I"], "II": rows["III"], "III": rows["II"], "aVR": rows["aVL"]}
    arms["aVL"] = rows["aVR"]
    assert read(write(tmp_path / "b", rows | arms, gain=gains)).calibrated
    false = [f"{np.ptp(row.astype(int))}(0)/mV" for row in (rows | arms).values()]
    assert not read(write(tmp_path / "c", rows | arms, gain=false)).calibrated


def test_gains_that_differ_for_a_reason_are_true(tmp_path):
    """A lead stored at half the resolution: the relations hold in mV and not in raw samples."""
    rows = samples()
    rows["III"] = np.round(rows["III"] / 2).astype(np.int16)
    gains = ["500(0)/mV" if lead == "III" else "1000(0)/mV" for lead in rows]
    assert read(write(tmp_path / "rec2", rows, gain=gains)).calibrated


def test_comments_give_age_sex_diagnoses_and_no_identity(tmp_path):
    comments = (
        "<age>: 51",
        "<sex>: F",
        "Patient name: A. Person",
        "<diagnoses>:",
        "Rhythm: sinus.",
    )
    meta = read(write(tmp_path / "ludb", samples(), comments=comments)).meta
    assert meta == {"age": 51.0, "sex": "F", "diagnoses": ("Rhythm: sinus.",)}
    comments = ("Age: NaN", "Sex: Male", "Dx: 426177001,164934002", "Hx: Unknown")
    meta = read(write(tmp_path / "cinc", samples(), comments=comments)).meta
    assert meta == {"age": None, "sex": "M", "diagnoses": ("426177001", "164934002")}


def test_the_challenges_mat(tmp_path, good):
    data = np.stack(list(samples().values()), axis=1).astype("<i2")
    head = struct.pack("<5i", 30, 12, len(data), 0, 4) + b"val\0"
    (tmp_path / "rec.mat").write_bytes(head + data.tobytes())
    expected = read(good).signal_mv
    good.with_suffix(".dat").unlink()
    edit_header(good, "rec.dat 16 ", "rec.mat 16x1+24 ")
    np.testing.assert_array_equal(read(tmp_path / "rec.mat").signal_mv, expected)


@pytest.mark.parametrize(("form", "size"), [("80", 1), ("212", 1.5), ("24", 3), ("32", 4)])
def test_other_formats_of_samples(tmp_path, form, size):
    rows = {lead: row // 8 for lead, row in samples().items()}
    wfdb.wrsamp(
        "rec",
        fs=100,
        units=["mV"] * 12,
        sig_name=list(rows),
        d_signal=np.stack(list(rows.values()), axis=1).astype(int),
        fmt=[form] * 12,
        adc_gain=[125.0] * 12,
        baseline=[0] * 12,
        write_dir=str(tmp_path),
    )
    record = read(tmp_path / "rec")
    np.testing.assert_allclose(record.signal_mv[0], rows["I"] / 125, atol=1e-6)
    assert record.lead_notes == {}
    os.truncate(tmp_path / "rec.dat", int(12_000 * size) - 1)
    assert f"expected {int(12_000 * size)} " in _refused(tmp_path / "rec")


def test_a_skewed_lead_is_moved_back(tmp_path, good):
    rows = samples()
    rows["V1"] = np.roll(rows["V1"], 3)
    stem = write(tmp_path / "rec2", rows)
    line = next(x for x in stem.with_suffix(".hea").read_text().splitlines() if x.endswith(" V1"))
    edit_header(stem, line, line.replace(" 16 ", " 16:3 ", 1))
    moved = read(stem).signal_mv[6]
    np.testing.assert_array_equal(moved[:-3], read(good).signal_mv[6, :-3])
    assert np.isnan(moved[-3:]).all()


def test_a_length_that_the_header_leaves_open(good):
    edit_header(good, "rec 12 100 1000", "rec 12 100")
    assert read(good).duration_s == 10.0


# --- refused ---


def test_missing_record_says_what_was_looked_for(tmp_path):
    assert "looked for" in _refused(tmp_path / "nowhere")


def test_header_without_its_data(good):
    good.with_suffix(".dat").unlink()
    assert "rec.dat is missing" in _refused(good)


def test_data_without_its_header(good):
    good.with_suffix(".hea").unlink()
    assert "no such record" in _refused(good)


@pytest.mark.parametrize("kept", [0, 1, 23_998])
def test_data_shorter_than_the_header_says(good, kept):
    os.truncate(good.with_suffix(".dat"), kept)
    message = _refused(good)
    assert f"{kept} bytes, expected 24000" in message


def test_a_header_that_promises_too_much_is_refused_at_once(good):
    edit_header(good, "rec 12 100 1000", "rec 12 100 99999999999999")
    assert "expected 2399999999999976" in _refused(good)


def test_an_empty_data_file_of_open_length(good):
    edit_header(good, "rec 12 100 1000", "rec 12 100")
    os.truncate(good.with_suffix(".dat"), 0)
    assert "no sample" in _refused(good)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../rec.dat", "sub/rec.dat", "..\\rec.dat", "..", "C:rec.dat", "~rec"]
)
def test_file_names_that_leave_the_folder(good, name):
    edit_header(good, "rec.dat", name)
    assert "leaves the record's folder" in _refused(good)


def test_a_link_that_leaves_the_folder(tmp_path, good):
    (tmp_path / "inner").mkdir()
    inner = tmp_path / "inner" / "rec"
    good.with_suffix(".hea").rename(inner.with_suffix(".hea"))
    inner.with_suffix(".dat").symlink_to(good.with_suffix(".dat"))
    assert "link" in _refused(inner)


def test_a_record_of_links_is_read(tmp_path, good):
    (tmp_path / "inner").mkdir()
    for suffix in (".hea", ".dat"):
        (tmp_path / "inner" / f"rec{suffix}").symlink_to(good.with_suffix(suffix))
    assert read(tmp_path / "inner" / "rec").leads == LEADS


@pytest.mark.parametrize(
    ("header", "what"),
    [
        (b"", "empty header"),
        (b"# only a comment\n", "empty header"),
        (b"\x00\x01\x02", "zero bytes"),
        (b"hello\n", "garbled"),
        (b"\xff\xd8\xff\xe0 JFIF\n", "garbled"),
        (b"rec twelve 100 1000\n", "garbled"),
        (b"rec 12 100 1000\n", "12 signals and 0 lines"),
        (b"rec 0 100 1000\n", "0 signals"),
        (b"rec 1 100 1000\nrec.dat\n", "garbled signal line"),
        (b"rec 1 100 1000\nrec.dat sixteen 200/mV 16 0 0 0 0 I\n", "garbled signal line"),
        (b"rec 1 100 1000\nrec.dat 16 much/mV 16 0 0 0 0 I\n", "garbled signal line"),
        (b"rec 1 100 1000\nrec.dat 16 1e999/mV 16 0 0 0 0 I\n", "gain"),
        (b"rec 1 100 1000\nrec.dat 16 200/mV 16 0 x 0 0 I\n", "field 6"),
        (b"rec 1 100 1000\nrec.dat 99 200/mV 16 0 0 0 0 I\n", "format 99"),
        (b"rec 1 100 1000\nrec.dat 16x0 200/mV 16 0 0 0 0 I\n", "0 samples a frame"),
        (b"rec 1\nrec.dat 16 200/mV 16 0 0 0 0 I\n", "sampling rate is missing"),
        (b"rec 1 0 1000\nrec.dat 16 200/mV 16 0 0 0 0 I\n", "sampling rate '0'"),
        (b"rec 1 nan 1000\nrec.dat 16 200/mV 16 0 0 0 0 I\n", "sampling rate"),
        (b"rec 1 1e9 1000\nrec.dat 16 200/mV 16 0 0 0 0 I\n", "sampling rate '1e9'"),
        (b"a/b 1 100 1000\nrec.dat 16 200/mV 16 0 0 0 0 I\n", "without a slash"),
        (b"rec 1 100 1e3\nrec.dat 16 200/mV 16 0 0 0 0 I\n", "garbled header"),
        (b"rec 1 100 1000\nrec.dat 16:999999999 200/mV 16 0 0 0 0 I\n", "skew"),
        (b"rec/2 1 100 1000\nseg1 500\nseg2 500\n", "segment seg1: is missing"),
        (b"rec 1 100 1000\nrec.dat 16 200/mV 16 0 0 0 0 PLETH\n", "expected at least one of I"),
        (b"rec 2 100 500\n" + b"rec.dat 16 200/mV 16 0 0 0 0 I\n" * 2, "lead I is there twice"),
    ],
)
def test_empty_and_garbled_headers(good, header, what):
    good.with_suffix(".hea").write_bytes(header)
    assert what in _refused(good)


@pytest.mark.parametrize("unit", ["mmHg", "NU", "kg", "m"])
def test_a_unit_that_is_no_voltage(tmp_path, unit):
    message = _refused(write(tmp_path / "rec2", samples(), gain=f"1000(0)/{unit}"))
    assert "no voltage" in message
    assert "line 2" in message


def test_flac_that_is_short_or_none(tmp_path, good):
    soundfile.write(
        tmp_path / "f.dat", np.zeros((400, 1), np.int16), 96000, "PCM_16", format="FLAC"
    )
    stem = tmp_path / "f"
    line = "f.dat 516 1000(0)/mV 16 0 0 0 0 I\n"
    stem.with_suffix(".hea").write_text(f"f 1 100 500\n{line}")
    assert "400 samples, expected 500" in _refused(stem)
    stem.with_suffix(".hea").write_text(f"f 1 100 400\n{line}")
    assert read(stem).duration_s == 4.0
    stem.with_suffix(".hea").write_text(f"f 2 100 400\n{line}{line}")
    assert "FLAC of 2" in _refused(stem)
    stem.with_suffix(".dat").write_bytes(b"not FLAC at all")
    stem.with_suffix(".hea").write_text(f"f 1 100 400\n{line}")
    assert "FLAC" in _refused(stem)
