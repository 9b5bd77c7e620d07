"""LLaVA as transformers itself has it, LLaVA-1.5 and 1.6: its config, and its names of tensors.

Its config.json is a language model's and an image encoder's within one; what these leave out are
the defaults of transformers. Its releases named the tensors in several ways; which one a folder
has is read off it.
"""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gem_jax.image_keys import pinpoints
from gem_jax.models.clip import ClipConfig
from gem_jax.models.gem import GemConfig
from gem_jax.weights.families import FAMILIES, TEMPLATE_KEY
from gem_jax.weights.files import WeightsError, read_json, refuse
from gem_jax.weights.hf_config import Official, read_generation
from gem_jax.weights.keys import (
    GENERIC_FIXED,
    GENERIC_INERT,
    build,
    check_keys,
    size,
    value,
    words,
)
from gem_jax.weights.llm_config import check_llm, read_ids, read_llm
from gem_jax.weights.names import LM_HEAD, NEWLINE, VISION_PREFIX, Slot
from gem_jax.weights.tower_config import read_vision

ONE_TILE = "LlavaForConditionalGeneration"

IDS = words("bos_token_id eos_token_id pad_token_id")
READ = IDS | words(
    f"""
    {TEMPLATE_KEY} image_grid_pinpoints text_config tie_word_embeddings vision_config
    vision_feature_layer
    """
)
FIXED = GENERIC_FIXED | {
    "multimodal_projector_bias": (True,),
    "projector_hidden_act": ("gelu",),
    "use_image_newline_parameter": (True,),
    "vision_feature_select_strategy": ("default",),
}
# The id that its processor writes where a feature goes (ours is -200), and how many of them.
INERT = GENERIC_INERT | words(
    "ignore_index image_seq_length image_token_id image_token_index vocab_size"
)

LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
DEFAULTS = {
    "llama": LLAMA,
    "mistral": LLAMA
    | {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    },
    "qwen2": LLAMA
    | {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
    },
}
# (height, width), as transformers counts them.
DEFAULT_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]

# How the releases begin a name, by what the official names begin with.
OFFICIAL_VISION = VISION_PREFIX + "vision_model."
PREFIXES = {
    OFFICIAL_VISION: (
        "vision_tower.vision_model.",
        "model.vision_tower.vision_model.",
        "vision_tower.",
        "model.vision_tower.",
    ),
    "model.mm_projector.0.": (
        "multi_modal_projector.linear_1.",
        "model.multi_modal_projector.linear_1.",
    ),
    "model.mm_projector.2.": (
        "multi_modal_projector.linear_2.",
        "model.multi_modal_projector.linear_2.",
    ),
    NEWLINE: ("image_newline", NEWLINE),
    LM_HEAD: ("language_model.lm_head.weight", LM_HEAD),
    "model.": ("language_model.model.", "model.language_model."),
}


def read_transformers(folder: Path) -> Official:
    """Returns what config.json in `folder`, one of this layout, says.

    Raises:
        WeightsError: naming the keys that are missing, unknown or not implemented.
    """
    where = folder / "config.json"
    values = read_json(where)
    check_keys(values, where, READ, FIXED, INERT)
    family, text = _text(values, where)
    inside = Path(f"{where}: text_config")
    llm = read_llm(text, inside, family)
    # Either of the two places ties the head, as in transformers.
    tied = llm.tie_embeddings or value(values, "tie_word_embeddings", bool, where, False)
    outer = {key: values[key] for key in IDS if values.get(key) is not None}
    config = build(
        GemConfig,
        where,
        ecg=None,
        vision=_vision(folder, values),
        llm=dataclasses.replace(llm, tie_embeddings=tied),
        ecg_projector="identity",
        mm_projector="mlp2x_gelu",
        **read_ids(text | outer, read_generation(folder), where, family),
        max_length=size(text, "max_position_embeddings", inside),
        template=value(values, TEMPLATE_KEY, str, where, FAMILIES[family].template),
        **_pages(folder, values),
    )
    return Official(config, None, own_vision=True)


def transformers_slots(slots: Mapping[str, Slot], entries: Collection[str]) -> dict[str, Slot]:
    """Returns official `slots` under the names that a folder of this layout has, in its order.

    `entries` are the folder's names.
    """
    begins = {official: _prefix(known, entries) for official, known in PREFIXES.items()}
    renamed = {}
    for name, slot in slots.items():
        official = next(prefix for prefix in begins if name.startswith(prefix))
        renamed[begins[official] + name.removeprefix(official)] = slot
    return renamed


def _prefix(known: tuple[str, ...], entries: Collection[str]) -> str:
    """Returns the known prefix that names of the folder have; the first where none has any."""
    found = (prefix for prefix in known if any(name.startswith(prefix) for name in entries))
    return next(found, known[0])


def _text(values: Mapping[str, Any], where: Path) -> tuple[str, dict[str, Any]]:
    """Returns the language model's family and its config, with what it leaves out."""
    given = value(values, "text_config", dict, where, {})
    family = _kind(given, "text_config", where, "llama", tuple(DEFAULTS))
    text = DEFAULTS[family] | given
    inside = Path(f"{where}: text_config")
    check_llm(text, inside, family, frozenset(), GENERIC_FIXED, GENERIC_INERT - IDS)
    return family, text


def _vision(folder: Path, values: Mapping[str, Any]) -> ClipConfig:
    where = folder / "config.json"
    layer = value(values, "vision_feature_layer", int, where, -2)
    given = value(values, "vision_config", dict, where, {})
    _kind(given, "vision_config", where, "clip_vision_model", ("clip_vision_model",))
    if not given:
        whole = ClipConfig.vit_l_14_336()
        return build(dataclasses.replace, where, obj=whole, select_layer=layer)
    return read_vision(folder, layer)


def _kind(given: dict, part: str, where: Path, default: str, known: tuple[str, ...]) -> str:
    kind = given.get("model_type", default)
    if kind not in known:
        raise WeightsError(
            f"{where}: {part}.model_type: got {kind!r}, expected {' or '.join(known)} (others are "
            "not implemented)"
        )
    return kind


def _pages(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns how a page becomes tiles and these a sequence, as the layout's processors do it."""
    where = folder / "config.json"
    if values["architectures"] == [ONE_TILE]:
        refuse(where, ["image_grid_pinpoints: unknown key"] * ("image_grid_pinpoints" in values))
        return {"image_mode": "pad" if _pads(folder) else "ori"}
    given = value(values, "image_grid_pinpoints", list, where, DEFAULT_PINPOINTS)
    canvases = tuple((width, height) for height, width in build(pinpoints, where, given=given))
    return {
        "image_mode": "anyres",
        "patch_merge": "spatial_unpad",
        "grid_pinpoints": canvases,
        "image_newline": True,
    }


def _pads(folder: Path) -> bool:
    """Returns whether the processor pads a page to a square, instead of cutting one out of it."""
    # A processor keeps its settings in a file of their own, or since transformers 5 within its own.
    older, newer = folder / "preprocessor_config.json", folder / "processor_config.json"
    if older.is_file():
        return value(read_json(older), "do_pad", bool, older, False)
    values = read_json(newer) if newer.is_file() else {}
    return value(value(values, "image_processor", dict, newer, {}), "do_pad", bool, newer, False)
