"""Small WFDB records written by hand, for tests of reading."""

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

TWELVE = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def samples(num_samples: int = 1000, rate_hz: float = 100.0) -> dict[str, np.ndarray]:
    """Digital samples of twelve leads, 1000 per mV, that obey Einthoven and Goldberger."""
    time_s = np.arange(num_samples) / rate_hz
    beat = 900 * np.exp(-((((time_s % 0.8) - 0.4) / 0.03) ** 2))
    one, foot = np.round(0.8 * beat), np.round(0.5 * beat + 40 * np.sin(2 * np.pi * time_s))
    two = np.round(foot + one / 2)
    three = two - one
    limb = (one, two, three, -(one + two) / 2, (one - three) / 2, (two + three) / 2)
    chest = [np.round(beat * scale) for scale in (-0.6, -0.2, 0.4, 0.9, 1.0, 0.8)]
    rows = zip(TWELVE, (*limb, *chest), strict=True)
    return {lead: np.floor(row).astype(np.int16) for lead, row in rows}


def write(
    stem: Path,
    rows: dict[str, np.ndarray],
    rate_hz: float | str = 100,
    gain: str | Sequence[str] = "1000(0)/mV",
    comments: Sequence[str] = (),
) -> Path:
    """Write rows by name as NAME.hea and NAME.dat in format 16; the path without suffix."""
    data = np.stack(list(rows.values()), axis=1).astype("<i2")
    data.tofile(stem.with_suffix(".dat"))
    gains = [gain] * len(rows) if isinstance(gain, str) else gain
    lines = [f"{stem.name} {len(rows)} {rate_hz} {len(data)}"]
    for (name, row), each in zip(rows.items(), gains, strict=True):
        checksum = int(row.astype(int).sum()) % 65536
        lines.append(f"{stem.name}.dat 16 {each} 16 0 {row[0]} {checksum} 0 {name}")
    lines += [f"# {comment}" for comment in comments]
    stem.with_suffix(".hea").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return stem


def edit_header(stem: Path, old: str, new: str) -> Path:
    """Replace text of a header, which must be there; the path without suffix."""
    header = stem.with_suffix(".hea")
    text = header.read_text(encoding="utf-8")
    assert old in text
    header.write_text(text.replace(old, new), encoding="utf-8")
    return stem


def struct_val(samples: bytes) -> bytes:
    """The Challenge's .mat: 24 bytes of MATLAB 4 before the samples of twelve leads."""
    return struct.pack("<5i", 30, 12, len(samples) // 24, 0, 4) + b"val\0" + samples
