"""Damaged ECG files of every format: one seed, one damaged record in a folder of its own."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import wfdb

import matlab_files
import wfdb_records
from code15_files import SAMPLES, write_code15

RATE_HZ = 100.0
ABSURD = (
    *("0", "-1", "1", "65536", "99999999999999", "4294967297", "1e308", "1e-320", "nan", "inf", ""),
    *(
        "-",
        "~",
        "/etc/passwd",
        "../x",
        "x y",
        "\x00",
        "é",
        "0x10",
        "9" * 400,
        "1e",
        "mmHg",
        "{",
        '"',
    ),
)


def _rows() -> dict[str, np.ndarray]:
    return wfdb_records.samples(1000, RATE_HZ)


def _dat(folder: Path) -> None:
    wfdb_records.write(folder / "r", _rows(), 100, comments=("Age: 50", "Sex: F", "Dx: 1,2"))


def _packed(form: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        raw = np.random.default_rng(0).integers(0, 256, 16_003, np.uint8)
        raw.tofile(folder / "r.dat")
        lines = [
            f"r.dat {form}+3 500(2)/uV 12 0 0 0 0 {lead}" for lead in ("I", "-II", "MLII", "C1")
        ]
        (folder / "r.hea").write_text("\n".join(["r 4 100/8(0) 1000", *lines]))

    return write


def _flac(folder: Path) -> None:
    data = np.stack(list(_rows().values()), axis=1)[:, :8].astype(np.int16)
    soundfile.write(folder / "r.dat", data, 96000, "PCM_16", format="FLAC")
    lines = [f"r.dat 516 1000/mV 16 0 0 0 0 {lead}" for lead in list(_rows())[:8]]
    (folder / "r.hea").write_text("\n".join(["r 8 100 1000", *lines]))


def _frames(folder: Path) -> None:
    np.arange(4000, dtype="<i2").tofile(folder / "r.dat")
    lines = ["r.dat 16x3:2 1000/mV 16 0 0 0 0 I", "r.dat 16 1000/mV 16 0 0 0 0 II"]
    (folder / "r.hea").write_text("\n".join(["r 2 100 1000", *lines]))


def _segments(folder: Path) -> None:
    for number in (1, 2):
        wfdb_records.write(folder / f"r_000{number}", _rows(), 100)
    (folder / "r.hea").write_text("r/3 12 100 2200\nr_0001 1000\n~ 200\nr_0002 1000\n")


def _challenge(folder: Path) -> None:
    _dat(folder)
    (folder / "r.mat").write_bytes(wfdb_records.struct_val((folder / "r.dat").read_bytes()))
    (folder / "r.dat").unlink()
    wfdb_records.edit_header(folder / "r", "r.dat 16 ", "r.mat 16x1+24 ")


def _ludb(folder: Path) -> None:
    gains = [f"{np.ptp(row.astype(int))}(3)/mV" for row in _rows().values()]
    wfdb_records.write(
        folder / "r", _rows(), 100, gain=gains, comments=("<diagnoses>:", "Rhythm: x")
    )
    wfdb.wrann("r", "i", np.array([10, 20, 30]), list("(N)"), write_dir=str(folder))


def _cpsc(compressed: bool) -> Callable[[Path], None]:
    return lambda folder: matlab_files.write_cpsc(folder / "r.mat", 1000, compressed) and None


def _code15(**storage: object) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        exam = np.zeros((SAMPLES, 12), np.float32)
        exam[48:-48] = np.random.default_rng(0).normal(0, 0.3, (SAMPLES - 96, 12))
        write_code15(folder / "r.hdf5", {11: exam[:512], 12: -exam[:512]}, **storage)

    return write


def _csv(folder: Path) -> None:
    lines = [
        ",".join(f"{value / 1000:g}" for value in row)
        for row in zip(*_rows().values(), strict=True)
    ]
    text = "# sampling_rate_hz: 100\n" + ",".join(f"{lead} (mV)" for lead in _rows())
    (folder / "r.csv").write_text("\n".join([text, *lines]))


def _npy(folder: Path) -> None:
    np.save(folder / "r.npy", np.stack(list(_rows().values())))
    said = {"sampling_rate_hz": 100, "unit": "uV", "leads": list(_rows())}
    (folder / "r.json").write_text(json.dumps(said))


WRITERS = {
    "dat": _dat, "ludb": _ludb, "challenge": _challenge, "segments": _segments, "frames": _frames,
    "flac": _flac, "csv": _csv, "npy": _npy, "cpsc": _cpsc(True), "cpsc_plain": _cpsc(False),
    "code15": _code15(), "code15_gzip": _code15(chunks=(1, 512, 12), compression="gzip"),
    **{form: _packed(form) for form in ("8", "24", "32", "61", "80", "160", "212", "310", "311")},
}  # fmt: skip


def damaged(folder: Path, whole: Path, seed: int) -> str:
    """Writes into `folder` a record whose files are spoiled; returns what it was.

    `whole` holds a sound record of each format in a folder named after it; see `sound`.
    """
    rng = np.random.default_rng(seed)
    name = list(WRITERS)[seed % len(WRITERS)]
    shutil.copytree(whole / name, folder)
    for _ in range(int(rng.integers(1, 4))):
        files = sorted(
            path for path in folder.iterdir() if path.is_file() and not path.is_symlink()
        )
        if not files:
            break
        file = files[rng.integers(len(files))]
        text = file.suffix in (".hea", ".csv", ".json") and rng.random() < 0.8
        (_spoil_text if text else _spoil_bytes)(file, rng)
    return name


def sound(whole: Path) -> None:
    """Writes a sound record of each format."""
    for name, write in WRITERS.items():
        (whole / name).mkdir(parents=True)
        write(whole / name)


def _spoil_text(file: Path, rng: np.random.Generator) -> None:
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    at = int(rng.integers(min(len(lines), 16)))
    match rng.integers(6):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[rng.integers(len(lines))])
        case 2:
            lines[at] = lines[at][: rng.integers(len(lines[at]) + 1)]
        case 3:
            lines[at] *= int(rng.integers(2, 2000))
        case _:
            words = re.split(r"([\s,/():+x]+)", lines[at])
            words[rng.integers(len(words))] = ABSURD[rng.integers(len(ABSURD))]
            lines[at] = "".join(words)
    file.write_text("\n".join(lines), encoding="utf-8")


def _spoil_bytes(file: Path, rng: np.random.Generator) -> None:
    raw = bytearray(file.read_bytes())
    size = len(raw)
    at = int(rng.integers(max(min(size, 600) if rng.random() < 0.7 else size, 1)))
    match rng.integers(8):
        case 0:
            raw = raw[: int(rng.integers(size + 1))]
        case 1:
            raw += rng.bytes(int(rng.integers(1, 5000)))
        case 2:
            raw[at : at + 8] = b"\xff" * 8
        case 3:
            raw[at : at + 4] = b"\0" * 4
        case 4:
            raw[at:at] = rng.bytes(int(rng.integers(1, 9)))
        case 5 if rng.random() < 0.3:
            file.unlink()
            (file.mkdir if rng.random() < 0.5 else lambda: file.symlink_to("/etc/hostname"))()
            return
        case _:
            for place in rng.integers(at, min(at + 40, size) + 1, 6).tolist():
                raw[place : place + 1] = rng.bytes(1)
    file.write_bytes(raw)
