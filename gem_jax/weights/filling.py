"""Tensors of files → our parameters: all checked against their slots, then stacked one by one."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from gem_jax.paths import part_of
from gem_jax.weights.dtypes import converted
from gem_jax.weights.files import DTYPES, Shards, refuse, some
from gem_jax.weights.names import LM_HEAD, Slot, official_shape

# Tensors, and the slot that each of those that are wanted fills.
Source = tuple[Shards, dict[str, Slot]]
# Our parameters by path.
Shapes = Mapping[str, jax.ShapeDtypeStruct]

# Tables that older releases of transformers saved and that follow from the config.
DERIVED = (".rotary_emb.inv_freq", ".embeddings.position_ids")
EMBEDDING = "llm/embed_tokens/embedding"


def require_fit(where: Path, sources: list[Source], shapes: Shapes) -> None:
    """Raises one WeightsError that names every tensor that does not fit its slot."""
    refuse(where, _all_problems(where, sources, shapes))


def stacked(shapes: Shapes, sources: list[Source]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (path, parameter), one after the other; the caller drops one before the next."""
    tensors: dict[str, list[tuple[Shards, str, Slot]]] = {}
    for shards, slots in sources:
        for name, slot in slots.items():
            tensors.setdefault(slot.path, []).append((shards, name, slot))
    for path, rows in tensors.items():
        yield path, _leaf(shapes[path], rows)


def stored_dtypes(sources: list[Source]) -> dict[str, str]:
    """Returns the dtype of each part's tensors."""
    return {
        _part(slot): shards.entries[name].dtype
        for shards, slots in sources
        for name, slot in slots.items()
    }


def _leaf(leaf: jax.ShapeDtypeStruct, rows: list[tuple[Shards, str, Slot]]) -> np.ndarray:
    """Returns one parameter, its layers stacked from their official tensors."""
    array = np.empty(leaf.shape, leaf.dtype)
    for shards, name, slot in rows:
        tensor = converted(name, shards.read(name), array.dtype)
        place = ... if slot.layer is None else slot.layer
        array[place] = tensor if slot.axes is None else tensor.transpose(slot.axes)
    return array


def _all_problems(where: Path, sources: list[Source], shapes: Shapes) -> list[str]:
    """Returns what does not fit; what lies elsewhere than `where` is told with its folder."""
    folder = where.parent if where.is_file() else where
    return [
        text if shards.folder == folder else f"{shards.folder}: {text}"
        for shards, slots in sources
        for text in _problems(shards, slots, shapes)
    ]


def _problems(shards: Shards, slots: dict[str, Slot], shapes: Shapes) -> Iterator[str]:
    entries = shards.entries
    missing = [name for name in slots if name not in entries]
    unknown = [
        name
        for name in entries
        if name not in slots
        and not name.endswith(DERIVED)
        and not _is_tied_head(shards, slots, name)
    ]
    if missing:
        are = "1 tensor is" if len(missing) == 1 else f"{len(missing)} tensors are"
        yield f"{are} missing: {some(missing)}"
    if unknown:
        yield f"{len(unknown)} unknown tensor{'s' * (len(unknown) > 1)}: {some(unknown)}"
    dtypes: dict[str, str] = {}
    for name, slot in slots.items():
        if name in entries:
            expected = official_shape(shapes[slot.path].shape, slot)
            if entries[name].shape != expected:
                yield f"{name}: got shape {entries[name].shape}, expected {expected}"
            if entries[name].dtype not in DTYPES.values():
                yield f"{name}: got {entries[name].dtype}, expected {' or '.join(DTYPES.values())}"
            dtype = dtypes.setdefault(_part(slot), entries[name].dtype)
            if entries[name].dtype != dtype:
                yield f"{name}: got {entries[name].dtype}, expected {dtype} like its neighbours"


def _is_tied_head(shards: Shards, slots: dict[str, Slot], name: str) -> bool:
    """Whether `name` only repeats the embedding table, as some tied checkpoints do."""
    tables = [table for table, slot in slots.items() if slot.path == EMBEDDING]
    if not name.endswith(LM_HEAD) or not shards.entries.keys() >= set(tables) > set():
        return False
    head, embedding = shards.read(name), shards.read(tables[0])
    return head.dtype == embedding.dtype and head.tobytes() == embedding.tobytes()


def _part(slot: Slot) -> str:
    """Returns the part whose config holds the slot's dtype: the projectors follow the LLM."""
    part = part_of(slot.path)
    return part if part in ("ecg_tower", "vision_tower") else "llm"
