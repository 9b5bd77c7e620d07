import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.readers.units import split_unit
from data_prep.records import LEADS, BadInput, Reading, find, read
from wfdb_records import samples

ROWS = np.stack(list(samples(500, 100.0).values()), axis=1) / 1000
SAID = Reading(rate_hz=100.0, unit="mV")


def _text(rows=ROWS, headings=LEADS, delimiter=",", before="") -> str:
    lines = [delimiter.join(f"{value:g}" for value in row) for row in rows]
    return "\n".join([before + delimiter.join(headings), *lines]) + "\n"


def _write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def _refused(path, reading=SAID) -> str:
    with pytest.raises(BadInput) as caught:
        read(path, reading)
    assert "\n" not in str(caught.value)
    assert str(path.parent) in str(caught.value)
    return str(caught.value)


@pytest.fixture
def good(tmp_path):
    return _write(tmp_path / "a.csv", _text())


def test_columns_go_by_their_names(good):
    record = read(good, SAID)
    assert record.name == str(good.with_suffix(""))
    assert record.leads == LEADS
    assert record.sampling_rate_hz == 100.0
    np.testing.assert_allclose(record.signal_mv, ROWS.T, atol=1e-6)
    assert find([good.parent]) == [good.with_suffix("")]
    assert read(good.with_suffix(""), SAID).leads == LEADS


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_other_forms_of_the_same_table(tmp_path, delimiter, end):
    text = "\ufeff" + _text(delimiter=delimiter, headings=[f'"{lead}"' for lead in LEADS])
    if delimiter != ",":
        text = text.replace(".", ",")
    (tmp_path / "a.csv").write_bytes(text.replace("\n", end).encode())
    np.testing.assert_allclose(read(tmp_path / "a.csv", SAID).signal_mv, ROWS.T, atol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        _text(delimiter="|"),
        _text(before="sep=;\n", delimiter=";"),
        _text(ROWS * 1000, [f"{lead}_uV" for lead in LEADS]),
        _text(ROWS * 1000, [f"{lead} µV" for lead in LEADS]),
        _text(before="# Sampling_Rate_Hz = 100 Hz\n# Unit: mV\n"),
    ],
)
def test_what_spreadsheets_and_exports_write(tmp_path, text):
    said = Reading() if "100 Hz" in text else Reading(100.0, (), None if "V," in text else "mV")
    record = read(_write(tmp_path / "a.csv", text), said)
    assert record.sampling_rate_hz == 100.0
    np.testing.assert_allclose(record.signal_mv, ROWS.T, atol=1e-5)


def test_other_order_a_counting_column_and_others(tmp_path):
    headings = ["", "V1", "MLII", "DII", "-aVR"]
    rows = np.stack([np.arange(500), ROWS[:, 6], ROWS[:, 0], ROWS[:, 1], -ROWS[:, 3]], axis=1)
    record = read(_write(tmp_path / "a.csv", _text(rows, headings)), SAID)
    np.testing.assert_allclose(
        record.signal_mv[[record.leads.index(lead) for lead in ("II", "aVR", "V1")]],
        ROWS[:, [1, 3, 6]].T,
        atol=1e-6,
    )
    assert "signal 'MLII' is none of the twelve leads: left out" in record.notes
    assert not any("signal ''" in note or "signal 1" in note for note in record.notes)
    assert record.lead_notes["aVR"] == ("stored inverted, as -aVR: turned upright",)
    assert record.derived == ("I", "III", "aVL", "aVF")


STATEMENTS = {
    "comments": ("a.csv", "# sampling_rate_hz: 100\n# unit: uV\n", LEADS),
    "comments with equal signs": ("a.csv", "#unit=uV\n#sampling_rate_hz = 100.0\n", LEADS),
    "names": ("a.csv", "# sampling_rate_hz: 100\n", [f"{lead} (uV)" for lead in LEADS]),
    "slashes": ("a.csv", "# sampling_rate_hz: 100\n", [f"{lead}/uV" for lead in LEADS]),
    "json": ("b.csv", "", LEADS),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_rate_and_unit_as_the_file_states_them(tmp_path, name):
    file, before, headings = STATEMENTS[name]
    (tmp_path / "b.json").write_text('{"sampling_rate_hz": 100, "unit": "uV", "age": 50}')
    path = _write(tmp_path / file, _text(ROWS * 1000, headings, before=before))
    record = read(path, Reading(rate_hz=999.0, unit="V"))  # what the file says goes first
    assert record.sampling_rate_hz == 100.0
    np.testing.assert_allclose(record.signal_mv, ROWS.T, atol=1e-5)
    assert record.meta == ({"age": 50.0} if name == "json" else {})


@pytest.mark.parametrize(("heading", "per_s"), [("time_s", 1), ("time (ms)", 1000), ("t [s]", 1)])
@pytest.mark.parametrize("rate_hz", [100.0, 257.0, 500.0, 1000.0])
def test_a_column_of_times_gives_the_rate(tmp_path, heading, per_s, rate_hz):
    times = np.round(np.arange(500) / rate_hz, 4) * per_s
    text = _text(np.column_stack([times, ROWS]), [heading, *LEADS])
    record = read(_write(tmp_path / "a.csv", text), Reading(unit="mV"))
    assert record.sampling_rate_hz == pytest.approx(rate_hz, rel=1e-4)
    lines = text.splitlines(keepends=True)
    del lines[250]
    _write(tmp_path / "a.csv", "".join(lines))
    assert "uneven" in _refused(tmp_path / "a.csv", Reading(unit="mV"))


def test_a_table_without_names_takes_the_callers(tmp_path):
    path = _write(tmp_path / "a.csv", _text().split("\n", 1)[1])
    assert "no leads are named" in _refused(path)
    record = read(path, Reading(rate_hz=100.0, unit="mV", leads=LEADS))
    np.testing.assert_allclose(record.signal_mv, ROWS.T, atol=1e-6)
    _write(path, _text(headings=[f"channel {k}" for k in range(12)]))
    np.testing.assert_array_equal(
        read(path, Reading(100.0, LEADS, "mV")).signal_mv, record.signal_mv
    )
    assert "12 cells, expected 11" in _refused(path, Reading(100.0, LEADS[:11], "mV"))


def test_nothing_is_guessed(good):
    assert "no sampling rate is stated" in _refused(good, Reading(unit="mV"))
    assert "no unit is stated" in _refused(good, Reading(rate_hz=100.0))
    assert "unit 'bar' is no voltage" in _refused(good, Reading(rate_hz=100.0, unit="bar"))
    for rate_hz in (0.5, -3.0, float("nan"), float("inf"), 1e9):
        assert "sampling rate" in _refused(good, Reading(rate_hz=rate_hz, unit="mV"))


@pytest.mark.parametrize("cell", ["", "NaN", "nan", "NA", "null"])
def test_an_empty_cell_is_missing(tmp_path, cell):
    lines = _text().splitlines()
    lines[101] = ",".join([cell, *lines[101].split(",")[1:]])
    record = read(_write(tmp_path / "a.csv", "\n".join(lines)), SAID)
    assert np.argwhere(np.isnan(record.signal_mv)).tolist() == [[0, 100]]
    assert record.lead_notes == {"I": ("missing for 0.01 s of 5.00 s",)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("# only a comment\n", "empty"),
        ("I,II\n", "no row"),
        ("I,II\n1,2\n1\n", "row 3: 1 cells, expected 2"),
        ("I,II\n1,2\n1,2,3\n", "row 3: 3 cells"),
        ("I,II\n1,Doe\n", "row 2, column 2: no number"),
        ("I,II\n0,1,0,2\n", "4 cells, expected 2; if commas are decimal"),
        ("I II\n1 2\n", "expected numbers parted by commas"),
        ("I_V,II_V\n1,2\n", "expected at least one of I"),
        ("# sampling_rate_hz: about 100\nI,II\n1,2\n", "'about 100', expected a number"),
        ("I,II\n1,2\n1,0x\n", "row 3, column 2: no number"),
        ("I,DI\n1,2\n", "lead I is there twice"),
        ("a,b\n1,2\n", "expected at least one of I, II"),
        ("I,II\n1,inf\n", "lead II reaches inf mV"),
        ("I,II\n1,1e300\n", "lead II reaches inf mV"),
        ("# sampling_rate_hz: fast\nI\n1\n", "sampling_rate_hz is 'fast'"),
        ("I\n" + "1" * 20_000 + "\n", "a line of 20000 letters"),
        ("I\x00\n1\n", "zero bytes"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path, text, said):
    assert said in _refused(_write(tmp_path / "a.csv", text))


def test_other_tables_in_a_folder_are_no_records(good):
    _write(good.parent / "database.csv", "ecg_id,patient_id,age\n1,2,3\n")
    _write(good.parent / "numbers.csv", "1,2,3\n4,5,6\n")
    assert find([good.parent]) == [good.parent / "a", good.parent / "numbers"]
    good.unlink()
    (good.parent / "numbers.csv").unlink()
    with pytest.raises(BadInput, match="holds no record"):
        find([good.parent])


# --- arrays ---


@pytest.mark.parametrize("kind", ["f8", "f4", ">f4", "i2"])
@pytest.mark.parametrize("turned", [False, True])
def test_an_array_has_its_leads_on_either_axis(tmp_path, kind, turned):
    array = (ROWS * 1000).round().astype(kind)
    np.save(tmp_path / "a.npy", array.T if turned else array)
    record = read(tmp_path / "a.npy", Reading(100.0, LEADS, "uV"))
    np.testing.assert_allclose(record.signal_mv, array.T.astype(float) / 1000, atol=1e-5)
    assert record.name == str(tmp_path / "a")


def test_an_array_with_its_json(tmp_path):
    np.save(tmp_path / "a.npy", ROWS[:, 1])
    said = {"sampling_rate_hz": 100, "unit": "mV", "leads": ["DII"], "sex": "female", "name": "X"}
    (tmp_path / "a.json").write_text(json.dumps(said))
    record = read(find([tmp_path])[0])
    assert record.leads == ("II",)
    assert record.meta == {"sex": "F"}


def test_what_an_array_does_not_say_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    assert "no sampling rate" in _refused(tmp_path / "a.npy", Reading(None, LEADS, "mV"))
    assert "no leads" in _refused(tmp_path / "a.npy", SAID)
    assert "no unit" in _refused(tmp_path / "a.npy", Reading(100.0, LEADS))
    assert "array of 500x12" in _refused(tmp_path / "a.npy", Reading(100.0, LEADS[:3], "mV"))
    np.save(tmp_path / "a.npy", ROWS[:12])
    assert "array of 12x12" in _refused(tmp_path / "a.npy", Reading(100.0, LEADS, "mV"))


@pytest.mark.parametrize(
    "array",
    [
        np.array([{"a": 1}], dtype=object),
        np.array(["text"]),
        np.zeros((12, 5), complex),
        np.zeros((12, 0)),
        np.zeros((2, 12, 5)),
        np.zeros((12, 5), np.longdouble),
        np.zeros(5, [("I", "f4")]),
    ],
)
def test_an_array_of_no_leads_is_refused_and_nothing_is_unpickled(tmp_path, array):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    _refused(tmp_path / "a.npy", Reading(100.0, LEADS, "mV"))


def test_a_damaged_array_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    whole = (tmp_path / "a.npy").read_bytes()
    absurd = whole.replace(b"(500, 12)", b"(9999999999, 12)".ljust(9))
    many = whole[:60] + b"9" * 40 + whole[100:]
    for raw in (b"", whole[:5], whole[:90], whole[:-1], absurd, many, b"PK\x03\x04" + whole):
        (tmp_path / "a.npy").write_bytes(raw)
        _refused(tmp_path / "a.npy", Reading(100.0, LEADS, "mV"))


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"sampling_rate_hz": "fast"}', '{"unit": 3}', '{"leads": "I"}', "[" * 99_999,
     '{"sampling_rate_hz": true}', '{"sampling_rate_hz": 1e999}', '{"leads": [1]}',
     '{"sampling_rate_hz": ' + "9" * 400 + "}"],
)  # fmt: skip
def test_a_damaged_json_is_refused(tmp_path, text):
    np.save(tmp_path / "a.npy", ROWS)
    (tmp_path / "a.json").write_text(text)
    assert "a.json" in _refused(tmp_path / "a.npy", Reading(100.0, LEADS, "mV"))


def test_an_array_of_absurd_size_is_refused_before_it_is_read(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (12, 9000000000), }"
    with (tmp_path / "a.npy").open("wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.ljust(117) + b"\n")
        file.truncate(128 + 12 * 9_000_000_000 * 8)  # a hole, no bytes
    said = _refused(tmp_path / "a.npy", Reading(100.0, LEADS, "mV"))
    assert "108000000000 numbers" in said


@given(st.sampled_from(["mV", "uV", "µV", "V"]), st.sampled_from(["{} ({})", "{} [{}]", "{}/{}"]))
def test_a_unit_in_a_name(unit, form):
    assert split_unit(form.format("V1", unit)) == ("V1", unit)
    assert split_unit("V1") == ("V1", None)
    assert split_unit("Lead II (Einthoven)")[0].startswith("Lead II")
