"""The official config.json of GEM, LLaVA or a language model alone ↔ GemConfig.

Every key is either read, or must have the one value that is computed here, or is listed as
changing nothing; any other is refused by name.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gem_jax.models.clip import ClipConfig
from gem_jax.models.gem import GemConfig
from gem_jax.models.layers import projector_depth
from gem_jax.weights.files import WeightsError, read_json
from gem_jax.weights.llm_config import FAMILIES, check_llm, llm_json, read_ids, read_llm
from gem_jax.weights.tower_config import (
    GENERIC_FIXED,
    GENERIC_INERT,
    build,
    ecg_name,
    read_ecg,
    read_vision,
    size,
    value,
    words,
)

LLAMA = "LlavaLlamaForCausalLM"
QWEN = "LlavaQwenForCausalLM"
MISTRAL = "LlavaMistralForCausalLM"
FAMILY = {LLAMA: "llama", QWEN: "qwen2", MISTRAL: "mistral"}
ALONE = {own.llm: family for family, own in FAMILIES.items()}
MODEL_TYPES = {LLAMA: "llava_llama", QWEN: "llava_qwen", MISTRAL: "llava_mistral"}
# The original takes the conversation template from the folder's name; a model that was trained
# with another than its architecture's says so by a key of ours, which transformers carries along.
TEMPLATES = {LLAMA: "vicuna_v1", QWEN: "qwen_2", MISTRAL: "vicuna_v1"}
FAMILY_TEMPLATES = {FAMILY[architecture]: name for architecture, name in TEMPLATES.items()}
TEMPLATE_KEY = "conversation_template"
# The image encoder of every published LLaVA and GEM; its sizes need no file.
CLIP_NAME = "openai/clip-vit-large-patch14-336"
VISION_DIR = "clip_vision"
ECG_DIR = "ecg_tower"
# The transformers release that the original is pinned to.
TRANSFORMERS_VERSION = "4.37.2"

READ = words(
    """
    architectures bos_token_id conversation_template ecg_hidden_size ecg_projector_type
    eos_token_id head_dim hidden_size image_grid_pinpoints intermediate_size
    max_position_embeddings
    mm_ecg_tower mm_hidden_size mm_projector_type mm_vision_select_layer mm_vision_tower
    num_attention_heads num_hidden_layers num_key_value_heads open_clip_config pad_token_id
    rms_norm_eps rope_theta tie_word_embeddings tokenizer_model_max_length
    unfreeze_mm_vision_tower vocab_size
    """
)
FIXED: dict[str, tuple] = GENERIC_FIXED | {
    "image_aspect_ratio": ("ori", "pad", "anyres", None),
    "mm_patch_merge_type": ("flat", "spatial", "spatial_unpad", None),
    "tokenizer_padding_side": ("right", "left", None),
    "mm_resampler_type": (None,),
    "mm_use_im_patch_token": (False,),
    "mm_use_im_start_end": (False,),
    "mm_vision_select_feature": ("patch",),
    "use_mm_proj": (True,),
}
# A language model's: that a checkpoint of another family was turned into LLaMA's form.
ALONE_INERT = GENERIC_INERT | {"is_llama_config", TEMPLATE_KEY}
ALONE_FIXED: dict[str, tuple] = GENERIC_FIXED | {"rope_interleaved": (False,)}
# How it was trained, what only `anyres` pages use, and what generation is given otherwise.
INERT = GENERIC_INERT | words(
    """
    ecg_projector_lr freeze_mm_mlp_adapter freeze_mm_vision_resampler image_crop_resolution
    image_split_resolution mm_projector_lr mm_tunable_parts
    mm_vision_tower_lr tune_mm_mlp_adapter tune_mm_vision_resampler
    """
)


@dataclass(frozen=True)
class Official:
    """An official checkpoint's config: our sizes, and where the image encoder's weights count."""

    config: GemConfig
    vision_dir: Path | None
    own_vision: bool
    """True: the checkpoint's own vision tensors count; else those of `vision_dir` do."""
    layout: str = "official"
    """Whose names its tensors have: `official`, or `transformers`."""


def read_official(folder: Path, vision: Path | None, newline: bool) -> Official:
    """Returns what config.json in `folder` says; `vision` replaces its mm_vision_tower.

    `newline` says whether the folder has the tensor image_newline, which it may have unused.

    Raises:
        WeightsError: naming the keys that are missing, unknown or not implemented.
    """
    where = folder / "config.json"
    values = read_json(where)
    architecture = _architecture(values, where)
    if architecture in ALONE:
        return Official(_read_alone(folder, values, ALONE[architecture]), None, True)
    family = FAMILY[architecture]
    # The keys that the language model's own table judges are in neither of the others.
    inert = INERT - frozenset({"bos_token_id", "eos_token_id", "pad_token_id"})
    check_llm(values, where, family, READ, FIXED, inert)
    own_vision = value(values, "unfreeze_mm_vision_tower", bool, where, False)
    vision_dir = vision or _vision_dir(folder, values, where, own_vision)
    layer = value(values, "mm_vision_select_layer", int, where)
    if vision_dir is None:
        vision_config = dataclasses.replace(ClipConfig.vit_l_14_336(), select_layer=layer)
    else:
        vision_config = read_vision(vision_dir, layer)
    ecg_config = None
    if values.get("mm_ecg_tower") is not None:  # LLaVA and PULSE have none
        ecg_config = read_ecg(_ecg_dir(folder, values, where), values.get("open_clip_config"))
        _agree(values, "ecg_hidden_size", ecg_config.width, folder, where)
    _agree(values, "mm_hidden_size", vision_config.hidden_dim, vision_dir or CLIP_NAME, where)
    for key in ("ecg_projector_type", "mm_projector_type"):
        build(projector_depth, f"{where}: {key}", kind=value(values, key, str, where, "linear"))
    length = values.get("max_position_embeddings")
    patch_merge = value(values, "mm_patch_merge_type", str, where, "flat")
    config = build(
        GemConfig,
        where,
        ecg=ecg_config,
        vision=vision_config,
        llm=read_llm(values, where, family),
        ecg_projector=value(values, "ecg_projector_type", str, where, "linear")
        if ecg_config
        else "identity",
        mm_projector=value(values, "mm_projector_type", str, where, "linear"),
        **read_ids(values, _generation(folder), where, family),
        patch_merge=patch_merge,
        grid_pinpoints=_pinpoints(values, where),
        image_newline=newline or "unpad" in patch_merge,
        padding_side=value(values, "tokenizer_padding_side", str, where, "right"),
        image_mode=value(values, "image_aspect_ratio", str, where, "ori"),
        max_length=size(values, "tokenizer_model_max_length", where, length),
        template=value(values, TEMPLATE_KEY, str, where, TEMPLATES[architecture]),
    )
    return Official(config, vision_dir, own_vision)


def _read_alone(folder: Path, values: dict, family: str) -> GemConfig:
    """Returns a language model alone, as a GemConfig without towers."""
    where = folder / "config.json"
    inert = ALONE_INERT - frozenset({"bos_token_id", "eos_token_id", "pad_token_id"})
    check_llm(values, where, family, frozenset(), ALONE_FIXED, inert)
    return build(
        GemConfig,
        where,
        ecg=None,
        vision=None,
        llm=read_llm(values, where, family),
        ecg_projector="identity",
        mm_projector="identity",
        **read_ids(values, _generation(folder), where, family),
        image_mode="ori",
        max_length=size(values, "max_position_embeddings", where),
        template=value(values, TEMPLATE_KEY, str, where, FAMILY_TEMPLATES[family]),
    )


def _generation(folder: Path) -> dict[str, Any]:
    path = folder / "generation_config.json"
    return read_json(path) if path.is_file() else {}


def config_json(config: GemConfig) -> dict[str, Any]:
    """Returns the official config.json of an exported folder; paths are relative to it.

    Raises:
        WeightsError: for a model that the official layout has no words for.
    """
    if config.vision is None:
        return _alone_json(config)
    _require_expressible(config)
    vision = config.vision
    llm = config.llm
    (architecture,) = [name for name, family in FAMILY.items() if family == llm.family]
    own = llm_json(llm)
    if config.grid_pinpoints:
        own["image_grid_pinpoints"] = [list(pair) for pair in config.grid_pinpoints]
    if config.ecg:
        own |= {
            "ecg_hidden_size": config.ecg.width,
            "ecg_projector_lr": None,
            "ecg_projector_type": config.ecg_projector,
            "mm_ecg_tower": f"{ECG_DIR}/{ecg_name(config.ecg)}.safetensors",
            "open_clip_config": ecg_name(config.ecg),
        }
    if config.pad_token_id is not None:
        own = own | {"pad_token_id": config.pad_token_id}
    if config.template != TEMPLATES[architecture]:
        own = own | {TEMPLATE_KEY: config.template}
    return {
        "architectures": [architecture],
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_ids[0],
        "freeze_mm_mlp_adapter": False,
        "image_aspect_ratio": config.image_mode,
        "max_position_embeddings": config.max_length,
        "mm_hidden_size": vision.hidden_dim,
        "mm_patch_merge_type": config.patch_merge,
        "mm_projector_lr": None,
        "mm_projector_type": config.mm_projector,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": vision.select_layer,
        "mm_vision_tower": VISION_DIR,
        "model_type": MODEL_TYPES[architecture],
        "tokenizer_model_max_length": config.max_length,
        "tokenizer_padding_side": config.padding_side,
        "transformers_version": TRANSFORMERS_VERSION,
        "tune_mm_mlp_adapter": False,
        "use_mm_proj": True,
        **own,
    }


def _alone_json(config: GemConfig) -> dict[str, Any]:
    family = config.llm.family
    own: dict[str, Any] = {}
    if config.pad_token_id is not None:
        own["pad_token_id"] = config.pad_token_id
    if config.template != FAMILY_TEMPLATES[family]:
        own[TEMPLATE_KEY] = config.template
    return {
        "architectures": [FAMILIES[family].llm],
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_ids[0],
        "max_position_embeddings": config.max_length,
        "model_type": family,
        "transformers_version": TRANSFORMERS_VERSION,
        **llm_json(config.llm),
        **own,
    }


def generation_json(config: GemConfig) -> dict[str, Any]:
    """Returns the official generation_config.json."""
    eos = config.eos_token_ids
    pad = {} if config.pad_token_id is None else {"pad_token_id": config.pad_token_id}
    return {
        "_from_model_config": True,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos[0] if len(eos) == 1 else list(eos),
        "transformers_version": TRANSFORMERS_VERSION,
        **pad,
    }


def _require_expressible(config: GemConfig) -> None:
    llm = config.llm
    for field, got, expected in (
        ("llm.head_dim", llm.head_dim, (llm.hidden_dim / llm.num_heads,)),
        ("ecg.norm_eps", config.ecg.norm_eps if config.ecg else 1e-5, (1e-5,)),
    ):
        if got not in expected:
            raise WeightsError(
                f"model.{field}: got {got!r}, expected {' or '.join(map(repr, expected))}: the "
                "official layout has no words for anything else"
            )


def _architecture(values: dict, where: Path) -> str:
    found = values.get("architectures")
    known = [*MODEL_TYPES, *ALONE]
    if not isinstance(found, list) or len(found) != 1 or found[0] not in known:
        raise WeightsError(
            f"{where}: architectures: got {found!r}, expected one of {', '.join(known)}"
        )
    return found[0]


def _pinpoints(values: dict, where: Path) -> tuple[tuple[int, int], ...]:
    """Returns the canvases of anyres, (width, height), given as a list or as its text."""
    given = values.get("image_grid_pinpoints")
    try:
        found = (
            json.loads(given.replace("(", "[").replace(")", "]")) if type(given) is str else given
        )
        pairs = tuple((width, height) for width, height in found or ())
    except (TypeError, ValueError) as error:
        raise WeightsError(
            f"{where}: image_grid_pinpoints: got {given!r}, expected pairs of width and height"
        ) from error
    return pairs


def with_ecg_encoder(official: Official, encoder: Path, where: Path) -> Official:
    """Returns the config of a LLaVA or PULSE that gets the ECG encoder in the file `encoder`.

    WeightsError when it has one already, or has no image encoder to share the projector with.
    """
    config = official.config
    if config.ecg is not None or config.vision is None:
        got = "an ECG encoder" if config.ecg else "a language model alone"
        raise WeightsError(
            f"{where}: got {got}, expected a LLaVA or PULSE folder, which --ecg-encoder adds one to"
        )
    added = dataclasses.replace(config, ecg=read_ecg(encoder.parent, None), ecg_projector="linear")
    return dataclasses.replace(official, config=added)


def _vision_dir(folder: Path, values: dict, where: Path, own_vision: bool) -> Path | None:
    """Returns the image encoder's folder; None: the official one, whose sizes are known here."""
    name = value(values, "mm_vision_tower", str, where)
    for base in (folder, Path.cwd()):
        if (base / name / "config.json").is_file():
            return base / name
    if own_vision and name == CLIP_NAME:
        return None
    raise WeightsError(
        f"{where}: mm_vision_tower: got {name!r}, expected a folder with config.json below "
        f"{folder} or the working directory; download the image encoder and name it by --vision"
    )


def _ecg_dir(folder: Path, values: dict, where: Path) -> Path:
    name = value(values, "mm_ecg_tower", str, where)
    for base in (folder, Path.cwd()):
        if (base / name).exists():
            return (base / name).parent
    # The checkpoint holds the tower's weights; only the sizes beside the file are looked for.
    return (folder / name).parent


def _agree(values: dict, key: str, width: int, tower: Path | str, where: Path) -> None:
    if size(values, key, where, width) != width:
        raise WeightsError(f"{where}: {key}: got {values[key]}, expected {width} as in {tower}")
