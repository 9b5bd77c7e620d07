import struct
import zlib

import numpy as np
import pytest
import scipy.io

from data_prep.records import LEADS, BadInput, find, read
from matlab_files import write_cpsc
from wfdb_records import samples


def _refused(path) -> str:
    with pytest.raises(BadInput) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert str(path.with_suffix("")) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("compressed", [True, False])
def test_a_file_of_cpsc_2018_is_twelve_leads_at_500_hz(tmp_path, compressed):
    path = write_cpsc(tmp_path / "A0001.mat", compressed=compressed)
    record = read(path)
    assert record.name == str(tmp_path / "A0001")
    assert record.leads == record.stored_leads == LEADS
    assert (record.sampling_rate_hz, record.duration_s, record.calibrated) == (500.0, 10.0, True)
    expected = np.stack(list(samples(5000, 500.0).values())) / 1000
    np.testing.assert_allclose(record.signal_mv, expected, atol=1e-6)
    assert record.meta == {"sex": "M", "age": 52.0}
    assert record.notes == ()
    assert find([tmp_path]) == [tmp_path / "A0001"]
    np.testing.assert_array_equal(read(tmp_path / "A0001").signal_mv, record.signal_mv)


def test_scipy_reads_the_same(tmp_path):
    path = write_cpsc(tmp_path / "A.mat", age=np.nan, sex="Female")
    other = scipy.io.loadmat(path)["ECG"][0, 0]["data"]
    np.testing.assert_array_equal(read(path).signal_mv, other.astype(np.float32))
    assert read(path).meta == {"sex": "F"}


@pytest.mark.parametrize("kind", ["i2", "i4", "f4", "u1", ">f8"])
def test_other_kinds_of_numbers(tmp_path, kind):
    data = np.arange(12 * 600).reshape(12, 600) % 120
    record = read(write_cpsc(tmp_path / "A.mat", data=data.astype(kind)))
    np.testing.assert_array_equal(record.signal_mv, data)


def test_another_length_is_said(tmp_path):
    assert "15.9 s long, not the usual 10 s" in read(write_cpsc(tmp_path / "A.mat", 7950)).notes


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (np.zeros((11, 500)), "ECG.data is 11x500, expected 12 leads"),
        (np.zeros((500, 12)), "500x12"),
        (np.zeros((12, 0)), "no sample"),
        ("text", "no numbers"),
        (np.zeros((12, 5, 5)), "12x5x5"),
        (np.full((12, 500), np.inf), "lead I reaches inf mV"),
        (np.array([[1, "a"]], dtype=object), "no numbers"),
    ],
)
def test_data_that_are_no_twelve_leads_are_refused(tmp_path, data, said):
    assert said in _refused(write_cpsc(tmp_path / "A.mat", data=data))


def test_other_variables_and_other_versions_are_refused(tmp_path):
    scipy.io.savemat(tmp_path / "A.mat", {"val": np.zeros((12, 5))})
    assert "variables 'val', expected ECG" in _refused(tmp_path / "A.mat")
    scipy.io.savemat(tmp_path / "A.mat", {"val": np.zeros((12, 5), np.int16)}, format="4")
    assert f"without its header: looked for {tmp_path / 'A.hea'}" in _refused(tmp_path / "A.mat")
    (tmp_path / "A.mat").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500))
    assert "7.3" in _refused(tmp_path / "A.mat")
    (tmp_path / "A.mat").write_bytes(b"")
    assert "no MATLAB 5 file" in _refused(tmp_path / "A.mat")


def test_a_file_cut_anywhere_is_refused(tmp_path):
    for compressed in (True, False):
        whole = write_cpsc(tmp_path / "A.mat", 600, compressed=compressed).read_bytes()
        for length in np.linspace(100, len(whole) - 1, 40).astype(int):
            (tmp_path / "A.mat").write_bytes(whole[:length])
            assert "fetch it again" in _refused(tmp_path / "A.mat")


def test_a_bomb_is_not_unpacked(tmp_path):
    head = write_cpsc(tmp_path / "A.mat").read_bytes()[:128]
    bomb = zlib.compress(struct.pack("<2I", 14, 1 << 30) + bytes(1 << 27), 9)
    assert len(bomb) < 200_000
    (tmp_path / "A.mat").write_bytes(head + struct.pack("<2I", 15, len(bomb)) + bomb)
    assert "larger than 64 MiB" in _refused(tmp_path / "A.mat")


def test_an_array_that_promises_more_than_it_has_is_refused(tmp_path):
    raw = bytearray(write_cpsc(tmp_path / "A.mat", 600, compressed=False).read_bytes())
    at = raw.index(struct.pack("<2i", 12, 600))
    raw[at + 4 : at + 8] = struct.pack("<i", 2**31 - 1)
    (tmp_path / "A.mat").write_bytes(raw)
    assert "7200 numbers for an array of [12, 2147483647]" in _refused(tmp_path / "A.mat")
