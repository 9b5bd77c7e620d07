"""Scalars as TensorBoard reads them: records of one protocol-buffer event each, in an event file.

A record is its length and the masked CRC-32C of it, then the event and the same of that (TFRecord).
An event has the wall clock (field 1), the step (2) and one of: the format's version (3), a summary
(5) of tags (1) and values (2), a session's beginning (7). The format has not changed since 2015;
what it needs of TensorFlow is this page.
"""

import struct
import time
from collections.abc import Mapping
from pathlib import Path

POLYNOMIAL = 0x82F63B78  # CRC-32C, reflected
MASK = 0xA282EAD8
SESSION_STARTS = b"\x08\x01"


def new_file(folder: Path, first: int) -> Path:
    """Returns a new event file in `folder`, where events of `first` and later steps begin anew.

    What an earlier file says of those steps is no longer shown: the run writes them again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"events.out.tfevents.{time.time_ns()}.gem_jax"
    began = event(first, field(7, SESSION_STARTS)) if first else b""
    path.write_bytes(
        record(event(0, field(3, b"brain.Event:2"))) + (record(began) if began else b"")
    )
    return path


def append(path: Path, step: int, scalars: Mapping[str, float]) -> None:
    """Adds the scalars of a step to the event file."""
    values = (
        field(1, field(1, tag.encode()) + b"\x15" + struct.pack("<f", value))
        for tag, value in scalars.items()
    )
    with path.open("ab") as file:
        file.write(record(event(step, field(5, b"".join(values)))))


def event(step: int, content: bytes) -> bytes:
    """Returns an event of now."""
    return b"\x09" + struct.pack("<d", time.time()) + b"\x10" + varint(step) + content


def field(number: int, content: bytes) -> bytes:
    """Returns bytes, a text or a message as field `number` of a message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    """Returns a number in groups of seven bits, the lowest first; all but the last are marked."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups[-1] |= 0x80
        groups.append(value & 0x7F)
    return bytes(groups)


def record(content: bytes) -> bytes:
    """Returns the content as a record of the file."""
    length = struct.pack("<Q", len(content))
    return length + masked(crc32c(length)) + content + masked(crc32c(content))


def masked(crc: int) -> bytes:
    """Returns a checksum as it is stored: rotated and moved, as it may lie in checked data."""
    return struct.pack("<I", ((crc >> 15 | crc << 17) + MASK) & 0xFFFFFFFF)


def crc32c(content: bytes) -> int:
    """Returns the CRC-32C (Castagnoli) of the bytes."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _remainder(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (POLYNOMIAL if byte & 1 else 0)
    return byte


TABLE = tuple(map(_remainder, range(256)))
