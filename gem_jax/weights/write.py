"""Our parameters → a folder in the official Hugging Face layout."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.models.gem import GemConfig
from gem_jax.paths import flat
from gem_jax.weights.dtypes import converted
from gem_jax.weights.encoders import COCA_ECG
from gem_jax.weights.files import SHARD_BYTES, write_json
from gem_jax.weights.filling import Shapes
from gem_jax.weights.hf_export import ECG_DIR, VISION_DIR, config_json, generation_json
from gem_jax.weights.model_card import describe, model_card
from gem_jax.weights.names import Slot, ecg_slots, gem_slots, official_shape, vision_slots
from gem_jax.weights.source import encoder_config
from gem_jax.weights.stream import Plan, Writer, start_folder
from gem_jax.weights.torch_file import TorchFile, start_torch_file
from gem_jax.weights.tower_export import ecg_name, write_ecg_json, write_vision
from gem_jax.whole import whole_folder

# A file or folder, and which of our parameters fills each of its tensors.
Target = tuple[Writer | TorchFile, Mapping[str, Slot]]


@dataclass(frozen=True)
class Export:
    """What is exported, but for the parameters' values."""

    config: GemConfig
    shapes: Shapes
    """By path; their dtypes are those written."""
    tokenizer: Path
    source: Mapping[str, Any] | None = None
    """What the checkpoint's config.json says of its origin."""
    shard_bytes: int = SHARD_BYTES


def write_official(dest: Path, export: Export, leaves: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes the official folder `dest` in one step: it appears when it is whole.

    Of `leaves`, (path, parameter), none is kept when the next is asked for.

    Raises:
        WeightsError: for a model that the official layout has no words for; nothing is written.
    """
    config = export.config
    values = config_json(config, export.source)
    with whole_folder(dest) as folder:
        write_json(folder / "config.json", values)
        write_json(folder / "generation_config.json", generation_json(config, export.source))
        card = model_card(config, describe(export.shapes))
        (folder / "README.md").write_text(card, encoding="utf-8")
        for path in sorted(export.tokenizer.iterdir()):
            shutil.copyfile(path, folder / path.name)
        slots = gem_slots(config)
        counts = (export.source or {}).get("shards", ())
        plan = plan_tensors(slots, export.shapes)
        whole = start_folder(folder, plan, export.shard_bytes, counts)
        write_tensors([(whole, slots), *_towers(folder, export, values)], leaves)


def write_gem(
    dest: Path, config: GemConfig, params: dict, tokenizer: Path, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes the official folder `dest` of parameters that are in memory; as write_official."""
    arrays = flat(jax.tree.map(np.asarray, params))
    shapes = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in arrays.items()}
    export = Export(config, shapes, tokenizer, shard_bytes=shard_bytes)
    write_official(dest, export, arrays.items())


def plan_tensors(slots: Mapping[str, Slot], shapes: Shapes) -> Plan:
    """Returns shape and dtype of the tensors of `slots`, in their order."""
    return {
        name: (official_shape(shapes[slot.path].shape, slot), shapes[slot.path].dtype.name)
        for name, slot in slots.items()
    }


def write_tensors(targets: list[Target], leaves: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes each of `leaves` to its tensors in all `targets`, then drops it."""
    for path, leaf in leaves:
        for writer, slots in targets:
            own = {name: slot for name, slot in slots.items() if slot.path == path}
            _write_layers(writer, own, np.asarray(leaf))
        del leaf  # It is not kept while the next one is read.
    for writer, _ in targets:
        writer.finish()


def _write_layers(
    writer: Writer | TorchFile, slots: Mapping[str, Slot], stacked: np.ndarray
) -> None:
    for name, slot in slots.items():
        ours = stacked if slot.layer is None else stacked[slot.layer]
        tensor = ours if slot.axes is None else ours.transpose(np.argsort(slot.axes))
        writer.write(name, converted(name, tensor, np.dtype(writer.dtype(name))))


def _towers(folder: Path, export: Export, values: Mapping[str, Any]) -> list[Target]:
    """Returns the towers' files, where config.json points to, as the original expects them."""
    config, shapes, source = export.config, export.shapes, export.source
    targets: list[Target] = []
    if config.vision is not None:
        vision = folder / VISION_DIR
        vision.mkdir()
        targets.append(start_vision(vision, config.vision, shapes, source, export.shard_bytes))
    if config.ecg is not None:
        (folder / ECG_DIR).mkdir()
        name = values.get("open_clip_config") or ecg_name(config.ecg)
        targets.append(start_ecg(folder / values["mm_ecg_tower"], name, config.ecg, shapes, source))
    return targets


def start_vision(
    folder: Path,
    config: ClipConfig,
    shapes: Shapes,
    source: Mapping[str, Any] | None,
    shard_bytes: int = SHARD_BYTES,
) -> Target:
    """Returns what writes a CLIPVisionModel into `folder`, where its configs are."""
    write_vision(folder, config, encoder_config(source, "vision"))
    slots = vision_slots(config, "")
    return start_folder(folder, plan_tensors(slots, shapes), shard_bytes), slots


def start_ecg(
    file: Path, name: str, config: EcgConfig, shapes: Shapes, source: Mapping[str, Any] | None
) -> Target:
    """Returns what writes an ECG encoder's `file`, beside which its config NAME.json is."""
    write_ecg_json(file.parent, name, config, encoder_config(source, "ecg"))
    slots = ecg_slots(config, COCA_ECG)
    return start_torch_file(file, plan_tensors(slots, shapes)), slots
