"""Every format of WFDB, against what the wfdb package reads of the same bytes."""

import numpy as np
import pytest
import soundfile
import wfdb
from hypothesis import given
from hypothesis import strategies as st

from data_prep.readers.wfdb_samples import BYTES, decode, missing, num_bytes
from data_prep.records import BadInput, read

NAMES = ("I", "II", "V1")


def _write(folder, form, raw, num_frames, per_frame=(1, 1, 1), more=""):
    """A record of three leads whose data file is these bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "r.dat").write_bytes(raw)
    lines = [f"r 3 100 {num_frames}"]
    for name, count in zip(NAMES, per_frame, strict=True):
        lines.append(f"r.dat {form}x{count}{more} 100(3)/mV 12 0 5 0 0 {name}")
    (folder / "r.hea").write_text("\n".join(lines) + "\n")
    return folder / "r"


def _both(stem):
    """Raw samples by wfdb, and ours turned back from mV; missing is NaN in both."""
    theirs = wfdb.rdrecord(str(stem), smooth_frames=False, physical=False).e_d_signal
    record = read(stem)
    ours = record.signal_mv[[record.leads.index(name) for name in NAMES]] * 100.0 + 3
    return theirs, ours


@pytest.mark.parametrize("form", [form for form in BYTES if form != "61"])  # it fails on that
@pytest.mark.parametrize("num_frames", [400, 401, 402, 403])
@pytest.mark.parametrize("offset", [0, 24])
def test_random_bytes_are_what_wfdb_reads(tmp_path, form, num_frames, offset):
    rng = np.random.default_rng(num_frames)
    raw = rng.integers(0, 256, offset + num_bytes(form, num_frames * 3) + 4, np.uint8)
    if form == "32":
        raw = (rng.integers(-(2**22), 2**22, len(raw) // 4 + 1).astype("<i4")).view(np.uint8)
    if form == "311":
        raw[offset + 3 :: 4] &= 0x3F  # two bits that are not used, of which it takes one for a sign
    more = f"+{offset}" if offset else ""
    theirs, ours = _both(_write(tmp_path, form, raw.tobytes(), num_frames, more=more))
    for their, our in zip(theirs, ours, strict=True):
        known = np.isfinite(our)
        assert known.sum() > 300
        np.testing.assert_allclose(our[known], their[known], rtol=1e-6, atol=0.01)
        lost = missing(form, np.asarray(their))
        np.testing.assert_array_equal(~known, lost)


@pytest.mark.parametrize("form", ["16", "212", "8"])
def test_several_samples_a_frame_lie_where_wfdb_finds_them(tmp_path, form):
    raw = np.random.default_rng(1).integers(0, 64, num_bytes(form, 500 * 6), np.uint8)
    stem = _write(tmp_path, form, raw.tobytes(), 500, per_frame=(2, 2, 2))
    theirs, ours = _both(stem)
    np.testing.assert_allclose(ours, np.stack(theirs), rtol=1e-6, atol=0.01)
    assert read(stem).sampling_rate_hz == 200.0


@pytest.mark.parametrize(
    ("form", "kind"), [("508", "PCM_S8"), ("516", "PCM_16"), ("524", "PCM_24")]
)
@pytest.mark.parametrize("per_frame", [1, 2])
def test_flac_of_every_width(tmp_path, form, kind, per_frame):
    bits = int(form) - 500
    rng = np.random.default_rng(bits)
    rows = rng.integers(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1), (600 * per_frame, 3))
    data = (rows << (32 - bits)).astype(np.int32)
    soundfile.write(tmp_path / "r.dat", data, 96000, kind, format="FLAC")
    raw = (tmp_path / "r.dat").read_bytes()
    stem = _write(tmp_path, form, raw, 600, per_frame=(per_frame,) * 3)
    theirs, ours = _both(stem)
    np.testing.assert_allclose(ours, rows.T, rtol=1e-6, atol=0.01)
    np.testing.assert_array_equal(np.stack(theirs), rows.T)
    (tmp_path / "r.dat").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(BadInput, match="FLAC"):
        read(stem)


@given(
    st.sampled_from(["212", "310", "311", "24", "16", "61", "160"]),
    st.lists(st.integers(-512, 511), min_size=1, max_size=40),
)
def test_what_was_packed_is_unpacked(form, values):
    np.testing.assert_array_equal(decode(form, _packed(form, values), len(values)), values)


def _packed(form, values) -> np.ndarray:
    """Samples packed bit by bit as the format's page has it."""
    raw = bytearray()
    match form:
        case "16" | "61":
            for value in values:
                raw += value.to_bytes(2, "little" if form == "16" else "big", signed=True)
        case "160":
            for value in values:
                raw += (value + 2**15).to_bytes(2, "little")
        case "24":
            for value in values:
                raw += value.to_bytes(3, "little", signed=True)
        case "212":
            for a, b in zip(values[::2], [*values[1::2], 0], strict=False):
                a, b = a & 0xFFF, b & 0xFFF
                raw += bytes([a & 0xFF, a >> 8 | b >> 8 << 4, b & 0xFF])
        case _:
            whole = [value & 0x3FF for value in values] + [0, 0]
            for a, b, c in zip(whole[::3], whole[1::3], whole[2::3], strict=False):
                if form == "311":
                    raw += (a | b << 10 | c << 20).to_bytes(4, "little")
                else:
                    raw += (a << 1 | (c & 0x1F) << 11).to_bytes(2, "little")
                    raw += (b << 1 | (c >> 5) << 11).to_bytes(2, "little")
    return np.frombuffer(bytes(raw[: num_bytes(form, len(values))]), np.uint8)


@pytest.mark.parametrize("filler", [b"", b"\0"])
def test_an_odd_number_of_212_with_and_without_the_filler_byte(tmp_path, filler):
    values = list(range(-300, 303))
    raw = _packed("212", values).tobytes()
    record = read(_write(tmp_path, "212", raw + filler, 201))
    np.testing.assert_allclose(record.signal_mv[0] * 100 + 3, values[::3], atol=0.01)
    assert not any("the rest is left out" in note for note in record.notes)
    (tmp_path / "r.dat").write_bytes(raw[:-1])
    with pytest.raises(BadInput, match=f"expected {len(raw)} "):
        read(tmp_path / "r")


@pytest.mark.parametrize("form", ["99", "17", "500", "00"])
def test_another_format_is_refused_by_its_name(tmp_path, form):
    with pytest.raises(BadInput, match=f"format {form} is unknown"):
        read(_write(tmp_path, form, bytes(9999), 100))


def test_a_signal_without_samples_is_missing(tmp_path):
    stem = _write(tmp_path, "16", np.arange(200, dtype="<i2").tobytes(), 100)
    text = stem.with_suffix(".hea").read_text().splitlines()
    text[3] = "~ 0 100/mV 12 0 0 0 0 V1"
    stem.with_suffix(".hea").write_text("\n".join(text))
    record = read(stem)
    assert record.lead_notes["V1"] == ("missing throughout",)
    assert not np.isnan(record.signal_mv[0]).any()


def test_absurd_numbers_of_a_header_are_no_traceback(tmp_path):
    for line in (
        "r.dat 16 1e-300/mV 12 0 0 0 0 I",
        "r.dat 16 100(-999999999999999)/mV 12 0 0 0 0 I",
        "r.dat 16x999999 100/mV 12 0 0 0 0 I",
        "r.dat 16 100/mV 12 999999999999999999999 0 0 0 I",
        "r.dat 8 100/mV 12 0 99999999999999999999 0 0 I",
    ):
        (tmp_path / "r.dat").write_bytes(np.arange(1_100_000, dtype="<i2").tobytes())
        (tmp_path / "r.hea").write_text(f"r 1 500 {1 if 'x' in line else 9}\n{line}\n")
        with pytest.raises(BadInput):
            read(tmp_path / "r")
