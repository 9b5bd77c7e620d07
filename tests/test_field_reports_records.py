"""Group R of the field reports: what users of ECG readers hit, each with its right outcome."""

import json
from pathlib import Path

import numpy as np
import pytest
import wfdb

from code15_files import tracing, write_code15
from data_prep.intervals import measure_waves
from data_prep.marks import read_marks
from data_prep.measure import main as measure_main
from data_prep.measure import measure
from data_prep.records import LEADS, BadInput, Reading, find, read, resample
from data_prep.render import main as render_main
from data_prep.sample_index import SAMPLE
from data_prep.waves import find_waves
from matlab_files import write_cpsc
from wfdb_records import edit_header, struct_val, write

SOURCE = SAMPLE / "ludb" / "18"  # 79 bpm, regular; 1000 per mV
RATE_HZ = 500.0


def rows() -> dict[str, np.ndarray]:
    raw = wfdb.rdrecord(str(SOURCE), physical=False).d_signal
    return {lead: row.astype(np.int16) for lead, row in zip(LEADS, raw.T, strict=True)}


@pytest.fixture
def good(tmp_path) -> Path:
    return write(tmp_path / "rec", rows(), 500)


def refused(path) -> str:
    with pytest.raises(BadInput) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit_line(stem: Path, lead: str, change) -> Path:
    """Puts a signal line's fields, changed, in its place."""
    text = stem.with_suffix(".hea").read_text().splitlines()
    at = next(i for i, line in enumerate(text) if line.endswith(f" {lead}"))
    text[at] = " ".join(change(text[at].split()))
    stem.with_suffix(".hea").write_text("\n".join(text) + "\n")
    return stem


def rate_bpm(record) -> float:
    return measure_waves(record, find_waves(record)).summary["heart_rate_bpm"]


def test_r02_data_are_paired_by_the_header_and_not_by_place(tmp_path, capsys):
    source = write(tmp_path / "A1", rows(), 500, gain="1000.0(0)/mV")
    data = bytes(24) + source.with_suffix(".dat").read_bytes()
    source.with_suffix(".dat").unlink()
    edit_header(source, "A1.dat 16 ", "A1.mat 16x1+24 ")
    (tmp_path / "A1.mat").write_bytes(data)
    text = source.with_suffix(".hea").read_text().replace("A1", "A2")
    (tmp_path / "A2.hea").write_text(text)
    wrote = struct_val(data[24:])
    (tmp_path / "A3.mat").write_bytes(wrote)
    assert find([tmp_path]) == [tmp_path / name for name in ("A1", "A2", "A3")]
    np.testing.assert_array_equal(read(tmp_path / "A1").signal_mv, read(SOURCE).signal_mv)
    assert measure_main((tmp_path,), json=True, processes=1) == 2
    told = capsys.readouterr()
    assert json.loads(told.out)["record"] == str(tmp_path / "A1")
    (two, three) = [line for line in told.err.splitlines() if "gem-jax measure: " in line]
    assert "A2.hea: its data file A2.mat is missing" in two
    assert "A3.mat: the Challenge's .mat without its header" in three


@pytest.mark.parametrize("gain", ["0", "0(0)/mV"])
def test_r03_no_gain_is_uncalibrated_and_no_name_is_no_guess(good, gain):
    for lead in LEADS:
        edit_line(good, lead, lambda fields: [*fields[:2], gain, *fields[3:]])
    record = read(good)
    assert not record.calibrated
    assert "no gain in the header: 200 per mV assumed" in record.lead_notes["V1"]
    np.testing.assert_allclose(record.signal_mv, 5 * read(SOURCE).signal_mv, rtol=1e-6)
    told = measure(record)
    assert told.summary["axis_deg"] is None
    assert told.summary["heart_rate_bpm"] == pytest.approx(79, abs=1)
    lines = "\n".join(["rec 12 500 5000", *["rec.dat 16"] * 12])
    good.with_suffix(".hea").write_text(lines)
    assert "name the leads in the header" in refused(good)


@pytest.mark.parametrize("fields", [["200/mV", "12", "1024"], ["200(1024)/mV", "12", "0"]])
def test_r05_the_baseline_is_the_adc_zero_if_it_is_not_said(tmp_path, fields):
    moved = {lead: row + 1024 for lead, row in rows().items()}
    stem = write(tmp_path / "rec", moved, 500)
    for lead in LEADS:
        edit_line(stem, lead, lambda line: [*line[:2], *fields, *line[5:]])
    record = read(stem)
    first = [row[0] / 200 for row in rows().values()]
    np.testing.assert_allclose(record.signal_mv[:, 0], first, atol=1e-6)
    assert record.lead_notes == {}


def test_r06_what_does_not_fit_is_said_with_both_numbers_or_refused_by_choice(good):
    data = good.with_suffix(".dat")
    data.write_bytes(data.read_bytes() + bytes(10 * 24))
    total = int(rows()["I"].astype(int).sum()) % 65536
    edit_line(good, "I", lambda f: [*f[:6], str((total + 7) % 65536), *f[7:]])
    edit_line(good, "V2", lambda f: [*f[:5], str(int(f[5]) + 1), *f[6:]])
    record = read(good)
    assert f"checksum is {total}, the header says {total + 7}" in "".join(record.lead_notes["I"])
    first = rows()["V2"][0]
    assert record.lead_notes["V2"] == (f"first sample is {first}, the header says {first + 1}",)
    assert any(
        "rec.dat holds 5010 samples a signal, the header says 5000" in n for n in record.notes
    )
    assert record.duration_s == 10.0
    assert set(record.lead_notes) == {"I", "V2"}
    with pytest.raises(BadInput, match=r"5010 .*I: checksum .*V2: first sample"):
        read(good, Reading(strict=True))
    read(SOURCE, Reading(strict=True))  # the control


def test_r07_a_short_file_is_named_with_both_sizes_and_the_others_go_on(good, capsys):
    data = good.with_suffix(".dat")
    data.write_bytes(data.read_bytes()[: -50 * 24])
    write(good.parent / "sound", rows(), 500)
    assert "rec.dat: 118800 bytes, expected 120000" in refused(good)
    assert measure_main((good.parent,), json=True, processes=1) == 2
    told = capsys.readouterr()
    assert json.loads(told.out)["record"].endswith("sound")
    assert "118800 bytes" in told.err


@pytest.mark.parametrize("line", ["rec 12 500", "rec 12 500 0"])
def test_r08_the_length_may_be_left_to_the_file_and_the_rate_may_not(good, line):
    edit_header(good, "rec 12 500 5000", line)
    assert read(good).signal_mv.shape == (12, 5000)
    assert "sampling rate is missing" in refused(edit_header(good, line, "rec 12"))


def test_r09_segments_with_a_gap_and_other_gains(tmp_path):
    source = rows()
    write(tmp_path / "m_0001", {lead: row[:2000] for lead, row in source.items()}, 500)
    half = {lead: (row[2500:] // 2).astype(np.int16) for lead, row in source.items()}
    write(tmp_path / "m_0002", half, 500, gain="500(0)/mV")
    header = "m/3 12 500 5000\nm_0001 2000\n~ 500\nm_0002 2500\n"
    (tmp_path / "m.hea").write_text(header)
    record, whole = read(tmp_path / "m"), read(SOURCE)
    missing = np.isnan(record.signal_mv)
    assert missing[:, 2000:2500].all()
    assert missing.sum() == 12 * 500
    np.testing.assert_allclose(record.signal_mv[~missing], whole.signal_mv[~missing], atol=3e-3)
    measured = measure_waves(record, find_waves(record))
    peaks = measured.waves.samples[1, :, 4]
    assert not ((peaks >= 2000) & (peaks < 2500)).any()
    (tmp_path / "m.hea").write_text(header.replace("~ 500\n", ""))
    assert "3 segments and 2 lines" in refused(tmp_path / "m")
    (tmp_path / "m.hea").write_text(header.replace("m_0002", "m_0009"))
    assert "segment m_0009: is missing" in refused(tmp_path / "m")


@pytest.mark.parametrize("offset", [0, 24])
def test_r10_a_skewed_lead_is_moved_back(tmp_path, offset):
    late = rows()
    late["II"] = np.concatenate([np.zeros(25, np.int16), late["II"][:-25]])
    stem = write(tmp_path / "rec", late, 500)
    data = stem.with_suffix(".dat")
    data.write_bytes(bytes(offset) + data.read_bytes())
    if offset:
        edit_header(stem, "rec.dat 16 ", "rec.dat 16+24 ")
    edit_line(stem, "II", lambda f: [f[0], f"16:25{'+24' if offset else ''}", *f[2:]])
    two = read(stem).signal_mv[1]
    np.testing.assert_array_equal(two[:-25], read(SOURCE).signal_mv[1, :-25])
    assert np.isnan(two[-25:]).all()


@pytest.mark.parametrize("fast", ["I", "II"])
def test_r11_each_lead_has_its_own_rate_and_keeps_its_height(tmp_path, fast):
    source = rows()
    slow = "II" if fast == "I" else "I"
    frames = np.empty((2500, 3), "<i2")
    columns = {"I": [0, 1], "II": [2]} if fast == "I" else {"I": [0], "II": [1, 2]}
    frames[:, columns[fast]] = source[fast].reshape(2500, 2)
    frames[:, columns[slow]] = source[slow][::2, None]
    frames.tofile(tmp_path / "r.dat")
    lines = [f"r.dat 16{'x2' if lead == fast else ''} 1000/mV 16 0 {source[lead][0]} "
             f"{int(frames[:, columns[lead]].astype(int).sum()) % 65536} 0 {lead}"
             for lead in ("I", "II")]  # fmt: skip
    (tmp_path / "r.hea").write_text("\n".join(["r 2 250 2500", *lines]))
    record = read(tmp_path / "r")
    assert (record.sampling_rate_hz, record.signal_mv.shape[1]) == (500.0, 5000)
    own, other = (record.leads.index(lead) for lead in (fast, slow))
    np.testing.assert_array_equal(record.signal_mv[own], source[fast] / np.float32(1000))
    assert record.signal_mv[other].max() >= 0.99 * source[slow][::2].max() / 1000
    off = np.abs(record.signal_mv[other] - source[slow] / 1000)
    assert np.quantile(off, 0.95) < 0.02
    assert record.lead_notes == {slow: ("sampled at 250 Hz, brought to 500 Hz",)}
    assert rate_bpm(record) == pytest.approx(79, abs=1)


def test_r13_the_mark_of_a_missing_sample_is_missing_and_never_zero(tmp_path):
    source = rows()
    source["aVR"][100:200] = -32768
    source["V1"][:] = -32768
    record = read(write(tmp_path / "rec", source, 500))
    missing = np.isnan(record.signal_mv)
    assert missing[3].nonzero()[0].tolist() == list(range(100, 200))
    assert missing.sum() == 100 + 5000
    assert record.lead_notes["aVR"] == ("missing for 0.20 s of 10.00 s",)
    assert record.lead_notes["V1"] == ("missing throughout",)
    up = np.isnan(resample(record, 1000.0).signal_mv)
    assert up[3].sum() == pytest.approx(201, abs=1)
    told = measure(record)
    assert told.summary["heart_rate_bpm"] == pytest.approx(79, abs=1)


@pytest.mark.parametrize(
    ("rate_hz", "text"),
    [(257.3, "257.3/250(0)"), (1000.0, "1000"), (400.0, "400.0"), (100.0, "100"), (128.0, "128")],
)
def test_r15_odd_rates(tmp_path, rate_hz, text):
    whole = read(SOURCE)
    moved = resample(whole, rate_hz)
    source = {lead: np.round(row * 1000).astype(np.int16)
              for lead, row in zip(LEADS, moved.signal_mv, strict=True)}  # fmt: skip
    record = read(write(tmp_path / "rec", source, text))
    assert record.sampling_rate_hz == rate_hz
    assert record.signal_mv.shape[1] == round(10 * rate_hz)
    back = resample(record, 500.0)
    assert back.signal_mv.shape == (12, 5000)
    assert rate_bpm(record) == pytest.approx(rate_bpm(whole), abs=0.5 if rate_hz > 200 else 1)
    if rate_hz > 200:
        np.testing.assert_allclose(
            back.signal_mv[:, 250:-250], whole.signal_mv[:, 250:-250], atol=0.06
        )


@pytest.mark.parametrize("kept", [3500, 4999, 5000])
@pytest.mark.parametrize("around", [0, 750])
def test_r16_other_lengths_and_zeros_on_both_sides(tmp_path, kept, around):
    zeros = np.zeros(around, np.int16)
    source = {lead: np.concatenate([zeros, row[:kept] + 1, zeros]) for lead, row in rows().items()}
    record = read(write(tmp_path / "rec", source, 500))
    missing = np.isnan(record.signal_mv).all(axis=0)
    assert missing.sum() == np.isnan(record.signal_mv).any(axis=0).sum() == 2 * around
    assert any(
        "padded for 1.50 s at the start and 1.50 s at the end" in n for n in record.notes
    ) is (around > 0)
    assert record.lead_notes == {}
    told = measure(record)
    assert told.summary["heart_rate_bpm"] == pytest.approx(79, abs=1.5)
    known = told.waves.samples[np.isfinite(told.waves.samples)]
    assert known.min() >= around
    assert known.max() < around + kept


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text + "# 37.5 °C\n",
        lambda text: "# first\n\n" + text,
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_r17_odd_headers_are_read(good, change, encoding):
    text = change(good.with_suffix(".hea").read_text())
    if encoding == "latin-1" and "\ufeff" in text:
        return
    good.with_suffix(".hea").write_bytes(text.encode(encoding))
    np.testing.assert_array_equal(read(good).signal_mv, read(SOURCE).signal_mv)


def test_r17_a_header_named_after_its_data_and_32_bits_with_a_negative_baseline(tmp_path, good):
    good.with_suffix(".hea").rename(tmp_path / "rec.dat.hea")
    np.testing.assert_array_equal(read(tmp_path / "rec.dat").signal_mv, read(SOURCE).signal_mv)
    assert find([tmp_path]) == [tmp_path / "rec.dat"]
    (np.array([-2000000000, -1999999000]).astype("<i4")).tofile(tmp_path / "x.dat")
    line = "x.dat 32 1000(-2000000000)/mV 32 0 -2000000000 0 0 I"
    (tmp_path / "x.hea").write_text(f"x 1 500 2\n{line}\n")
    np.testing.assert_allclose(read(tmp_path / "x").signal_mv, [[0.0, 1.0]])


def test_r17_no_signals_and_slashes_are_refused_with_file_and_line(good):
    edit_header(good, "rec 12 500 5000", "sub/rec 12 500 5000")
    assert "rec.hea, line 1: garbled header" in refused(good)
    good.with_suffix(".hea").write_text("rec 0 500 5000\n")
    assert "rec.hea: the record line promises 0 signals" in refused(good)


@pytest.mark.parametrize(
    "name", ["a", "0a8f3c1e-7b52-4b0e-9f7d-2c6f0f6d1e11", "a.b", "r s.d/a", "100.x.y", "ä"]
)
def test_r18_paths(tmp_path, name, monkeypatch):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    stem = tmp_path / name
    data = np.stack(list(rows().values()), axis=1)
    data.tofile(f"{stem}.dat")
    lines = [f"{stem.name}.dat 16 1000(0)/mV 16 0 {row[0]} {row.astype(int).sum() % 65536} 0 {lead}"
             for lead, row in rows().items()]  # fmt: skip
    Path(f"{stem}.hea").write_text(
        "\n".join([f"{stem.name} 12 500 5000", *lines]), encoding="utf-8"
    )
    Path(f"{stem}.avf").write_bytes(b"annotations")
    monkeypatch.chdir(tmp_path)
    expected = read(SOURCE).signal_mv
    for spelled in (name, f"{name}.hea", f"{name}.dat", f"{name}.avf", name.replace("/", "\\")):
        np.testing.assert_array_equal(read(spelled).signal_mv, expected)
        assert read(spelled).name in (name, name.replace("/", "\\"))
    assert find(["."]) == [Path(name)]
    assert find([f"{name[:1]}*"]) == find(["**/*.hea"]) == [Path(name)]
    assert "looked for nowhere/a.hea" in refused("nowhere/a")
    with pytest.raises(BadInput, match="fits no record"):
        find(["nowhere/*"])


def test_r19_the_raw_formats_of_code15_and_cpsc(tmp_path):
    write_code15(tmp_path / "code15" / "exams_part2.hdf5", {1169160: tracing()})
    write_cpsc(tmp_path / "A0001.mat")
    np.save(tmp_path / "b.npy", np.zeros((3, 4)))
    found = find([tmp_path])
    assert found == [tmp_path / name for name in ("A0001", "b", "code15/exams_part2/1169160")]
    assert read(found[0]).sampling_rate_hz == 500.0
    assert read(found[2]).sampling_rate_hz == 400.0
    assert measure(read(found[2])).summary["heart_rate_bpm"] == pytest.approx(75, abs=1)


def test_r22_marks_of_a_window_are_samples_of_the_record_and_may_be_none():
    whole = read_marks(SOURCE)
    part = read_marks(SOURCE, start=2000, stop=3000)
    peaks = whole.samples[:, :, 4]
    inside = np.where((peaks >= 2000) & (peaks < 3000), peaks, np.nan)
    expected = sorted(inside[np.isfinite(inside)].tolist())
    own = part.samples[:, :, 4]
    assert sorted(own[np.isfinite(own)].tolist()) == expected
    assert expected
    none = read_marks(SOURCE, start=0, stop=1)
    assert none.samples.shape == (12, 0, 9)


def test_r22_marks_that_are_counted_at_another_rate(tmp_path):
    write(tmp_path / "x", {"I": rows()["I"]}, 500)
    for fs, scale in ((500, 1), (1000, 2), (250, 0.5)):
        samples = (np.array([500, 520, 540, 700, 720, 760]) * scale).astype(int)
        wfdb.wrann("x", "i", samples, list("(N)(t)"), fs=fs, write_dir=str(tmp_path))
        marks = read_marks(tmp_path / "x").samples[0, 0]
        assert marks[3:].tolist() == [500, 520, 540, 700, 720, 760]


# --- no identity ---

IDENTITY = ("Doe", "Jane", "19500203", "1950-02-03", "03.02.1950", "MRN", "4711471147", "Dr. House")
COMMENTS = (
    "Patient name: Doe, Jane", "Name: Jane Doe", "<name>: Jane Doe", "ID: 4711471147",
    "DOB: 1950-02-03",
    "MRN 4711471147", "Recorded 03.02.1950 by Dr. House", "age: 61", "sex: F",
    "report: sinus rhythm, seen by Dr. House on 03.02.1950", "Dx: 426783006, Jane Doe", "Jane Doe",
    "<diagnoses>:", "Rhythm: Sinus rhythm.", "Physician: Dr. House", "Jane Doe, born 19500203",
)  # fmt: skip


def test_no_patient_identity_leaves_a_header(tmp_path, capsys):
    source = {
        ("Jane Doe 4711471147" if lead == "V6" else lead): row for lead, row in rows().items()
    }
    stem = write(tmp_path / "rec", source, 500, comments=COMMENTS)
    record = read(stem)
    assert record.meta["age"] == 61.0
    assert record.meta["diagnoses"] == ("Rhythm: Sinus rhythm.",)
    assert measure_main((stem,), json=True, processes=1) == 0
    assert render_main(stem, out=tmp_path / "a.png", boxes=tmp_path / "b.json") == 0
    out = repr(record.meta) + repr(record.notes) + repr(record.lead_notes)
    out += capsys.readouterr().out + (tmp_path / "b.json").read_text()
    out += (tmp_path / "a.png").read_bytes().decode("latin-1")
    assert [word for word in IDENTITY if word in out] == []
    assert "signal 12 is none of the twelve leads: left out" in record.notes
    header = stem.with_suffix(".hea").read_text()
    assert [word for word in IDENTITY if word not in header] == []  # the control


@pytest.mark.parametrize(
    ("line", "said"), [(0, "line 1: garbled header"), (5, "line 6: garbled signal line")]
)
def test_no_patient_identity_leaves_a_header_by_what_is_said_of_it(good, line, said):
    text = good.with_suffix(".hea").read_text().splitlines()
    text[line] = "Patient Jane Doe, born 1950-02-03"
    good.with_suffix(".hea").write_text("\n".join(text))
    assert said in refused(good)
    assert [word for word in IDENTITY if word in refused(good)] == []


def test_no_patient_identity_leaves_a_table(tmp_path):
    lead = "\n".join(f"{value / 1000}" for value in rows()["II"])
    text = f"# Patient: Jane Doe 1950-02-03\n# sampling_rate_hz: 500\nII (mV)\n{lead}\n"
    (tmp_path / "a.csv").write_text(text)
    (tmp_path / "a.json").write_text('{"patient": "Jane Doe", "sex": "F"}')
    record = read(tmp_path / "a.csv")
    assert record.meta == {"sex": "F"}
    assert "Doe" not in repr(record)
