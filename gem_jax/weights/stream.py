"""Safetensors written tensor by tensor: the headers first, then each tensor at its place."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from gem_jax.weights.entry import Entry
from gem_jax.weights.files import (
    DTYPES,
    INDEX,
    SHARD_BYTES,
    SINGLE,
    WeightsError,
    refuse,
    write_json,
)

LENGTH_BYTES = 8  # A file begins with its header's length.
ALIGNED_BYTES = 8
CODES = {dtype: code for code, dtype in DTYPES.items()}
# Shape, and numpy's name of the dtype.
Spec = tuple[tuple[int, ...], str]
# What will be written, in the order in which shards are filled.
Plan = Mapping[str, Spec]


@dataclass(frozen=True)
class Writer:
    """Files whose headers are written; `write` takes the tensors in any order, each once."""

    folder: Path
    places: dict[str, Entry]
    written: set[str] = field(default_factory=set)

    def dtype(self, name: str) -> str:
        """Returns numpy's name of the dtype that `name` is planned with."""
        return self.places[name].dtype

    def write(self, name: str, tensor: np.ndarray) -> None:
        """Writes one tensor; WeightsError unless it is what was planned, and for the first time."""
        place = self.places.get(name)
        if place is None or name in self.written:
            given = "unplanned" if place is None else "given twice"
            raise WeightsError(f"{self.folder}: {name} is {given}, expected each tensor once")
        if (tensor.shape, tensor.dtype.name) != (place.shape, place.dtype):
            got, expected = f"{tensor.dtype}{tensor.shape}", f"{place.dtype}{place.shape}"
            raise WeightsError(f"{self.folder}: {name}: got {got}, expected {expected}")
        with place.file.open("r+b") as file:
            file.seek(place.start_byte)
            file.write(raw(tensor))
        self.written.add(name)

    def finish(self) -> int:
        """Returns the tensors' bytes in all; WeightsError names those that were not written."""
        require_all(self.folder, self.places, self.written)
        return sum(_nbytes(place.shape, place.dtype) for place in self.places.values())


def start_folder(
    folder: Path, plan: Plan, shard_bytes: int = SHARD_BYTES, counts: Sequence[int] = ()
) -> Writer:
    """Returns the writer of `folder`: model.safetensors, or shards and their index.

    Files are named, and shards filled, as transformers does: a shard ends before the tensor that
    would take it over `shard_bytes`; or they have the numbers of tensors that `counts` names, if
    these are all.
    """
    shards = _counted(plan, counts) if sum(counts) == len(plan) else _shards(plan, shard_bytes)
    count = len(shards)
    if count == 1:
        return start_file(folder / SINGLE, plan)
    names = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    places: dict[str, Entry] = {}
    for name, shard in zip(names, shards, strict=True):
        places |= start_file(folder / name, shard).places
    total = sum(_nbytes(*spec) for spec in plan.values())
    located = {name: place.file.name for name, place in places.items()}
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": located})
    return Writer(folder, places)


def start_file(path: Path, plan: Plan) -> Writer:
    """Returns the writer of one safetensors file, whose header and length are on disk."""
    unknown = [
        f"{name} has dtype {dtype}, expected one of {', '.join(CODES)}"
        for name, (_, dtype) in plan.items()
        if dtype not in CODES
    ]
    refuse(path, unknown)
    offsets, total = _offsets(plan)
    # Transformers and torch read files without this mark as not theirs.
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    for name, start in offsets.items():
        shape, dtype = plan[name]
        span = [start, start + _nbytes(shape, dtype)]
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": span}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNED_BYTES)
    begin = LENGTH_BYTES + len(text)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
        file.truncate(begin + total)
    places = {name: Entry(path, *plan[name], begin + start) for name, start in offsets.items()}
    return Writer(path.parent, places)


def raw(tensor: np.ndarray) -> memoryview:
    """Returns the tensor's bytes, its last axis running fastest."""
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data


def require_all(where: Path, planned: Iterable[str], written: Collection[str]) -> None:
    """Raises a WeightsError that names the tensors that were not written."""
    refuse(where, [f"{name} was not written" for name in planned if name not in written])


def _offsets(plan: Plan) -> tuple[dict[str, int], int]:
    """Returns where each tensor starts, wide dtypes first as the library lays them, and the end."""
    offsets = {}
    end = 0
    for name in sorted(plan, key=lambda name: (-_itemsize(plan[name][1]), plan[name][1], name)):
        offsets[name] = end
        end += _nbytes(*plan[name])
    return offsets, end


def _counted(plan: Plan, counts: Sequence[int]) -> list[dict[str, Spec]]:
    specs = iter(plan.items())
    return [dict(islice(specs, count)) for count in counts]


def _shards(plan: Plan, shard_bytes: int) -> list[dict[str, Spec]]:
    shards: list[dict[str, Spec]] = [{}]
    filled = 0
    for name, spec in plan.items():
        nbytes = _nbytes(*spec)
        if shards[-1] and filled + nbytes > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = spec
        filled += nbytes
    return shards


def _nbytes(shape: tuple[int, ...], dtype: str) -> int:
    return math.prod(shape) * _itemsize(dtype)


def _itemsize(dtype: str) -> int:
    return np.dtype(dtype).itemsize
