"""An official folder of a GEM, a LLaVA or a language model → our parameters, bit for bit."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from gem_jax.models.gem import GemConfig, abstract_params
from gem_jax.paths import flat, nested
from gem_jax.weights.dtypes import with_dtype
from gem_jax.weights.encoders import ecg_encoder, image_encoder
from gem_jax.weights.files import Shards, WeightsError, open_file, open_folder
from gem_jax.weights.filling import Source, require_fit, stacked, stored_dtypes
from gem_jax.weights.hf_config import Official, read_official, with_ecg_encoder
from gem_jax.weights.layout import layout_of, unknown_layout
from gem_jax.weights.names import ECG_PREFIX, NEWLINE, VISION_PREFIX, Slot, gem_slots
from gem_jax.weights.peft import Adapter, merging, over, read_adapter
from gem_jax.weights.transformers_layout import read_transformers, transformers_slots

ECG_PARTS = (ECG_PREFIX, "model.ecg_projector.")


@dataclass(frozen=True)
class Added:
    """What an import takes from elsewhere than the official folder."""

    vision: Path | None = None
    """Folder of the image encoder, instead of the config's mm_vision_tower."""
    ecg_encoder: Path | None = None
    """File of an ECG encoder for a LLaVA or PULSE that has none."""
    ecg_projector: Path | None = None
    """File of its projector; without one the parameters lack `ecg_projector`."""
    adapter: Path | None = None
    """Folder of a PEFT adapter that is merged into the folder's weights."""


@dataclass(frozen=True)
class Import:
    """What an import will read, all of it checked."""

    config: GemConfig
    """Its param_dtype says, part by part, what `leaves` gives."""
    sources: list[Source]
    layout: str
    """Of the folder whose config describes the model, of `gem_jax.weights.layout`."""
    described: Path
    """That folder: the source, or an adapter's that brings a config.json."""
    folder: Shards
    """All that lies in the source, be it wanted or not."""
    encoder_configs: Mapping[str, Path]
    """The files of `vision` and `ecg` that tell the encoders' sizes, where there are such."""
    adapter: Adapter | None = None


def plan_import(source: Path, added: Added) -> Import:
    """Returns what the official folder `source` and what is `added` hold, nothing of it read yet.

    Nothing is rounded: each part keeps the dtype of its tensors.

    Raises:
        WeightsError: once, naming all tensors that are missing, unknown, repeated, of a wrong
            shape or of a dtype unlike the rest of their part.
    """
    described, folder = _config_folder(source, added), open_folder(source)
    layout = layout_of(described)
    official = _described(described, layout, folder, added)
    if added.ecg_encoder:
        official = with_ecg_encoder(official, added.ecg_encoder, source)
    shapes, adapter = flat(abstract_params(official.config)), None
    sources = _sources(folder, layout_of(source), official, added)
    if added.adapter:
        adapter = read_adapter(added.adapter, official.config, shapes)
        sources = over(sources, adapter.whole)
    require_fit(source, sources, shapes)
    config, encoders = _with_dtypes(official.config, sources), official.encoder_configs
    return Import(config, sources, layout, described, folder, encoders, adapter)


def _config_folder(source: Path, added: Added) -> Path:
    """Returns the folder whose config.json describes the model.

    LLaVA's adapter brings one: its base may be the language model alone.
    """
    own = added.adapter
    return own if own and (own / "config.json").is_file() else source


def _described(described: Path, layout: str, folder: Shards, added: Added) -> Official:
    """Returns what config.json says, in either layout of a LLaVA."""
    if layout != "transformers":
        return read_official(described, added.vision, NEWLINE in folder.entries)
    if added.vision:
        got = f"--vision: got {added.vision}"
        raise WeightsError(f"{got}, expected none: {described} holds its own image encoder")
    return read_transformers(described)


def leaves(plan: Import) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (path, parameter), one after the other; the caller drops one before the next."""
    shapes = filled_shapes(plan)
    if plan.adapter is None:
        return stacked(shapes, plan.sources)
    return merging(shapes, plan.sources, plan.adapter)


def filled_shapes(plan: Import) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shape and dtype of each parameter that the sources fill, by path."""
    filled = {slot.path for _, slots in plan.sources for slot in slots.values()}
    shapes = flat(abstract_params(plan.config))
    return {path: leaf for path, leaf in shapes.items() if path in filled}


def read_gem(source: Path, vision: Path | None = None) -> tuple[GemConfig, dict]:
    """Returns (config, parameters) of the official folder `source`, all of its own."""
    return read_with(source, Added(vision))


def read_with(source: Path, added: Added) -> tuple[GemConfig, dict]:
    """Returns (config, all parameters as numpy arrays) of `source`; raises as plan_import does."""
    plan = plan_import(source, added)
    return plan.config, nested(dict(leaves(plan)))


def _sources(folder: Shards, layout: str, official: Official, added: Added) -> list[Source]:
    """Returns the tensors of each folder and file with the slots they fill."""
    slots = gem_slots(official.config)
    if added.ecg_encoder is None:
        return _folder_sources(folder, layout, official, slots)
    own = {name: s for name, s in slots.items() if not name.startswith(ECG_PARTS)}
    assert official.config.ecg is not None  # with_ecg_encoder has put it there
    encoder = ecg_encoder(added.ecg_encoder, official.config.ecg)
    sources = [*_folder_sources(folder, layout, official, own), encoder]
    if added.ecg_projector:
        projector = {name: s for name, s in slots.items() if name.startswith(ECG_PARTS[1])}
        sources.append((open_file(added.ecg_projector), projector))
    return sources


def _folder_sources(
    shards: Shards, layout: str, official: Official, slots: dict[str, Slot]
) -> list[Source]:
    if layout == "transformers":
        slots = transformers_slots(slots, shards.entries)
    if not slots.keys() & shards.entries.keys():
        raise unknown_layout(shards.folder, f"the config of {layout}", shards.entries)
    vision = official.config.vision
    if official.own_vision or vision is None or official.vision_dir is None:
        return [(shards, slots)]
    # The original builds this tower from its own folder and ignores the checkpoint's copy.
    own = {name: entry for name, entry in shards.entries.items() if _not_vision(name)}
    slots = {name: slot for name, slot in slots.items() if _not_vision(name)}
    return [
        (Shards(shards.folder, own), slots),
        image_encoder(official.vision_dir, vision),
    ]


def _not_vision(name: str) -> bool:
    return not name.startswith(VISION_PREFIX)


def _with_dtypes(config: GemConfig, sources: list[Source]) -> GemConfig:
    stored = stored_dtypes(sources)
    parts = {"ecg": "ecg_tower", "vision": "vision_tower", "llm": "llm"}
    typed = {
        field: with_dtype(getattr(config, field), stored[part])
        for field, part in parts.items()
        if part in stored
    }
    return dataclasses.replace(config, **typed)
