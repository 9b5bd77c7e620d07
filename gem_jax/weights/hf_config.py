"""GEM's official config.json ↔ GemConfig.

Every key is either read, or must have the one value that is computed here, or is listed as
changing nothing; any other is refused by name.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gem_jax.models.gem import GemConfig
from gem_jax.models.layers import projector_depth
from gem_jax.models.llm import LlmConfig
from gem_jax.weights.files import WeightsError, read_json
from gem_jax.weights.tower_config import (
    GENERIC_FIXED,
    GENERIC_INERT,
    build,
    check_keys,
    ecg_name,
    read_ecg,
    read_vision,
    size,
    value,
    words,
)

LLAMA = "LlavaLlamaForCausalLM"
QWEN = "LlavaQwenForCausalLM"
MODEL_TYPES = {LLAMA: "llava_llama", QWEN: "llava_qwen"}
# The original takes the conversation template from the folder's name; a model that was trained
# with another than its architecture's says so by a key of ours, which transformers carries along.
TEMPLATES = {LLAMA: "vicuna_v1", QWEN: "qwen"}
TEMPLATE_KEY = "conversation_template"
VISION_DIR = "clip_vision"
ECG_DIR = "ecg_tower"
# The transformers release that the original is pinned to.
TRANSFORMERS_VERSION = "4.37.2"

READ = words(
    """
    architectures bos_token_id conversation_template ecg_hidden_size ecg_projector_type
    eos_token_id head_dim hidden_size image_aspect_ratio intermediate_size max_position_embeddings
    mm_ecg_tower mm_hidden_size mm_projector_type mm_vision_select_layer mm_vision_tower
    num_attention_heads num_hidden_layers num_key_value_heads open_clip_config pad_token_id
    rms_norm_eps rope_theta tie_word_embeddings tokenizer_model_max_length
    unfreeze_mm_vision_tower vocab_size
    """
)
FIXED: dict[str, tuple] = GENERIC_FIXED | {
    "attention_dropout": (0.0,),
    "hidden_act": ("silu",),
    "image_aspect_ratio": ("ori", "pad"),
    "mm_patch_merge_type": ("flat",),
    "mm_resampler_type": (None,),
    "mm_use_im_patch_token": (False,),
    "mm_use_im_start_end": (False,),
    "mm_vision_select_feature": ("patch",),
    "pretraining_tp": (1,),
    "rope_scaling": (None,),
    "tokenizer_padding_side": ("right",),
    "use_mm_proj": (True,),
    "use_sliding_window": (False,),
}
# What LlamaConfig writes and Qwen2Config does not know.
LLAMA_ONLY = {"attention_bias": False, "pretraining_tp": 1}
LLAMA_FIXED = {"attention_bias": (False,), "mlp_bias": (False,), "sliding_window": (None,)}
# Qwen2 attends to a window only where `use_sliding_window` says so.
QWEN_INERT = frozenset({"max_window_layers", "sliding_window"})
# How it was trained, what only `anyres` pages use, and what generation is given otherwise.
INERT = GENERIC_INERT | words(
    """
    ecg_projector_lr freeze_mm_mlp_adapter freeze_mm_vision_resampler image_crop_resolution
    image_grid_pinpoints image_split_resolution mm_projector_lr mm_tunable_parts
    mm_vision_tower_lr tune_mm_mlp_adapter tune_mm_vision_resampler
    """
)


@dataclass(frozen=True)
class Official:
    """An official checkpoint's config: our sizes, and where the image encoder's weights count."""

    config: GemConfig
    vision_dir: Path
    own_vision: bool
    """True: the checkpoint's own vision tensors count; else those of `vision_dir` do."""


def read_official(folder: Path, vision: Path | None) -> Official:
    """Returns what config.json in `folder` says; `vision` replaces its mm_vision_tower.

    Raises:
        WeightsError: naming the keys that are missing, unknown or not implemented.
    """
    where = folder / "config.json"
    values = read_json(where)
    architecture = _architecture(values, where)
    fixed = FIXED | (LLAMA_FIXED if architecture == LLAMA else {})
    check_keys(values, where, READ, fixed, INERT | (QWEN_INERT if architecture == QWEN else set()))
    vision_dir = vision or _vision_dir(folder, values, where)
    vision_config = read_vision(vision_dir, value(values, "mm_vision_select_layer", int, where))
    ecg_config = read_ecg(_ecg_dir(folder, values, where), values.get("open_clip_config"))
    _agree(values, "mm_hidden_size", vision_config.hidden_dim, vision_dir, where)
    _agree(values, "ecg_hidden_size", ecg_config.width, folder, where)
    for key in ("ecg_projector_type", "mm_projector_type"):
        build(projector_depth, f"{where}: {key}", kind=value(values, key, str, where))
    bos = value(values, "bos_token_id", int, where)
    length = values.get("max_position_embeddings")
    config = build(
        GemConfig,
        where,
        ecg=ecg_config,
        vision=vision_config,
        llm=_read_llm(values, architecture, where),
        ecg_projector=value(values, "ecg_projector_type", str, where),
        mm_projector=value(values, "mm_projector_type", str, where),
        bos_token_id=bos,
        eos_token_id=value(values, "eos_token_id", int, where),
        # Nothing attends to padding: any row serves. LLaVA pads with <unk>, row 0; Qwen2's
        # config names none and its <|endoftext|> is the bos.
        pad_token_id=value(values, "pad_token_id", int, where, 0 if architecture == LLAMA else bos),
        image_mode=value(values, "image_aspect_ratio", str, where, "ori"),
        max_length=size(values, "tokenizer_model_max_length", where, length),
        template=value(values, TEMPLATE_KEY, str, where, TEMPLATES[architecture]),
    )
    own = value(values, "unfreeze_mm_vision_tower", bool, where, False)
    return Official(config, vision_dir, own)


def config_json(config: GemConfig) -> dict[str, Any]:
    """Returns the official config.json of an exported folder; paths are relative to it.

    Raises:
        WeightsError: for a model that the official layout has no words for.
    """
    _require_expressible(config)
    llm = config.llm
    architecture = QWEN if llm.qkv_bias else LLAMA
    own: dict[str, Any] = {"use_sliding_window": False} if llm.qkv_bias else LLAMA_ONLY
    if config.template != TEMPLATES[architecture]:
        own = own | {TEMPLATE_KEY: config.template}
    return {
        "architectures": [architecture],
        "attention_dropout": 0.0,
        "bos_token_id": config.bos_token_id,
        "ecg_hidden_size": config.ecg.width,
        "ecg_projector_lr": None,
        "ecg_projector_type": config.ecg_projector,
        "eos_token_id": config.eos_token_id,
        "freeze_mm_mlp_adapter": False,
        "hidden_act": "silu",
        "hidden_size": llm.hidden_dim,
        "image_aspect_ratio": config.image_mode,
        "initializer_range": 0.02,
        "intermediate_size": llm.mlp_dim,
        "max_position_embeddings": config.max_length,
        "mm_ecg_tower": f"{ECG_DIR}/{ecg_name(config.ecg)}.safetensors",
        "mm_hidden_size": config.vision.hidden_dim,
        "mm_patch_merge_type": "flat",
        "mm_projector_lr": None,
        "mm_projector_type": config.mm_projector,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": config.vision.select_layer,
        "mm_vision_tower": VISION_DIR,
        "model_type": MODEL_TYPES[architecture],
        "num_attention_heads": llm.num_heads,
        "num_hidden_layers": llm.num_layers,
        "num_key_value_heads": llm.num_kv_heads,
        "open_clip_config": ecg_name(config.ecg),
        "pad_token_id": config.pad_token_id,
        "rms_norm_eps": llm.norm_eps,
        "rope_scaling": None,
        "rope_theta": llm.rope_theta,
        "tie_word_embeddings": llm.tie_embeddings,
        "tokenizer_model_max_length": config.max_length,
        "tokenizer_padding_side": "right",
        "torch_dtype": llm.param_dtype,
        "transformers_version": TRANSFORMERS_VERSION,
        "tune_mm_mlp_adapter": False,
        "use_cache": True,
        "use_mm_proj": True,
        "vocab_size": llm.vocab_size,
        **own,
    }


def generation_json(config: GemConfig) -> dict[str, Any]:
    """Returns the official generation_config.json."""
    return {
        "_from_model_config": True,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "transformers_version": TRANSFORMERS_VERSION,
    }


def _require_expressible(config: GemConfig) -> None:
    llm = config.llm
    for field, got, expected in (
        ("llm.head_dim", llm.head_dim, (llm.hidden_dim / llm.num_heads,)),
        ("ecg.norm_eps", config.ecg.norm_eps, (1e-5,)),
        ("image_mode", config.image_mode, FIXED["image_aspect_ratio"]),
    ):
        if got not in expected:
            raise WeightsError(
                f"model.{field}: got {got!r}, expected {' or '.join(map(repr, expected))}: the "
                "official layout has no words for anything else"
            )


def _architecture(values: dict, where: Path) -> str:
    found = values.get("architectures")
    if not isinstance(found, list) or len(found) != 1 or found[0] not in MODEL_TYPES:
        raise WeightsError(
            f"{where}: architectures: got {found!r}, expected one of {', '.join(MODEL_TYPES)}"
        )
    return found[0]


def _read_llm(values: dict, architecture: str, where: Path) -> LlmConfig:
    heads = size(values, "num_attention_heads", where)
    hidden = size(values, "hidden_size", where)
    return build(
        LlmConfig,
        where,
        vocab_size=size(values, "vocab_size", where),
        hidden_dim=hidden,
        num_layers=size(values, "num_hidden_layers", where),
        num_heads=heads,
        num_kv_heads=size(values, "num_key_value_heads", where, heads),
        head_dim=size(values, "head_dim", where, hidden // heads),
        mlp_dim=size(values, "intermediate_size", where),
        rope_theta=value(values, "rope_theta", float, where, 10000.0),
        norm_eps=value(values, "rms_norm_eps", float, where),
        qkv_bias=architecture == QWEN,
        tie_embeddings=value(values, "tie_word_embeddings", bool, where, False),
    )


def _vision_dir(folder: Path, values: dict, where: Path) -> Path:
    name = value(values, "mm_vision_tower", str, where)
    for base in (folder, Path.cwd()):
        if (base / name / "config.json").is_file():
            return base / name
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


def _agree(values: dict, key: str, width: int, tower: Path, where: Path) -> None:
    if size(values, key, where, width) != width:
        raise WeightsError(f"{where}: {key}: got {values[key]}, expected {width} as in {tower}")
