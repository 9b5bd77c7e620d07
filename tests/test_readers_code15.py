import h5py
import numpy as np
import pytest

from code15_files import tracing, write_code15
from data_prep.records import LEADS, BadInput, check, find, read


def _refused(path) -> str:
    with pytest.raises(BadInput) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def part(tmp_path):
    exams = {1169160: tracing(), 2873686: tracing(2800), 77: -tracing(), 0: tracing() * 0}
    return write_code15(tmp_path / "exams_part2.hdf5", exams)


def test_a_file_is_all_its_exams(part, tmp_path):
    names = [tmp_path / "exams_part2" / exam for exam in ("1169160", "2873686", "77")]
    assert find([part]) == find([tmp_path]) == find([tmp_path / "exams_part2"]) == names
    for name in names:
        check(name)
        assert read(name).name == str(name)


@pytest.mark.parametrize(
    "spelled", ["exams_part2.hdf5/77", "exams_part2.hdf5#77", "exams_part2/77", "exams_part2#77"]
)
def test_one_exam_is_named_by_its_id(part, tmp_path, spelled):
    record = read(tmp_path / spelled)
    assert record.leads == record.stored_leads == LEADS
    assert record.sampling_rate_hz == 400.0
    known = np.isfinite(record.signal_mv[0])
    np.testing.assert_allclose(record.signal_mv[:, known], -tracing().T[:, known], atol=1e-6)
    assert record.calibrated
    assert find([tmp_path / spelled]) == [tmp_path / "exams_part2" / "77"]


@pytest.mark.parametrize(("exam", "padded"), [("2873686", 648), ("1169160", 48)])
def test_zeros_around_an_exam_are_missing_and_said(part, exam, padded):
    record = read(part / exam)
    missing = np.isnan(record.signal_mv)
    assert missing[:, :padded].all()
    assert missing[:, -padded:].all()
    assert not missing[:, padded:-padded].any()
    assert f"padded for {padded / 400:.2f} s at the start and {padded / 400:.2f} s at the end" in (
        "; ".join(record.notes)
    )
    assert record.lead_notes == {}


def test_a_file_of_one_exam_is_it(tmp_path):
    path = write_code15(tmp_path / "one.h5", {5: tracing()}, compression="gzip")
    assert read(path).name == str(tmp_path / "one" / "5")
    assert find([path]) == [tmp_path / "one" / "5"]


def test_what_names_no_exam_is_refused(part):
    assert "holds 3 exams, expected one record" in _refused(part)
    for exam in ("78", "0", "x", "-77", "9" * 30):
        assert "no exam" in _refused(part / exam)
        with pytest.raises(BadInput, match="no exam"):
            check(part / exam)


@pytest.mark.parametrize(
    ("ids", "shape", "kind", "said"),
    [
        ([1, 2], (3, 64, 12), "f4", r"\(2,\) and tracings \(3, 64, 12\)"),
        ([1, 2], (2, 64, 8), "f4", "expected"),
        ([1, 2], (2, 64 * 12), "f4", "expected"),
        ([1.5, 2.5], (2, 64, 12), "f4", "whole numbers"),
        ([7, 7], (2, 64, 12), "f4", "twice"),
        ([0, 0], (2, 64, 12), "f4", "missing"),
        ([1, 2], (2, 0, 12), "f4", "expected"),
        ([1, 2], (2, 64, 12), "S4", "expected"),
    ],
)
def test_another_layout_is_refused(tmp_path, ids, shape, kind, said):
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        file["exam_id"] = np.array(ids)
        file["tracings"] = np.zeros(shape, kind)
    with pytest.raises(BadInput, match=said):
        read(path / "1")
    assert find([path]) == [path]  # so that reading says it


def test_an_absurd_shape_takes_no_memory(tmp_path):
    path = tmp_path / "x.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("exam_id", (10**12,), "i8", chunks=(1000,))
        file.create_dataset("tracings", (10**12, 4096, 12), "f4", chunks=(1, 4096, 12))
    assert "1000000000000" in _refused(path / "1")
    with h5py.File(path, "w") as file:
        file.create_dataset("exam_id", data=[1])
        file.create_dataset(
            "tracings", (1, 4096, 12), "f4", chunks=(4096, 4096, 12), maxshape=(None,) * 3
        )
    assert "chunks" in _refused(path / "1")


def test_numbers_that_lie_elsewhere_are_refused(part, tmp_path):
    (tmp_path / "raw").write_bytes(bytes(4096 * 12 * 4))
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["exam_id"] = [1]
        file.create_dataset(
            "tracings", (1, 4096, 12), "f4", external=[(str(tmp_path / "raw"), 0, 4096 * 12 * 4)]
        )
    assert "lies in other files" in _refused(tmp_path / "x.hdf5/1")
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["exam_id"] = h5py.ExternalLink(str(part), "exam_id")
        file["tracings"] = h5py.ExternalLink(str(part), "tracings")
    assert "no dataset exam_id" in _refused(tmp_path / "x.hdf5/77")


def test_no_hdf5_and_a_part_of_one_are_refused(part, tmp_path):
    whole = part.read_bytes()
    for raw in (b"", b"text", whole[: len(whole) // 2], whole[:600]):
        (tmp_path / "y.hdf5").write_bytes(raw)
        assert "damaged or no HDF5" in _refused(tmp_path / "y.hdf5")
