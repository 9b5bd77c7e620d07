"""What an exported config keeps of the one that the model was imported from.

A key comes back as it was wherever it still says what the model is: those that change nothing do,
whatever they say; so do other spellings of the same. No key is added that is not needed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gem_jax.models.gem import GemConfig
from gem_jax.weights.files import WeightsError
from gem_jax.weights.hf_config import Towers, read_model
from gem_jax.weights.llm_config import read_ids

# They point into the exported folder, whatever the original's pointed to.
POINTERS = {"mm_ecg_tower", "mm_vision_tower"}
# A LLaVA that became a GEM has them all: ours could do without the last two, the original cannot.
ECG_KEYS = {"mm_ecg_tower", "open_clip_config", "ecg_projector_type"}
DTYPE_KEYS = ("dtype", "torch_dtype")
# What a refusal would name; none is shown.
WHERE = Path("config.json")


def original_config(source: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the official config.json of a checkpoint's `source`; empty where it had none."""
    official = source is not None and source.get("layout") == "official"
    return dict(source.get("config") or {}) if source and official else {}


def in_words_of(
    original: Mapping[str, Any], ours: dict[str, Any], config: GemConfig
) -> dict[str, Any]:
    """Returns `ours`, the config.json of `config`, in the words of the `original` one."""
    if original.get("architectures") != ours["architectures"]:
        return ours
    meant = _meaning(ours, config)
    words = ours if "dtype" not in original else _renamed(ours, "torch_dtype", "dtype")
    # A tower that is missing in both may be named as such.
    pointing = {key for key in POINTERS if key in ours or original.get(key) is not None}
    for key in [key for key in original if key not in pointing]:
        tried = words | {key: original[key]}
        words = tried if _meaning(tried, config) == meant else words
    needed = POINTERS if original.get("mm_ecg_tower") else POINTERS | ECG_KEYS
    for key in sorted(words.keys() - original.keys() - needed):
        tried = {other: words[other] for other in words if other != key}
        words = tried if _meaning(tried, config) == meant else words
    return words


def keeps_ids(
    original: Mapping[str, Any], generation: Mapping[str, Any], config: GemConfig
) -> bool:
    """Returns whether the model has the special tokens that its original files name."""
    try:
        found = read_ids(original, generation, WHERE, config.llm.family)
    except WeightsError:
        return False
    return all(getattr(config, field) == ids for field, ids in found.items())


def _meaning(values: Mapping[str, Any], config: GemConfig) -> tuple[GemConfig, bool] | None:
    """Returns the model that `values` describe, and whether they name its dtype or none.

    None where they describe none.
    """
    vision = config.vision
    towers = Towers(config.ecg, vision, config.image_newline) if vision else None
    generation = {"eos_token_id": list(config.eos_token_ids)}
    dtypes = [values[key] for key in DTYPE_KEYS if values.get(key) is not None]
    try:
        model = read_model(values, generation, WHERE, towers)
    except WeightsError:
        return None
    return model, all(dtype == config.llm.param_dtype for dtype in dtypes)


def _renamed(values: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {new if key == old else key: found for key, found in values.items()}
