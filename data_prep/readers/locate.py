"""Which record a path means, and which records lie below a folder."""

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_prep.readers import code15, cpsc, numpy_array, table, wfdb
from data_prep.readers.names import lead_name
from data_prep.records import BadInput, Reading, Record

_READERS = {".mat": cpsc, ".csv": table, ".npy": numpy_array}
_HDF5 = (".hdf5", ".h5")
_SUFFIXES = (".hea", ".dat", *_READERS, *_HDF5)
_SEGMENT = re.compile(r"(?P<record>.+)_(?:\d+|layout)")


@dataclass(frozen=True)
class Place:
    """Where a record lies: a file, for WFDB without suffix, and in HDF5 the exam in it."""

    file: Path
    kind: str  # wfdb, a suffix of _READERS, or hdf5
    exam: str | None = None


def read_at(path: Path, reading: Reading) -> Record:
    """The record that a path means; see `records.read`."""
    try:
        place = _place(path)
        if place.kind == "wfdb":
            return wfdb.read(place.file, reading)
        if place.kind == "hdf5":
            return code15.read(place.file, place.exam)
        return _READERS[place.kind].read(place.file, str(_name(place)), reading)
    except OSError as error:
        raise _unreadable(path, error) from error


def check_at(path: Path) -> None:
    """Refuses what is seen without reading a sample; see `records.check`."""
    try:
        place = _place(path)
        if place.kind == "wfdb":
            wfdb.check(place.file)
        elif place.kind == "hdf5":
            code15.exam_row(place.file, place.exam)
    except OSError as error:
        raise _unreadable(path, error) from error


def records_at(path: Path) -> list[Path]:
    """The records that a path, folder or glob means; see `records.find`."""
    try:
        if path.is_dir() and not _header(path).is_file():
            if found := _below(path):
                return found
            raise BadInput(
                f"{path}: holds no record; expected WFDB (.hea), .mat of CPSC 2018, .hdf5 of "
                "CODE-15%, .csv or .npy below it"
            )
        if glob.has_magic(str(path)) and not path.exists():
            return _fitting(path)
        try:
            place = _place(path)
        except BadInput:  # `read` says it
            return [path.with_suffix("") if path.suffix.lower() in (".hea", ".dat") else path]
        if place.kind == "hdf5":
            exam = place.exam
            return [place.file.with_suffix("") / exam] if exam else _exams(place.file)
        return [_name(place)]
    except OSError as error:
        raise _unreadable(path, error) from error


def _place(path: Path) -> Place:
    """The record at a path, if there is one."""
    suffix = path.suffix.lower()
    if _header(path).is_file():
        return Place(path, "wfdb")
    if path.is_file():
        with_header = _header(path.with_suffix("")).is_file()
        if suffix in _HDF5:
            return Place(path, "hdf5")
        if suffix in _READERS and not (suffix == ".mat" and with_header):
            return Place(path, suffix)
        if with_header:  # its data, or annotations beside it
            return Place(path.with_suffix(""), "wfdb")
        if suffix not in (".hea", ".dat"):
            raise BadInput(
                f"{path}: format {path.suffix or '(no suffix)'} is unknown, expected one of "
                f"{', '.join(_SUFFIXES)}; convert it, or name the .hea beside it"
            )
    if path.is_dir():
        raise BadInput(f"{path}: is a folder, expected one record; name a record in it")
    for other in (*_READERS, *_HDF5):
        if (file := Path(f"{path}{other}")).is_file():
            return Place(file, "hdf5" if other in _HDF5 else other)
    if place := _exam_place(path):
        return place
    if "\\" in str(path):  # as Windows writes paths
        return _place(Path(str(path).replace("\\", "/")))
    stem = path.with_suffix("") if suffix in (".hea", ".dat", ".mat") else path
    looked_for = path if suffix in _SUFFIXES[3:] else _header(stem)
    cure = (
        "give the path of a WFDB record (NAME.hea with its data beside it) or of a file of another "
        "format"
    )
    if lead_name(str(path)):
        cure = "if it is a lead, write all in one word: --leads I,II"
    raise BadInput(f"{stem}: no such record: looked for {looked_for}; {cure}")


def _exam_place(path: Path) -> Place | None:
    """FILE.hdf5/EXAM, FILE.hdf5#EXAM, or either without the suffix."""
    before, hash_sign, exam = str(path).rpartition("#")
    file = Path(before) if hash_sign else path.parent
    exam = exam if hash_sign else path.name
    for one in (file, *(Path(f"{file}{suffix}") for suffix in _HDF5)):
        if one.suffix.lower() in _HDF5 and one.is_file():
            return Place(one, "hdf5", exam)
    return None


def _header(stem: Path) -> Path:
    return Path(f"{stem}.hea")  # `.` has no name to put a suffix to


def _name(place: Place) -> Path:
    """The shortest path that means this record: without suffix, if no other has the same."""
    if place.kind == "wfdb":
        return place.file
    stem = place.file.with_suffix("")
    if stem.is_dir() or _place(stem) != place:
        return place.file
    return stem


def _exams(file: Path) -> list[Path]:
    """All exams of a file; a file that cannot be read stands for itself, and `read` says why."""
    try:
        return [file.with_suffix("") / str(exam) for exam in code15.exam_ids(file)]
    except BadInput:
        return [file]


def _below(folder: Path) -> list[Path]:
    """The records below a folder, in the order of their files."""
    files = [
        Path(parent) / name
        for parent, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(_SUFFIXES) and not name.lower().endswith(".dat")
    ]
    found: dict[Path, None] = {}
    for file in sorted(files):
        found.update(dict.fromkeys(_at_file(file)))
    return list(found)


def _at_file(file: Path) -> Iterator[Path]:
    """The records that a file in a searched folder holds: none if it is no record of its own."""
    if not file.is_file():
        return
    match file.suffix.lower():
        case ".hea":
            if not _is_segment(file):
                yield file.with_suffix("")
        case ".hdf5" | ".h5":
            yield from _exams(file)
        case ".csv" if not table.holds_leads(file):
            pass
        case _:
            yield from records_at(file)


def _is_segment(header: Path) -> bool:
    """Whether a header is of a part of the record that lies beside it."""
    if not (found := _SEGMENT.fullmatch(header.stem)):
        return False
    whole = header.with_name(f"{found['record']}.hea")
    try:
        with whole.open("rb") as file:
            text = file.read(1 << 20)
    except OSError:
        return False
    return re.search(rb"^%b\s" % re.escape(header.stem).encode(), text, re.MULTILINE) is not None


def _fitting(pattern: Path) -> list[Path]:
    """The records that a glob fits; files of other kinds beside them are passed over."""
    found: dict[Path, None] = {}
    names = glob.glob(str(pattern), recursive=True)  # noqa: PTH207 (a Path's takes no absolute one)
    for path in sorted(map(Path, names)):
        if path.is_dir() and not _header(path).is_file():
            found.update(dict.fromkeys(_below(path)))
        elif path.name.lower().endswith(_SUFFIXES):
            found.update(dict.fromkeys(records_at(path)))
    if not found:
        raise BadInput(f"{pattern}: fits no record, expected at least one; correct it")
    return list(found)


def _unreadable(path: Path, error: OSError) -> BadInput:
    return BadInput(f"{path}: {error.strerror or error}, expected a file that can be read")
