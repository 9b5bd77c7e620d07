"""The official config.json of GEM, LLaVA or a language model alone → GemConfig.

Every key is either read, or must have the one value that is computed here, or is listed as
changing nothing; any other is refused by name.
"""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gem_jax.image_keys import image_mode, pinpoints
from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.models.gem import GemConfig
from gem_jax.models.layers import projector_depth
from gem_jax.weights.alone_config import read_alone
from gem_jax.weights.families import ALONE, FAMILIES, LLAVA, TEMPLATE_KEY
from gem_jax.weights.files import WeightsError, read_json
from gem_jax.weights.keys import GENERIC_FIXED, GENERIC_INERT, build, size, value, words
from gem_jax.weights.llm_config import check_llm, read_ids, read_llm
from gem_jax.weights.tower_config import find_ecg_json, read_ecg, read_vision

# The image encoder of every published LLaVA and GEM; its sizes need no file.
CLIP_NAME = "openai/clip-vit-large-patch14-336"

READ = words(
    """
    ecg_hidden_size ecg_projector_type image_grid_pinpoints mm_ecg_tower mm_hidden_size
    mm_projector_type mm_vision_select_layer mm_vision_tower open_clip_config
    tokenizer_model_max_length unfreeze_mm_vision_tower
    """
) | {TEMPLATE_KEY}
FIXED: dict[str, tuple] = GENERIC_FIXED | {
    "image_aspect_ratio": ("ori", "square", "pad", "anyres", None),
    "mm_patch_merge_type": ("flat", "spatial", "spatial_unpad", None),
    "tokenizer_padding_side": ("right", "left", None),
    "mm_resampler_type": (None,),
    "mm_use_im_patch_token": (False, None),
    "mm_use_im_start_end": (False, None),
    "mm_vision_select_feature": ("patch", None),
    "use_mm_proj": (True,),
    "use_pos_skipping": (False, None),
}
# How it was trained, and what other modes of reading images or only videos use.
INERT = GENERIC_INERT | words(
    """
    add_faster_video ecg_projector_lr faster_token_stride freeze_mm_mlp_adapter
    freeze_mm_vision_resampler image_crop_resolution image_split_resolution mm_newline_position
    mm_projector_lr mm_spatial_pool_mode mm_spatial_pool_stride mm_tunable_parts
    mm_vision_tower_lr pos_skipping_range tune_mm_mlp_adapter tune_mm_vision_resampler
    vision_tower_pretrained
    """
)


@dataclass(frozen=True)
class Official:
    """An official checkpoint's config: our sizes, and where the image encoder's weights count."""

    config: GemConfig
    vision_dir: Path | None
    own_vision: bool
    """True: the checkpoint's own vision tensors count; else those of `vision_dir` do."""
    encoder_configs: Mapping[str, Path] = field(default_factory=dict)
    """The files of `vision` and `ecg` that tell the encoders' sizes, where there are such."""


@dataclass(frozen=True)
class Towers:
    """What a config.json only points to: the encoders' sizes, and a tensor of the checkpoint."""

    ecg: EcgConfig | None
    """None: LLaVA and PULSE have none."""
    vision: ClipConfig
    newline: bool
    """Whether the tensor image_newline is there, be it unused."""


def read_official(folder: Path, vision: Path | None, newline: bool) -> Official:
    """Returns what config.json in `folder` says; `vision` replaces its mm_vision_tower.

    `newline` says whether the folder has the tensor image_newline, which it may have unused.

    Raises:
        WeightsError: naming the keys that are missing, unknown or not implemented.
    """
    where = folder / "config.json"
    values, generation = read_json(where), read_generation(folder)
    if architecture(values, where) in ALONE:
        return Official(read_model(values, generation, where, None), None, True)
    _check(values, where)
    own_vision = value(values, "unfreeze_mm_vision_tower", bool, where, False)
    vision_dir = vision or _vision_dir(folder, values, where, own_vision)
    vision_config = read_vision(vision_dir, -1) if vision_dir else ClipConfig.vit_l_14_336()
    ecg_config, configs = None, {"vision": vision_dir / "config.json"} if vision_dir else {}
    if values.get("mm_ecg_tower") is not None:
        tower = _ecg_dir(folder, values, where), values.get("open_clip_config")
        ecg_config, configs = read_ecg(*tower), configs | _ecg_json(*tower)
    towers = Towers(ecg_config, vision_config, newline)
    config = read_model(values, generation, where, towers)
    return Official(config, vision_dir, own_vision, configs)


def read_generation(folder: Path) -> dict[str, Any]:
    """Returns generation_config.json in `folder`; it is empty where there is none."""
    path = folder / "generation_config.json"
    return read_json(path) if path.is_file() else {}


def read_model(
    values: Mapping[str, Any], generation: Mapping[str, Any], where: Path, towers: Towers | None
) -> GemConfig:
    """Returns the model that config.json and generation_config.json describe around `towers`.

    WeightsError names the keys that are missing, unknown or not implemented.
    """
    named = architecture(values, where)
    if named in ALONE:
        return read_alone(values, generation, where, named)
    assert towers is not None
    _check(values, where)
    family = LLAVA[named]
    own = FAMILIES[family]
    return build(
        GemConfig,
        where,
        llm=read_llm(values, where, family),
        **read_ids(values, generation, where, family),
        **_parts(values, where, towers),
        **_image_reading(values, where, towers.newline),
        padding_side=value(values, "tokenizer_padding_side", str, where, "right"),
        max_length=size(
            values, "tokenizer_model_max_length", where, values.get("max_position_embeddings")
        ),
        template=value(
            values, TEMPLATE_KEY, str, where, own.gem_template if towers.ecg else own.template
        ),
    )


def _check(values: Mapping[str, Any], where: Path) -> None:
    check_llm(values, where, LLAVA[architecture(values, where)], READ, FIXED, INERT)


def _parts(values: Mapping[str, Any], where: Path, towers: Towers) -> dict[str, Any]:
    """Returns the fields of the towers and of what joins them to the language model."""
    kinds = {}
    for part in ("ecg_projector", "mm_projector"):
        kinds[part] = value(values, f"{part}_type", str, where, "linear")
        build(projector_depth, f"{where}: {part}_type", kind=kinds[part])
    if towers.ecg is None:
        kinds["ecg_projector"] = "identity"
    else:
        _agree(values, "ecg_hidden_size", towers.ecg.width, where)
    _agree(values, "mm_hidden_size", towers.vision.hidden_dim, where)
    layer = value(values, "mm_vision_select_layer", int, where)
    vision = build(functools.partial(dataclasses.replace, towers.vision), where, select_layer=layer)
    return {"ecg": towers.ecg, "vision": vision, **kinds}


def _image_reading(values: Mapping[str, Any], where: Path, newline: bool) -> dict[str, Any]:
    patch_merge = value(values, "mm_patch_merge_type", str, where, "flat")
    return {
        "image_mode": image_mode(values.get("image_aspect_ratio")),
        "patch_merge": patch_merge,
        "grid_pinpoints": build(pinpoints, where, given=values.get("image_grid_pinpoints")),
        "image_newline": newline or "unpad" in patch_merge,
    }


def architecture(values: Mapping[str, Any], where: Path) -> str:
    """Returns the one architecture that a config.json names; WeightsError if it is not known."""
    found = values.get("architectures")
    known = [*LLAVA, *ALONE]
    if not isinstance(found, list) or len(found) != 1 or found[0] not in known:
        raise WeightsError(
            f"{where}: architectures: got {found!r}, expected one of {', '.join(known)}"
        )
    return found[0]


def with_ecg_encoder(official: Official, encoder: Path, where: Path) -> Official:
    """Returns the config of a LLaVA or PULSE that gets the ECG encoder in the file `encoder`.

    It becomes a GEM, template and all. WeightsError when it has such an encoder already, or has no
    image encoder to share the projector with.
    """
    config = official.config
    if config.ecg is not None or config.vision is None:
        got = "an ECG encoder" if config.ecg else "a language model alone"
        raise WeightsError(
            f"{where}: got {got}, expected a LLaVA or PULSE folder, which --ecg-encoder adds one to"
        )
    own = FAMILIES[config.llm.family]
    added = dataclasses.replace(
        config,
        ecg=read_ecg(encoder.parent, None),
        ecg_projector="linear",
        template=own.gem_template if config.template == own.template else config.template,
    )
    configs = {**official.encoder_configs, **_ecg_json(encoder.parent, None)}
    return dataclasses.replace(official, config=added, encoder_configs=configs)


def _vision_dir(
    folder: Path, values: Mapping[str, Any], where: Path, own_vision: bool
) -> Path | None:
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


def _ecg_dir(folder: Path, values: Mapping[str, Any], where: Path) -> Path:
    name = value(values, "mm_ecg_tower", str, where)
    for base in (folder, Path.cwd()):
        if (base / name).exists():
            return (base / name).parent
    # The checkpoint holds the tower's weights; only the sizes beside the file are looked for.
    return (folder / name).parent


def _ecg_json(folder: Path, name: str | None) -> dict[str, Path]:
    file = find_ecg_json(folder, name)
    return {} if file is None else {"ecg": file}


def _agree(values: Mapping[str, Any], key: str, width: int, where: Path) -> None:
    if size(values, key, where, width) != width:
        raise WeightsError(f"{where}: {key}: got {values[key]}, expected {width} as in its tower")
