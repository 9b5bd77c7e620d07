"""Our parameters → a folder in the official Hugging Face layout."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from flax import traverse_util

from gem_jax.models.gem import GemConfig
from gem_jax.weights.files import SHARD_BYTES, write_file, write_folder, write_json
from gem_jax.weights.hf_export import ECG_DIR, VISION_DIR, config_json, generation_json
from gem_jax.weights.model_card import describe, model_card
from gem_jax.weights.names import Slot, ecg_slots, gem_slots, vision_slots
from gem_jax.weights.tower_config import ecg_json, write_vision

# The names under which the encoder's pretraining saves it.
ECG_FILE_PREFIX = "module.ecg."


def write_gem(
    dest: Path, config: GemConfig, params: dict, tokenizer: Path, shard_bytes: int = SHARD_BYTES
) -> None:
    """Writes the official folder `dest` in one step: it appears when it is whole.

    Raises:
        WeightsError: for a model that the official layout has no words for; nothing is written.
    """
    values = config_json(config)
    partial = dest.with_name(f"{dest.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_json(partial / "config.json", values)
    write_json(partial / "generation_config.json", generation_json(config))
    (partial / "README.md").write_text(model_card(config, describe(params)), encoding="utf-8")
    for path in sorted(tokenizer.iterdir()):
        shutil.copyfile(path, partial / path.name)
    write_folder(partial, _tensors(params, gem_slots(config)), shard_bytes)
    named = Path(values.get("mm_ecg_tower", "")).stem
    _write_towers(partial, config, params, named, shard_bytes)
    partial.replace(dest)


def _write_towers(
    folder: Path, config: GemConfig, params: dict, ecg_name: str, shard_bytes: int
) -> None:
    """Writes the towers once more, where config.json points to, as the original expects them."""
    vision, ecg = folder / VISION_DIR, folder / ECG_DIR
    if config.vision is None:
        return
    vision.mkdir()
    write_vision(vision, config.vision)
    write_folder(vision, _tensors(params, vision_slots(config.vision, "")), shard_bytes)
    if config.ecg is None:
        return
    ecg.mkdir()
    write_json(ecg / f"{ecg_name}.json", ecg_json(config.ecg))
    tensors = dict(_tensors(params, ecg_slots(config.ecg, ECG_FILE_PREFIX)))
    write_file(ecg / f"{ecg_name}.safetensors", tensors)


def _tensors(params: dict, slots: dict[str, Slot]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the official tensors, one stacked parameter of ours after the other."""
    flat = traverse_util.flatten_dict(params, sep="/")
    by_path: dict[str, list[tuple[str, Slot]]] = {}
    for name, slot in slots.items():
        by_path.setdefault(slot.path, []).append((name, slot))
    for path, rows in by_path.items():
        stacked = np.asarray(flat[path])
        for name, slot in rows:
            ours = stacked if slot.layer is None else stacked[slot.layer]
            yield name, ours if slot.axes is None else ours.transpose(np.argsort(slot.axes))
