"""Safetensors folders, read by their index and written in shards; nothing is unpickled here."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes  # noqa: F401 (its import teaches numpy bfloat16)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SHARD_BYTES = 5 * 10**9
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
SHOWN = 8


class WeightsError(ValueError):
    """Weights or their config that cannot be read; the message is one line for the user."""


@dataclass(frozen=True)
class Entry:
    """One tensor as the header of its file states it; `dtype` is numpy's name."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


@dataclass
class Shards:
    """The tensors of a folder, by name; a tensor's bytes are read when it is asked for."""

    folder: Path
    entries: dict[str, Entry]
    _open: dict[Path, safe_open] = field(default_factory=dict)

    def read(self, name: str) -> np.ndarray:
        """Returns the tensor `name` with its own dtype."""
        file = self.entries[name].file
        if file not in self._open:
            self._open[file] = safe_open(file, framework="numpy")
        return self._open[file].get_tensor(name)


def read_json(path: Path) -> dict:
    """Returns the JSON object in `path`; WeightsError if it is not one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: got {error}, expected a JSON object") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path}: got {type(values).__name__}, expected a JSON object")
    return values


def refuse(where: Path, problems: list[str]) -> None:
    """Raises one WeightsError that names the `problems`, if there are any."""
    if problems:
        raise WeightsError(f"{where}: {some(problems, '; ')}")


def some(items: list[str], separator: str = ", ") -> str:
    """Returns the first few items and how many more there are."""
    rest = [f"and {len(items) - SHOWN} more"] if len(items) > SHOWN else []
    return separator.join(items[:SHOWN] + rest)


def require_free(dest: Path) -> None:
    """Raises WeightsError unless `dest` is new or an empty folder."""
    if dest.exists() and not (dest.is_dir() and not any(dest.iterdir())):
        raise WeightsError(f"{dest}: exists, expected a new folder; remove it or name another")


def open_folder(folder: Path) -> Shards:
    """Returns the tensors of `folder`: model.safetensors, else the shards that its index names.

    Raises:
        WeightsError: naming every missing, unreadable, unlisted or repeated file or tensor.
    """
    if (folder / SINGLE).is_file():
        return open_files(folder, [SINGLE], None)
    if not (folder / INDEX).is_file():
        raise WeightsError(_without_weights(folder))
    index = read_json(folder / INDEX).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(file, str) for file in index.values()):
        raise WeightsError(f"{folder / INDEX}: got no weight_map of names to files")
    # A link inside the folder may lead elsewhere (download caches do that); a name may not.
    outside = sorted({file for file in index.values() if Path(file).name != file or file == ".."})
    refuse(folder / INDEX, [f"got {file!r}, expected a file of this folder" for file in outside])
    return open_files(folder, sorted(set(index.values())), index)


def open_files(folder: Path, files: list[str], index: dict[str, str] | None) -> Shards:
    """Returns the tensors of the safetensors `files`, which must hold just what `index` says."""
    entries: dict[str, Entry] = {}
    problems = []
    for path in (folder / file for file in files):
        try:
            found = dict(_header(path))
        except (SafetensorError, OSError) as error:
            problems.append(f"{path.name} cannot be read ({error}), expected a whole safetensors")
            continue
        problems += [f"{name} is in two files, expected once" for name in found if name in entries]
        entries |= found
    if index is not None and not problems:
        located = {name: entry.file.name for name, entry in entries.items()}
        wrong = sorted(index.items() ^ located.items())
        problems = [f"{name}: the index and {file} disagree on where it is" for name, file in wrong]
    problems += [
        f"{name} has dtype {entry.dtype}, expected one of {', '.join(DTYPES)}"
        for name, entry in entries.items()
        if entry.dtype not in DTYPES.values()
    ]
    refuse(folder, problems)
    return Shards(folder, entries)


def write_folder(
    folder: Path, tensors: Iterator[tuple[str, np.ndarray]], shard_bytes: int = SHARD_BYTES
) -> int:
    """Writes named tensors in shards of at most `shard_bytes` and their index; returns the bytes.

    A shard is written when the next tensor does not fit, so one shard is held in memory. One
    shard alone is called model.safetensors and has no index, as transformers does.
    """
    shards: list[list[str]] = []
    total = 0
    for number, shard in enumerate(_fill(tensors, shard_bytes)):
        write_file(folder / f"{number}.partial", shard)
        shards.append(sorted(shard))
        total += sum(tensor.nbytes for tensor in shard.values())
    count = len(shards)
    files = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    files = files if count > 1 else [SINGLE]
    for number, file in enumerate(files):
        (folder / f"{number}.partial").rename(folder / file)
    if count > 1:
        index = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": index})
    return total


def write_file(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes one safetensors file."""
    # Safetensors writes the buffer as it lies: a transposed view would be written untransposed.
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    # Transformers and torch read files without this mark as not theirs.
    save_file(contiguous, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors leaves the file to its owner alone


def write_json(path: Path, values: dict) -> None:
    """Writes `values` as Hugging Face does: two spaces, sorted keys."""
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _header(path: Path) -> Iterator[tuple[str, Entry]]:
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 (it is no mapping)
            tensor = file.get_slice(name)
            dtype = tensor.get_dtype()
            yield name, Entry(path, tuple(tensor.get_shape()), DTYPES.get(dtype, dtype))


def _fill(
    tensors: Iterator[tuple[str, np.ndarray]], shard_bytes: int
) -> Iterator[dict[str, np.ndarray]]:
    shard: dict[str, np.ndarray] = {}
    filled = 0
    for name, tensor in tensors:
        if shard and filled + tensor.nbytes > shard_bytes:
            yield shard
            shard, filled = {}, 0
        shard[name] = tensor
        filled += tensor.nbytes
    yield shard


def _without_weights(folder: Path) -> str:
    pickled = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt"))
    if pickled:
        return (
            f"{folder}: got {some(pickled)}, expected {SINGLE} or {INDEX}; pickled "
            "weights are not read, save them as safetensors"
        )
    return f"{folder}: got no weights, expected {SINGLE} or {INDEX}"
