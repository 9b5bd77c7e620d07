"""The towers' own configs in an exported folder: the original's, as far as they still hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gem_jax.models.clip import CLIP_MEAN, CLIP_STD, ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.weights.dtypes import with_dtype
from gem_jax.weights.families import TRANSFORMERS_VERSION
from gem_jax.weights.files import WeightsError, write_json
from gem_jax.weights.tower_config import COCA_VIT_B_32, parse_ecg, parse_vision

VISION_MODEL = "CLIPVisionModel"
# What a refusal would name; none is shown.
WHERE = Path("config.json")
Values = Mapping[str, Any]


def ecg_name(config: EcgConfig) -> str:
    """Returns the `open_clip_config` that an exported ECG encoder goes by."""
    same = ecg_json(config) == ecg_json(EcgConfig.coca_vit_b_32())
    return COCA_VIT_B_32 if same else "ecg_encoder"


def write_ecg_json(folder: Path, name: str, config: EcgConfig, original: Values | None) -> None:
    """Writes NAME.json into `folder`, but for a config that open_clip and we have built in."""
    if original or name != COCA_VIT_B_32:
        write_json(folder / f"{name}.json", ecg_json(config, original))


def ecg_json(config: EcgConfig, original: Values | None = None) -> dict[str, Any]:
    """Returns open_clip's model config of the ECG encoder.

    The original has the text towers too, which GEM builds and leaves; ours alone knows of none.
    """
    if original and _describes(original, config):
        return dict(original)
    return {
        "embed_dim": config.embed_dim,
        "ecg_cfg": {
            "seq_length": config.seq_length,
            "lead_num": config.num_leads,
            "layers": config.num_layers,
            "width": config.width,
            "head_width": config.head_dim,
            "mlp_ratio": config.mlp_ratio,
            "patch_size": config.patch_size,
            "output_tokens": True,
        },
    }


def write_vision(folder: Path, config: ClipConfig, original: Values | None = None) -> None:
    """Writes CLIP's config.json and preprocessor_config.json into `folder`."""
    write_json(folder / "config.json", vision_json(config, original))
    write_json(
        folder / "preprocessor_config.json",
        {
            "crop_size": {"height": config.image_size, "width": config.image_size},
            "do_center_crop": True,
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": list(CLIP_MEAN),
            "image_processor_type": "CLIPImageProcessor",
            "image_std": list(CLIP_STD),
            "resample": 3,  # Pillow's bicubic
            "rescale_factor": 1 / 255,
            "size": {"shortest_edge": config.image_size},
        },
    )


def vision_json(config: ClipConfig, original: Values | None = None) -> dict[str, Any]:
    """Returns the config.json of a CLIPVisionModel."""
    alone = (original or {}).get("architectures") == [VISION_MODEL]
    if original and alone and _describes(original, config):
        dtypes = dict.fromkeys(("torch_dtype", "dtype"), config.param_dtype)
        return {key: dtypes.get(key, found) for key, found in original.items()}
    return {
        "architectures": [VISION_MODEL],
        "attention_dropout": 0.0,
        "hidden_act": config.activation,
        "hidden_size": config.hidden_dim,
        "image_size": config.image_size,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": config.mlp_dim,
        "layer_norm_eps": config.norm_eps,
        "model_type": "clip_vision_model",
        "num_attention_heads": config.num_heads,
        "num_channels": 3,
        "num_hidden_layers": config.num_layers,
        "patch_size": config.patch_size,
        # What transformers supposes: a vision model alone has no projection.
        "projection_dim": 512,
        "torch_dtype": config.param_dtype,
        "transformers_version": TRANSFORMERS_VERSION,
    }


def _describes(original: Values, config: ClipConfig | EcgConfig) -> bool:
    """Whether `original` is the config of this encoder, in whatever dtype."""
    found: ClipConfig | EcgConfig
    try:
        if isinstance(config, ClipConfig):
            found = parse_vision(original, WHERE, config.select_layer)
        else:
            found = parse_ecg(original, WHERE)
    except WeightsError:
        return False
    return with_dtype(found, config.param_dtype) == config
