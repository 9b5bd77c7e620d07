"""Torch's .bin and .pt files, their tensors located and nothing in them executed.

Such a file is a zip: `data.pkl` describes the tensors, and each member `data/KEY` is one storage.
The unpickler below knows what rebuilds a tensor and refuses everything else by its name.
"""

import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gem_jax.weights.entry import Entry

STORAGES = {
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.DoubleStorage": "float64",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
# What the unpickler itself raises on a stream that was cut, spoilt or made by hand.
BROKEN = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


class PickleError(ValueError):
    """A file of torch's that is not read; the message says why and names no file."""


@dataclass(frozen=True)
class _Storage:
    dtype: str
    start_byte: int
    length: int


def open_pickle(path: Path) -> dict[str, Entry]:
    """Returns the tensors of `path` by name; those under `state_dict` where it has such a key.

    Raises:
        PickleError: for anything but tensors in plain containers in a whole, uncompressed zip.
        OSError: where the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(2)
    if start != b"PK":
        raise PickleError(_no_zip(start))
    try:
        with zipfile.ZipFile(path) as archive:
            values = _Unpickler(path, archive).load()
    except PickleError:
        raise
    except zipfile.BadZipFile as error:
        raise PickleError(f"{error}, expected a whole zip") from error
    except BROKEN as error:
        raise PickleError(f"a broken pickle: {type(error).__name__} {error}") from error
    tensors = values.get("state_dict", values) if isinstance(values, Mapping) else values
    if not isinstance(tensors, Mapping):
        raise PickleError(f"got a {type(tensors).__name__}, expected tensors by name")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Entry):
            raise PickleError(f"{name!r} is of type {type(tensor).__name__}, expected a tensor")
    return dict(tensors)


def _no_zip(start: bytes) -> str:
    if start[:1] == b"\x80":
        return (
            "a legacy pickle without a zip, which is not read; save it again with torch.save of "
            "torch 1.6 or later, or as safetensors"
        )
    return "no zip, expected a file of torch.save"


class _Unpickler(pickle.Unpickler):
    """Builds an Entry for each tensor; what the stream may call are the methods below."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path = path
        members = {info.filename: info for info in archive.infolist()}
        described = [name for name in members if name.endswith("/data.pkl")]
        if len(described) != 1 or len(members) != len(archive.infolist()):
            raise PickleError("got no single data.pkl, expected a file of torch.save")
        self._root = described[0].removesuffix("data.pkl")
        self._members = members
        order = members.get(f"{self._root}byteorder")
        if order is not None and archive.read(order) != b"little":
            raise PickleError("its byte order is not little; save it as safetensors")
        _require_stored(members[described[0]])
        super().__init__(archive.open(described[0]))

    def find_class(self, module: str, name: str) -> Any:
        """Returns the stand-in for `module.name`; PickleError for all but a tensor's parts."""
        full = f"{module}.{name}"
        if full in STORAGES:
            return STORAGES[full]
        if full == "torch._utils._rebuild_tensor_v2":
            return self._tensor
        if full == "torch._utils._rebuild_parameter":
            return self._parameter
        if full == "collections.OrderedDict":
            return OrderedDict
        raise PickleError(
            f"its pickle asks for {full}, expected tensors alone; nothing was executed: save the "
            "tensors as safetensors if you trust the file"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        """Returns where the storage lies that `pid` names."""
        kind, dtype, key, _, length = pid
        if kind != "storage" or dtype not in STORAGES.values() or type(length) is not int:
            raise PickleError(f"got {pid!r}, expected a storage")
        member = self._members.get(f"{self._root}data/{key}")
        if member is None:
            raise PickleError(f"storage {key} is missing")
        _require_stored(member)
        if member.file_size != length * np.dtype(dtype).itemsize:
            raise PickleError(
                f"storage {key} has {member.file_size} bytes, expected {length} of {dtype}"
            )
        return _Storage(dtype, _start_byte(self._path, member), length)

    def _tensor(self, storage: _Storage, first: int, shape: tuple, strides: tuple, *_) -> Entry:
        numbers = (first, *shape, *strides)
        if len(shape) != len(strides) or not all(type(n) is int and n >= 0 for n in numbers):
            raise PickleError(f"got shape {shape}, strides {strides}, offset {first}")
        last = first + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        size = math.prod(shape)
        # A stride of 0 repeats elements: a few bytes could claim all memory.
        if size > storage.length or (size and last >= storage.length):
            raise PickleError(
                f"a tensor of shape {shape}, strides {strides}, offset {first} does not fit its "
                f"storage of {storage.length}"
            )
        start = storage.start_byte + first * np.dtype(storage.dtype).itemsize
        plain = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        laid_out = None if strides == plain else strides
        return Entry(self._path, shape, storage.dtype, start, laid_out)

    def _parameter(self, tensor: Entry, *_) -> Entry:
        return tensor


def _require_stored(member: zipfile.ZipInfo) -> None:
    encrypted = member.flag_bits & 1
    whole = member.file_size == member.compress_size
    if member.compress_type != zipfile.ZIP_STORED or encrypted or not whole:
        raise PickleError(f"{member.filename} is compressed or encrypted, torch.save stores it")


def _start_byte(path: Path, member: zipfile.ZipInfo) -> int:
    """Returns where the member's bytes begin: after its own header, whose length is in it."""
    with path.open("rb") as file:
        file.seek(member.header_offset)
        header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise PickleError(f"{member.filename} is not where the zip says, expected a whole zip")
    name_bytes, extra_bytes = struct.unpack("<HH", header[26:])
    start = member.header_offset + len(header) + name_bytes + extra_bytes
    if start + member.file_size > path.stat().st_size:
        raise PickleError(f"{member.filename} is cut short, expected a whole zip")
    return start
