"""An official folder of a GEM, a LLaVA or a language model → our parameters, bit for bit."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util

from gem_jax.models.gem import GemConfig, abstract_params
from gem_jax.weights.files import DTYPES, Shards, WeightsError, open_file, open_folder, refuse, some
from gem_jax.weights.hf_config import Official, read_official, with_ecg_encoder
from gem_jax.weights.layout import layout_of, unknown_layout
from gem_jax.weights.names import (
    ECG_PREFIX,
    LM_HEAD,
    NEWLINE,
    VISION_PREFIX,
    Slot,
    ecg_slots,
    gem_slots,
    vision_slots,
)
from gem_jax.weights.transformers_layout import read_transformers, transformers_slots

Source = tuple[Shards, dict[str, Slot]]

# Tables that older releases of transformers saved and that follow from the config.
DERIVED = (".rotary_emb.inv_freq", ".embeddings.position_ids")
EMBEDDING = "llm/embed_tokens/embedding"
CLIP_VISION = "vision_model."
# CoCa's pretraining saves all of its towers behind this prefix; GEM has no use for the text's.
COCA_ECG = "module.ecg."
COCA_TEXT = ("module.text.", "module.text_decoder.", "module.logit_scale")
ECG_PARTS = (ECG_PREFIX, "model.ecg_projector.")
# The text half of a whole CLIPModel.
CLIP_TEXT = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")


@dataclass(frozen=True)
class Added:
    """What an import takes from elsewhere than the official folder."""

    vision: Path | None = None
    """Folder of the image encoder, instead of the config's mm_vision_tower."""
    ecg_encoder: Path | None = None
    """File of an ECG encoder for a LLaVA or PULSE that has none."""
    ecg_projector: Path | None = None
    """File of its projector; without one the parameters lack `ecg_projector`."""


@dataclass(frozen=True)
class Import:
    """What an import will read, all of it checked."""

    config: GemConfig
    """Its param_dtype says, part by part, what `leaves` gives."""
    sources: list[Source]


def plan_import(source: Path, added: Added) -> Import:
    """Returns what the official folder `source` and what is `added` hold, nothing of it read yet.

    Nothing is rounded: each part keeps the dtype of its tensors.

    Raises:
        WeightsError: once, naming all tensors that are missing, unknown, repeated, of a wrong
            shape or of a dtype unlike the rest of their part.
    """
    official = _described(source, added)
    if added.ecg_encoder:
        official = with_ecg_encoder(official, added.ecg_encoder, source)
    return checked(source, official.config, _sources(source, official, added))


def _described(source: Path, added: Added) -> Official:
    """Returns what the folder's config.json says, in either layout of a LLaVA."""
    if layout_of(source) == "transformers":
        if added.vision:
            got = f"--vision: got {added.vision}"
            raise WeightsError(f"{got}, expected none: {source} holds its own image encoder")
        return read_transformers(source)
    return read_official(source, added.vision, NEWLINE in open_folder(source).entries)


def checked(where: Path, config: GemConfig, sources: list[Source]) -> Import:
    """Returns the import of `sources` into a model of `config`'s sizes; WeightsError as above."""
    shapes = _flat(abstract_params(config))
    refuse(where, [text for shards, slots in sources for text in _problems(shards, slots, shapes)])
    return Import(_with_dtypes(config, sources), sources)


def leaves(plan: Import) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (path, parameter), one after the other; the caller drops one before the next."""
    abstract = _flat(abstract_params(plan.config))
    tensors: dict[str, list[tuple[Shards, str, Slot]]] = {}
    for shards, slots in plan.sources:
        for name, slot in slots.items():
            tensors.setdefault(slot.path, []).append((shards, name, slot))
    for path, rows in tensors.items():
        yield path, _leaf(abstract[path], rows)


def _leaf(leaf: jax.ShapeDtypeStruct, rows: list[tuple[Shards, str, Slot]]) -> np.ndarray:
    """Returns one parameter, its layers stacked from their official tensors."""
    array = np.empty(leaf.shape, leaf.dtype)
    for shards, name, slot in rows:
        tensor = shards.read(name)
        place = ... if slot.layer is None else slot.layer
        array[place] = tensor if slot.axes is None else tensor.transpose(slot.axes)
    return array


def read_gem(source: Path, vision: Path | None = None) -> tuple[GemConfig, dict]:
    """Returns (config, parameters) of the official folder `source`, all of its own."""
    return read_with(source, Added(vision))


def read_with(source: Path, added: Added) -> tuple[GemConfig, dict]:
    """Returns (config, all parameters as numpy arrays) of `source`; raises as plan_import does."""
    plan = plan_import(source, added)
    return plan.config, traverse_util.unflatten_dict(dict(leaves(plan)), sep="/")


def _sources(source: Path, official: Official, added: Added) -> list[Source]:
    """Returns the tensors of each folder and file with the slots they fill."""
    slots = gem_slots(official.config)
    if added.ecg_encoder is None:
        return _folder_sources(source, official, slots)
    own = {name: s for name, s in slots.items() if not name.startswith(ECG_PARTS)}
    sources = [*_folder_sources(source, official, own), _ecg_source(official, added.ecg_encoder)]
    if added.ecg_projector:
        projector = {name: s for name, s in slots.items() if name.startswith(ECG_PARTS[1])}
        sources.append((open_file(added.ecg_projector), projector))
    return sources


def _ecg_source(official: Official, file: Path) -> Source:
    """Returns the tensors of a pretrained ECG encoder, without the text towers beside it."""
    assert official.config.ecg is not None  # with_ecg_encoder has put it there
    shards = open_file(file)
    kept = {name: e for name, e in shards.entries.items() if not name.startswith(COCA_TEXT)}
    return Shards(shards.folder, kept), ecg_slots(official.config.ecg, COCA_ECG)


def _folder_sources(source: Path, official: Official, slots: dict[str, Slot]) -> list[Source]:
    shards = open_folder(source)
    layout = layout_of(source)
    if layout == "transformers":
        slots = transformers_slots(slots, shards.entries)
    if not slots.keys() & shards.entries.keys():
        raise unknown_layout(source, f"the config of {layout}", shards.entries)
    vision = official.config.vision
    if official.own_vision or vision is None or official.vision_dir is None:
        return [(shards, slots)]
    # The original builds this tower from its own folder and ignores the checkpoint's copy.
    own = {name: entry for name, entry in shards.entries.items() if _not_vision(name)}
    slots = {name: slot for name, slot in slots.items() if _not_vision(name)}
    return [
        (Shards(source, own), slots),
        (_image_encoder(official.vision_dir), vision_slots(vision, "")),
    ]


def _image_encoder(folder: Path) -> Shards:
    """Returns the tensors of the vision half of a CLIP folder, whole or alone."""
    entries = open_folder(folder).entries
    kept = {name: entry for name, entry in entries.items() if not name.startswith(CLIP_TEXT)}
    # transformers ≥ 5 saves a vision model alone without the prefix.
    bare = not any(name.startswith(CLIP_VISION) for name in kept)
    return Shards(folder, {CLIP_VISION * bare + name: entry for name, entry in kept.items()})


def _not_vision(name: str) -> bool:
    return not name.startswith(VISION_PREFIX)


def _problems(shards: Shards, slots: dict[str, Slot], shapes: dict) -> Iterator[str]:
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
        yield f"{shards.folder}: {len(missing)} tensors are missing: {some(missing)}"
    if unknown:
        yield f"{shards.folder}: {len(unknown)} unknown tensors: {some(unknown)}"
    dtypes: dict[str, str] = {}
    for name, slot in slots.items():
        if name in entries:
            expected = _official_shape(shapes[slot.path].shape, slot)
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


def _official_shape(shape: tuple[int, ...], slot: Slot) -> tuple[int, ...]:
    ours = shape if slot.layer is None else shape[1:]
    if slot.axes is None:
        return ours
    return tuple(ours[slot.axes.index(axis)] for axis in range(len(ours)))


def _part(slot: Slot) -> str:
    """Returns the part whose config holds the slot's dtype: the projectors follow the LLM."""
    part = slot.path.split("/")[0]
    return part if part in ("ecg_tower", "vision_tower") else "llm"


def _with_dtypes(config: GemConfig, sources: list[Source]) -> GemConfig:
    stored = {
        _part(slot): shards.entries[name].dtype
        for shards, slots in sources
        for name, slot in slots.items()
    }

    parts = {"ecg": "ecg_tower", "vision": "vision_tower", "llm": "llm"}
    typed = {
        field: dataclasses.replace(
            getattr(config, field), param_dtype=stored[part], dtype=_compute_dtype(stored[part])
        )
        for field, part in parts.items()
        if part in stored
    }
    return dataclasses.replace(config, **typed)


def _compute_dtype(stored: str) -> str:
    # Half precision overflows at 65,504: float16 weights are computed with in float32.
    return "bfloat16" if stored == "bfloat16" else "float32"


def _flat(tree: dict) -> dict:
    return traverse_util.flatten_dict(tree, sep="/")
