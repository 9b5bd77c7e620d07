"""Folders of weights, read by their index; safetensors, or torch's files without executing them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors import SafetensorError, safe_open

from gem_jax.weights.entry import Entry
from gem_jax.weights.pickled import PickleError, open_pickle

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# What a folder may hold, in the order in which transformers prefers it.
LAYOUTS = (SINGLE, INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")
PICKLES = (".bin", ".pt", ".pth")
SHARD_BYTES = 5 * 10**9
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# On request; `keep`: whatever they are stored in.
Dtype = Literal["keep", "float32", "bfloat16", "float16"]
# No weights are stored so, but tables beside them are: positions, masks.
TABLE_DTYPES = {
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
SHOWN = 8


class WeightsError(ValueError):
    """Weights or their config that cannot be read; the message is one line for the user."""


@dataclass(frozen=True)
class Shards:
    """The tensors of a folder, by name; a tensor's bytes are read when it is asked for."""

    folder: Path
    entries: dict[str, Entry]

    def read(self, name: str) -> np.ndarray:
        """Returns the tensor `name` with its own dtype."""
        return self.entries[name].read()


def read_json(path: Path) -> dict:
    """Returns the JSON object in `path`; WeightsError if it is not one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
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
    """Raises WeightsError unless `dest` is new or an empty folder; a link is neither."""
    taken = dest.is_symlink() or dest.exists()
    if taken and (dest.is_symlink() or not dest.is_dir() or any(dest.iterdir())):
        raise WeightsError(f"{dest}: exists, expected a new folder; remove it or name another")


def open_folder(folder: Path) -> Shards:
    """Returns the tensors of `folder`: of its one file, or of the shards that its index names.

    Raises:
        WeightsError: naming every missing, unreadable, unlisted or repeated file or tensor.
    """
    found = [name for name in LAYOUTS if (folder / name).is_file()]
    if not found:
        raise WeightsError(f"{folder}: got no weights, expected one of {', '.join(LAYOUTS)}")
    if not found[0].endswith(".json"):
        return open_files(folder, [found[0]], None)
    path = folder / found[0]
    index = read_json(path).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(file, str) for file in index.values()):
        raise WeightsError(f"{path}: got no weight_map of names to files")
    # A link inside the folder may lead elsewhere (download caches do that); a name may not.
    inside = {file for file in index.values() if Path(file).name == file}
    outside = sorted({*index.values()} - inside | {"", ".."} & inside)
    refuse(path, [f"got {file!r}, expected a file of this folder" for file in outside])
    return open_files(folder, sorted(set(index.values())), index)


def open_file(path: Path) -> Shards:
    """Returns the tensors of one file: .safetensors, or .bin, .pt and .pth of torch."""
    return open_files(path.parent, [path.name], None)


def open_files(folder: Path, files: list[str], index: dict[str, str] | None) -> Shards:
    """Returns the tensors of `files` of `folder`, which must hold just what `index` says."""
    entries: dict[str, Entry] = {}
    problems = []
    for path in (folder / file for file in files):
        try:
            found = open_pickle(path) if path.suffix in PICKLES else _header(path)
        except FileNotFoundError:
            problems.append(f"{path.name} cannot be read: there is no such file; fetch it again")
            continue
        except (SafetensorError, PickleError, OSError) as error:
            problems.append(f"{path.name} cannot be read ({error})")
            continue
        problems += [f"{name} is in two files, expected once" for name in found if name in entries]
        entries |= found
    if index is not None and not problems:
        problems = _misplaced(index, {name: entry.file.name for name, entry in entries.items()})
    known = {*DTYPES.values(), *TABLE_DTYPES.values()}
    problems += [
        f"{name} has dtype {entry.dtype}, expected one of {', '.join(DTYPES.values())}; save it "
        "again as one of them"
        for name, entry in entries.items()
        if entry.dtype not in known
    ]
    refuse(folder, problems)
    return Shards(folder, entries)


def _misplaced(index: dict[str, str], located: dict[str, str]) -> list[str]:
    return [
        f"{name}: the index says {index.get(name, 'nothing')}, found in {located.get(name, 'none')}"
        for name in sorted(index.keys() | located.keys())
        if index.get(name) != located.get(name)
    ]


def _header(path: Path) -> dict[str, Entry]:
    with safe_open(path, framework="numpy"):
        pass  # The library checks the header against the file; it does not tell the offsets.
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length), object_pairs_hook=_once)
    header.pop("__metadata__", None)
    dtypes = DTYPES | TABLE_DTYPES
    return {
        name: Entry(
            path,
            tuple(tensor["shape"]),
            dtypes.get(tensor["dtype"], tensor["dtype"]),
            8 + length + tensor["data_offsets"][0],
        )
        for name, tensor in header.items()
    }


def _once(pairs: list[tuple[str, object]]) -> dict:
    """Returns the pairs as a dict; SafetensorError if a name is repeated, as JSON allows."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise SafetensorError("a tensor is named twice in its header")
    return values


def write_json(path: Path, values: dict) -> None:
    """Writes `values` as Hugging Face does: two spaces, sorted keys."""
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
