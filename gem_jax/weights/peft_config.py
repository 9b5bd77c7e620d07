"""PEFT's adapter_config.json, both ways: rank, scale, and which modules have factors.

As for every config: a key is read, or must have the one value that is computed here, or changes
nothing, or is refused by name.
"""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gem_jax.config import LoraConfig
from gem_jax.weights.files import WeightsError, read_json
from gem_jax.weights.keys import check_keys, size, value, words

CONFIG = "adapter_config.json"
READ = words("lora_alpha modules_to_save r target_modules use_rslora")
FIXED: dict[str, tuple] = {
    "peft_type": ("LORA",),
    "alora_invocation_tokens": (None,),
    "alpha_pattern": ({}, None),
    "arrow_config": (None,),
    "bias": ("none",),
    "exclude_modules": (None,),
    "fan_in_fan_out": (False, None),
    "kasa_config": (None,),
    # Others change the base's weights, which the adapter then counts from.
    "init_lora_weights": (True, False, None, "eva", "gaussian", "orthogonal"),
    "layer_replication": (None,),
    "layers_pattern": (None,),
    "layers_to_transform": (None,),
    "lora_bias": (False, None),
    "monteclora_config": (None,),
    "rank_pattern": ({}, None),
    "target_parameters": (None,),
    "trainable_token_indices": (None,),
    "use_bdlora": (None, False),
    "use_dora": (False, None),
    "use_qalora": (False, None),
    "velora_config": (None,),
}
INERT = words(
    """
    auto_mapping base_model_name_or_path corda_config ensure_weight_tying eva_config
    inference_mode loftq_config lora_dropout lora_ga_config megatron_config megatron_core
    peft_version qalora_group_size revision task_type
    """
)


@dataclass(frozen=True)
class Described:
    """What an adapter_config.json says."""

    rank: int
    alpha: float
    """So that alpha / rank is the scale, rank-stabilised or not."""
    targets: str | tuple[str, ...]
    """A pattern of whole names of modules, or ends of them."""
    whole: tuple[str, ...]
    """Ends of names of modules that the adapter brings as they are."""


def read_config(folder: Path) -> Described:
    """Returns what adapter_config.json in `folder` says.

    WeightsError names every key that is unknown or whose value is not implemented.
    """
    where = folder / CONFIG
    values = read_json(where)
    check_keys(values, where, READ, FIXED, INERT)
    rank, alpha = size(values, "r", where), value(values, "lora_alpha", float, where)
    stabilised = value(values, "use_rslora", bool, where, False)
    targets = values.get("target_modules")
    return Described(
        rank,
        alpha * math.sqrt(rank) if stabilised else alpha,
        targets if isinstance(targets, str) else _names(targets, "target_modules", where),
        _names(values.get("modules_to_save") or [], "modules_to_save", where),
    )


def _names(found: Any, key: str, where: Path) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise WeightsError(f"{where}: {key}: got {found!r}, expected a list of names")
    return tuple(found)


def is_target(module: str, targets: str | Collection[str]) -> bool:
    """Returns whether PEFT would give factors to the module of that official name."""
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return any(f".{module}".endswith(f".{name}") for name in targets)


def config_json(
    lora: LoraConfig, base: str | None, targets: Collection[str], whole: Collection[str]
) -> dict[str, Any]:
    """Returns the adapter_config.json of factors at the modules `targets` of the model `base`."""
    alpha = int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": sorted(whole) or None,
        "peft_type": "LORA",
        "r": lora.rank,
        "target_modules": sorted(targets),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def short_names(targets: Collection[str], modules: Collection[str]) -> set[str]:
    """Returns the last words of `targets`, or whole names where a word means other modules too.

    `modules` are all the model's by their official names. In LLaVA, `q_proj` would mean the image
    encoder's as well.
    """
    ends: dict[str, set[str]] = {}
    for name in modules:
        ends.setdefault(name.split(".")[-1], set()).add(name)
    plain = {end for end, own in ends.items() if own <= set(targets) and not end.isdecimal()}
    return {end if (end := name.split(".")[-1]) in plain else name for name in targets}
