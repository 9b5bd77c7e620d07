"""The towers' sizes from their official files: CLIP's config.json, open_clip's NAME.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.weights.files import WeightsError, read_json
from gem_jax.weights.keys import (
    GENERIC_FIXED,
    GENERIC_INERT,
    build,
    check_keys,
    size,
    value,
    words,
)

COCA_VIT_B_32 = "coca_ViT-B-32"

VISION_READ = words(
    """
    hidden_act hidden_size image_size intermediate_size layer_norm_eps num_attention_heads
    num_hidden_layers patch_size
    """
)
VISION_FIXED = GENERIC_FIXED | {
    "attention_dropout": (0.0,),
    "dropout": (0.0,),
    "num_channels": (3,),
}
VISION_INERT = GENERIC_INERT | {"projection_dim", "vocab_size"}
# What CLIPVisionConfig of transformers holds where a nested vision_config leaves a key out: a
# config around it says only what differs.
VISION_DEFAULTS = {
    "hidden_size": 768,
    "image_size": 224,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "patch_size": 32,
}

ECG_READ = words("seq_length lead_num layers width head_width mlp_ratio patch_size")
# `output_tokens` is what the tower returns to open_clip; `patch_dropout` acts in its training only.
ECG_INERT = frozenset({"output_tokens", "patch_dropout"})
ECG_TOP_FIXED = {"quick_gelu": (False,)}
ECG_TOP_INERT = frozenset({"text_cfg", "multimodal_cfg", "custom_text"})


def read_vision(folder: Path, select_layer: int) -> ClipConfig:
    """Returns the image encoder's sizes from its folder, a CLIPVisionModel or a whole CLIPModel."""
    where = folder / "config.json"
    return parse_vision(read_json(where), where, select_layer)


def parse_vision(values: Mapping[str, Any], where: Path, select_layer: int) -> ClipConfig:
    """Returns the image encoder's sizes that the values of its config.json in `where` name."""
    if "vision_config" in values:
        values = VISION_DEFAULTS | value(values, "vision_config", dict, where)
    check_keys(values, where, VISION_READ, VISION_FIXED, VISION_INERT)
    return build(
        ClipConfig,
        where,
        image_size=size(values, "image_size", where, 224),
        patch_size=size(values, "patch_size", where, 32),
        hidden_dim=size(values, "hidden_size", where, 768),
        num_layers=size(values, "num_hidden_layers", where, 12),
        num_heads=size(values, "num_attention_heads", where, 12),
        mlp_dim=size(values, "intermediate_size", where, 3072),
        activation=value(values, "hidden_act", str, where, "quick_gelu"),
        select_layer=select_layer,
        norm_eps=value(values, "layer_norm_eps", float, where, 1e-5),
    )


def read_ecg(folder: Path, name: str | None) -> EcgConfig:
    """Returns the ECG encoder's sizes, of the file that `find_ecg_json` finds.

    Without one: the official coca_ViT-B-32, if `name` is no other's.
    """
    found = find_ecg_json(folder, name)
    if found is not None:
        return parse_ecg(read_json(found), found)
    if name in (None, COCA_VIT_B_32):
        return EcgConfig.coca_vit_b_32()
    raise WeightsError(
        f"{folder}: got no {name}.json, expected the sizes that open_clip_config names; put it "
        f"beside the tower (only {COCA_VIT_B_32} is built in)"
    )


def find_ecg_json(folder: Path, name: str | None) -> Path | None:
    """Returns NAME.json in `folder`, the tower's; without a name the one there with `ecg_cfg`."""
    if name is not None and (not isinstance(name, str) or Path(name).name != name):
        raise WeightsError(f"open_clip_config: got {name!r}, expected a name without folders")
    found = _ecg_configs(folder) if name is None else [folder / f"{name}.json"]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise WeightsError(
            f"{folder}: got {names}, expected one .json with ecg_cfg; name it by open_clip_config"
        )
    return found[0] if found and found[0].is_file() else None


def _ecg_configs(folder: Path) -> list[Path]:
    """Returns the files that tell an encoder's sizes, among whatever else lies there."""
    texts = {path: path.read_text("utf-8", "replace") for path in sorted(folder.glob("*.json"))}
    return [path for path, text in texts.items() if '"ecg_cfg"' in text]


def parse_ecg(top: Mapping[str, Any], where: Path) -> EcgConfig:
    """Returns the ECG encoder's sizes that open_clip's model config in `where` names."""
    check_keys(top, where, {"embed_dim", "ecg_cfg"}, ECG_TOP_FIXED, ECG_TOP_INERT)
    values = value(top, "ecg_cfg", dict, where)
    check_keys(values, where, ECG_READ, {}, ECG_INERT)
    return build(
        EcgConfig,
        where,
        seq_length=size(values, "seq_length", where),
        num_leads=size(values, "lead_num", where),
        patch_size=size(values, "patch_size", where),
        width=size(values, "width", where),
        num_layers=size(values, "layers", where),
        head_dim=size(values, "head_width", where, 64),
        mlp_ratio=value(values, "mlp_ratio", float, where, 4.0),
        embed_dim=size(top, "embed_dim", where),
    )
