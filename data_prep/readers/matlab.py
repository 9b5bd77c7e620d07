"""Variables of a MATLAB 5 file as far as ECGs need them: numbers, text, and a structure of these.

MathWorks, MAT-File Format, chapter 1. Every length is checked against the bytes that are there,
and compressed data are unpacked up to a limit, so that no damaged file asks for memory.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.records import BadInput

_MAX_BYTES = 1 << 26  # of a file, and of all that is unpacked of it
_HEADER_BYTES = 128
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
_NUMBERS |= {12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED = 14, 15
_ENCODINGS = {16: "utf-8", 17: "utf-16", 18: "utf-32", 4: "utf-16", 2: "latin-1", 1: "latin-1"}
_STRUCT, _CHAR, _FIRST_NUMERIC, _LAST_NUMERIC = 2, 4, 6, 15
Value = np.ndarray | str | dict


class _Damaged(ValueError):
    """The bytes are no MATLAB file; the message says where."""


def read_variable(path: Path, name: str) -> Value:
    """A variable of a MATLAB 5 file.

    Raises:
      BadInput: the file is damaged, of another version, too large, or lacks the variable.
    """
    if (size := path.stat().st_size) > _MAX_BYTES:
        raise BadInput(f"{path}: {size} bytes, expected at most {_MAX_BYTES}")
    raw = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(raw[126:128])
    if order is None:
        raise BadInput(f"{path}: {_version(raw, path)}")
    found, left = [], _MAX_BYTES
    try:
        for kind, body in _elements(raw[_HEADER_BYTES:], order):
            if kind == _COMPRESSED:
                unpacked = _unpacked(body, left)
                left -= len(unpacked)
                kind, body = next(_elements(unpacked, order), (0, b""))
            if kind == _MATRIX:
                own, value = _matrix(body, order, depth=0)
                if own == name:
                    return value
                found.append(own)
    except (_Damaged, struct.error, zlib.error, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: damaged MATLAB file ({error}); fetch it again") from None
    told = ", ".join(found)[:60] or "none"
    raise BadInput(f"{path}: variables {told!r}, expected {name}; it is no ECG of CPSC 2018")


def _version(raw: bytes, path: Path) -> str:
    if raw[:8] == b"\x89HDF\r\n\x1a\n" or raw[512:520] == b"\x89HDF\r\n\x1a\n":
        return "MATLAB 7.3 (HDF5), expected MATLAB 5; save it with -v7"
    if b"val\0" in raw[:64]:
        return f"the Challenge's .mat without its header: looked for {path.with_suffix('.hea')}"
    return "no MATLAB 5 file, expected one of CPSC 2018, or a .hea beside it; fetch it again"


def _elements(raw: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Each data element: its type and its bytes."""
    at = 0
    while at + 8 <= len(raw):
        kind, size = struct.unpack_from(f"{order}2I", raw, at)
        if kind >> 16:  # up to four bytes in the tag itself
            kind, size, start, stop = kind & 0xFFFF, kind >> 16, at + 4, at + 8
            if size > 4:
                raise _Damaged(f"a short element of {size} bytes")
        else:
            start = at + 8
            stop = start + size + (-size % 8 if kind != _COMPRESSED else 0)
        if start + size > len(raw):
            raise _Damaged(f"an element of {size} bytes where {len(raw) - start} are left")
        yield kind, raw[start : start + size]
        at = stop


def _unpacked(body: bytes, left: int) -> bytes:
    """Compressed bytes, unpacked if they are at most as many as are left."""
    unpack = zlib.decompressobj()
    raw = unpack.decompress(body, max(left, 1))
    if unpack.unconsumed_tail or not unpack.eof:
        raise _Damaged("compressed data that are cut off, or larger than 64 MiB")
    return raw


def _matrix(body: bytes, order: str, depth: int) -> tuple[str, Value]:
    """The name and value of an array."""
    parts = list(_elements(body, order)) if depth < 3 else []
    if len(parts) < 3 or len(parts[0][1]) != 8:
        raise _Damaged("an array without flags, shape and name")
    kind = struct.unpack(f"{order}I", parts[0][1][:4])[0] & 0xFF
    shape = np.frombuffer(_whole(parts[1][1], 4), f"{order}i4").tolist()
    name = parts[2][1].decode("ascii", "replace")
    rest = parts[3:]
    if kind == _STRUCT:
        return name, _structure(rest, order, depth)
    if not rest:
        return name, np.empty(0)
    form, data = rest[0]
    if kind == _CHAR:
        return name, data.decode(_encoding(form, order), "replace")
    if not _FIRST_NUMERIC <= kind <= _LAST_NUMERIC or form not in _NUMBERS:
        return name, {}  # a cell or the like, which no ECG needs
    dtype = np.dtype(order + _NUMBERS[form])
    values = np.frombuffer(_whole(data, dtype.itemsize), dtype)
    if min(shape, default=0) < 0 or np.prod(shape, dtype=object) != values.size:
        raise _Damaged(f"{values.size} numbers for an array of {shape}")
    return name, values.reshape(shape, order="F")


def _structure(parts: list[tuple[int, bytes]], order: str, depth: int) -> dict[str, Value]:
    """The fields of a structure of one element."""
    if len(parts) < 2 or len(parts[0][1]) != 4:
        raise _Damaged("a structure without names")
    width = struct.unpack(f"{order}i", parts[0][1])[0]
    if not 1 <= width <= 64:
        raise _Damaged(f"field names of {width} letters")
    names = [
        parts[1][1][at : at + width].split(b"\0")[0].decode("ascii", "replace")
        for at in range(0, len(parts[1][1]), width)
    ]
    if len(parts) - 2 != len(names):
        raise _Damaged(f"{len(parts) - 2} values for {len(names)} fields")
    return {
        field: _matrix(body, order, depth + 1)[1]
        for field, (_, body) in zip(names, parts[2:], strict=True)
    }


def _encoding(form: int, order: str) -> str:
    encoding = _ENCODINGS.get(form, "latin-1")
    if encoding in ("utf-16", "utf-32"):
        encoding += "-le" if order == "<" else "-be"
    return encoding


def _whole(data: bytes, size: int) -> bytes:
    if len(data) % size:
        raise _Damaged(f"{len(data)} bytes of numbers of {size} bytes")
    return data
