"""GemConfig → the official config.json and generation_config.json of an exported folder.

A checkpoint keeps the files that it was imported from (`gem_jax.weights.source`). What still holds
of them is written as it was.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gem_jax.models.gem import GemConfig
from gem_jax.weights.alone_config import alone_json
from gem_jax.weights.families import FAMILIES, TEMPLATE_KEY, TRANSFORMERS_VERSION
from gem_jax.weights.files import PICKLES, WeightsError
from gem_jax.weights.llm_config import ids_json, llm_json
from gem_jax.weights.original import in_words_of, keeps_ids, original_config
from gem_jax.weights.tower_export import ecg_name

VISION_DIR = "clip_vision"
ECG_DIR = "ecg_tower"


def config_json(config: GemConfig, source: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the official config.json of an exported folder; paths are relative to it.

    Raises:
        WeightsError: for a model that the official layout has no words for.
    """
    original = original_config(source)
    if config.vision is None:
        return in_words_of(original, alone_json(config), config)
    _require_expressible(config)
    return in_words_of(original, _llava_json(config) | _ecg_json(config, original), config)


def generation_json(config: GemConfig, source: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the official generation_config.json: how answers are drawn is the original's."""
    eos = config.eos_token_ids
    ids = ids_json(config) | {"eos_token_id": eos[0] if len(eos) == 1 else list(eos)}
    original = (source or {}).get("generation_config")
    if original is None:
        return {"_from_model_config": True, "transformers_version": TRANSFORMERS_VERSION, **ids}
    kept = keeps_ids(original_config(source), original, config)
    return dict(original) if kept else original | ids


def _llava_json(config: GemConfig) -> dict[str, Any]:
    """Returns the keys of LLaVA."""
    assert config.vision is not None
    own = FAMILIES[config.llm.family]
    pinpoints = [list(pair) for pair in config.grid_pinpoints]
    template = own.gem_template if config.ecg else own.template
    return {
        "architectures": [own.llava],
        "freeze_mm_mlp_adapter": False,
        "image_aspect_ratio": config.image_mode,
        "max_position_embeddings": config.max_length,
        "mm_hidden_size": config.vision.hidden_dim,
        "mm_patch_merge_type": config.patch_merge,
        "mm_projector_lr": None,
        "mm_projector_type": config.mm_projector,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": config.vision.select_layer,
        "mm_vision_tower": VISION_DIR,
        "model_type": own.llava_type,
        "tokenizer_model_max_length": config.max_length,
        "tokenizer_padding_side": config.padding_side,
        "transformers_version": TRANSFORMERS_VERSION,
        "tune_mm_mlp_adapter": False,
        "use_mm_proj": True,
        **ids_json(config),
        **llm_json(config.llm),
        **({"image_grid_pinpoints": pinpoints} if pinpoints else {}),
        **({TEMPLATE_KEY: config.template} if config.template != template else {}),
    }


def _ecg_json(config: GemConfig, original: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys that GEM adds; the encoder keeps the name that the original knows it by."""
    if config.ecg is None:
        return {}
    given = original.get("open_clip_config")
    plain = isinstance(given, str) and Path(given).name == given
    name = str(given) if plain else ecg_name(config.ecg)
    return {
        "ecg_hidden_size": config.ecg.width,
        "ecg_projector_lr": None,
        "ecg_projector_type": config.ecg_projector,
        "mm_ecg_tower": f"{ECG_DIR}/{_ecg_file(original.get('mm_ecg_tower'), name)}",
        "open_clip_config": name,
    }


def _ecg_file(given: Any, name: str) -> str:
    """Returns the name of the encoder's file, as the original had it: it is read by torch.load."""
    file = Path(given).name if isinstance(given, str) else ""
    return file if file.endswith(PICKLES) else f"{name}.pt"


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
