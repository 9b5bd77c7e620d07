"""Torch's .bin and .pt files, their tensors located and nothing in them executed.

Such a file is a zip: `data.pkl` describes the tensors, and each member `data/KEY` is one storage.
The unpickler below knows what rebuilds a tensor and refuses everything else by its name.
"""

import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

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
MAX_AXES = 64  # numpy's
# What zipfile and the unpickler raise on a file that was cut, spoilt or made by hand.
BROKEN = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)


class PickleError(ValueError):
    """A file of torch's that is not read; the message says why and names no file."""


# Tuples, since a stream may set the attributes of any object that it holds and that has some.
class _Storage(NamedTuple):
    dtype: str
    start_byte: int
    length: int


class _View(NamedTuple):
    storage: _Storage
    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


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
        raise PickleError(f"broken: {type(error).__name__} {error}") from error
    return {name: _entry(path, view) for name, view in _named(values).items()}


def _named(values: Any) -> dict[str, _View]:
    """Returns the tensors among the unpickled `values`."""
    # The methods of dict itself: those of the object may have been replaced by the stream.
    tensors = dict.get(values, "state_dict", values) if isinstance(values, dict) else values
    if not isinstance(tensors, dict):
        raise PickleError(f"got a {type(tensors).__name__}, expected tensors by name")
    named = list(dict.items(tensors))
    for name, tensor in named:
        if not isinstance(name, str):
            raise PickleError(f"got a name of type {type(name).__name__}, expected text")
        if not isinstance(tensor, _View):
            raise PickleError(f"{name!r} is a {type(tensor).__name__}, expected a tensor")
    return dict(named)


def _entry(path: Path, view: _View) -> Entry:
    storage, first, shape, strides = view
    start = storage.start_byte + first * np.dtype(storage.dtype).itemsize
    plain = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return Entry(path, shape, storage.dtype, start, None if strides == plain else strides)


def _no_zip(start: bytes) -> str:
    if start[:1] == b"\x80":
        return (
            "a legacy pickle without a zip, which is not read; save it again with torch.save of "
            "torch 1.6 or later, or as safetensors"
        )
    return "no zip, expected a file of torch.save"


class _Unpickler(pickle.Unpickler):
    """Gives a _View for each tensor; the stream can call just what `find_class` returns."""

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
            return lambda *parts: _view(*parts)
        if full == "torch._utils._rebuild_parameter":
            return lambda tensor, *_: tensor
        if full == "collections.OrderedDict":
            return OrderedDict
        raise PickleError(
            f"its pickle asks for {full!r}, expected tensors alone; nothing was executed: save the "
            "tensors as safetensors if you trust the file"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        """Returns where the storage lies that `pid` names."""
        kind, dtype, key, _, length = pid
        typed = type(key) is str and type(length) is int
        if kind != "storage" or dtype not in STORAGES.values() or not typed:
            raise PickleError("its pickle names a storage in no known way")
        member = self._members.get(f"{self._root}data/{key}")
        if member is None:
            raise PickleError(f"storage {key} is missing")
        _require_stored(member)
        if member.file_size != length * np.dtype(dtype).itemsize:
            raise PickleError(
                f"storage {key} has {member.file_size} bytes, expected {length} of {dtype}"
            )
        return _Storage(dtype, _start_byte(self._path, member), length)


def _view(storage: _Storage, first: int, shape: tuple, strides: tuple, *_: Any) -> _View:
    """Returns the tensor; PickleError unless each of its elements lies in `storage`."""
    numbers = (first, *shape, *strides)
    whole = type(storage) is _Storage and type(shape) is tuple and type(strides) is tuple
    if not whole or len(shape) != len(strides) or len(shape) > MAX_AXES:
        raise PickleError("a tensor is described in no known way")
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise PickleError(f"shape {shape}, strides {strides} or offset {first} is negative")
    last = first + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    size = math.prod(shape)
    # A stride of 0 repeats elements: a few bytes could claim all memory.
    if size > storage.length or (size and last >= storage.length):
        raise PickleError(
            f"a tensor of shape {shape}, strides {strides}, offset {first} does not fit its "
            f"storage of {storage.length}"
        )
    return _View(storage, first, shape, strides)


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
