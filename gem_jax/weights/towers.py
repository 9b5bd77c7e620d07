"""An encoder alone: a CLIP folder or the file of an ECG encoder ↔ a checkpoint of its own.

Its parameters lie where the whole model has them, below `vision_tower` or `ecg_tower`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gem_jax import checkpoint
from gem_jax.models.clip import ClipConfig, ClipEncoder
from gem_jax.models.ecg import EcgConfig, EcgEncoder
from gem_jax.paths import flat
from gem_jax.weights.dtypes import all_in, requested, with_dtype
from gem_jax.weights.encoders import ecg_encoder, image_encoder
from gem_jax.weights.files import Dtype, read_json
from gem_jax.weights.filling import Shapes, Source, require_fit, stacked, stored_dtypes
from gem_jax.weights.layout import named_layout
from gem_jax.weights.progress import nbytes, track
from gem_jax.weights.source import encoders_of
from gem_jax.weights.tower_config import find_ecg_json, read_ecg, read_vision
from gem_jax.weights.tower_export import ecg_name
from gem_jax.weights.write import start_ecg, start_vision, write_tensors
from gem_jax.whole import whole_folder

# The hidden state that LLaVA takes; a CLIP folder does not say which is wanted of it.
SELECT_LAYER = -2


@dataclass(frozen=True)
class Tower:
    """What an import of an encoder will read, all of it checked."""

    config: ClipConfig | EcgConfig
    shapes: Shapes
    """Of the parameters, by path."""
    tensors: Source


def is_tower(source: Path) -> bool:
    """Returns whether `source` is a file, or the folder of a CLIP."""
    config = source / "config.json"
    return source.is_file() or (config.is_file() and named_layout(read_json(config)) == "CLIP")


def plan_tower(source: Path) -> Tower:
    """Returns the image encoder of a CLIP folder, or the ECG encoder of a file.

    The text towers beside them are known and left; a file's sizes are in the .json beside it.

    Raises:
        WeightsError: once, naming all tensors that are missing, unknown or of a wrong shape.
    """
    if source.is_file():
        ecg = read_ecg(source.parent, None)
        return _checked(source, ecg, ecg_encoder(source, ecg))
    vision = read_vision(source, SELECT_LAYER)
    return _checked(source, vision, image_encoder(source, vision))


def import_tower(source: Path, dest: Path, dtype: Dtype) -> Shapes:
    """Writes the checkpoint `dest` of the encoder in `source`; returns what it holds.

    WeightsError as of `plan_tower`; nothing is written then.
    """
    tower = plan_tower(source)
    config = requested(tower.config, dtype)
    shapes = tower_shapes(config)
    parameters = track(stacked(shapes, [tower.tensors]), nbytes(shapes), "import")
    if dest.is_dir():
        dest.rmdir()
    origin = {
        "layout": "encoder",
        "name": source.resolve().name,
        "encoders": encoders_of(_config_file(source)),
    }
    checkpoint.write_encoder(dest, config, parameters, origin)
    return shapes


def export_tower(located: checkpoint.Located, dest: Path, dtype: Dtype) -> Shapes | None:
    """Writes the folder `dest` of the encoder that `located` holds; returns what it holds.

    None where it holds a model, and nothing is written.
    """
    config = checkpoint.read_encoder_config(located)
    if config is None:
        return None
    saved = checkpoint.saved_shapes(located)
    parameters = track(checkpoint.leaves(located, saved), nbytes(saved), "export")
    origin = checkpoint.read_source(located)
    write_tower(dest, requested(config, dtype), all_in(dtype, saved), parameters, origin)
    return saved


def _config_file(source: Path) -> dict[str, Path]:
    """Returns the file that tells the encoder's sizes, by its part."""
    if not source.is_file():
        return {"vision": source / "config.json"}
    file = find_ecg_json(source.parent, None)
    return {} if file is None else {"ecg": file}


def _checked(where: Path, config: ClipConfig | EcgConfig, tensors: Source) -> Tower:
    require_fit(where, [tensors], tower_shapes(config))
    (stored,) = set(stored_dtypes([tensors]).values())
    typed = with_dtype(config, stored)
    return Tower(typed, tower_shapes(typed), tensors)


def tower_shapes(config: ClipConfig | EcgConfig) -> Shapes:
    """Returns shape and dtype of the encoder's parameters, by path."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    if isinstance(config, ClipConfig):
        image = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), np.float32)
        tree = {"vision_tower": jax.eval_shape(ClipEncoder(config).init, key, image)["params"]}
    else:
        ecg = jax.ShapeDtypeStruct((1, config.num_leads, config.seq_length), np.float32)
        tree = {"ecg_tower": jax.eval_shape(EcgEncoder(config).init, key, ecg)["params"]}
    return flat(tree)


def write_tower(
    dest: Path,
    config: ClipConfig | EcgConfig,
    shapes: Shapes,
    leaves: Iterable[tuple[str, np.ndarray]],
    source: Mapping[str, Any] | None,
) -> None:
    """Writes the folder `dest` in one step: a CLIPVisionModel, or NAME.json and NAME.pt.

    The latter are what GEM's open_clip_config and mm_ecg_tower name. `shapes` has the dtypes that
    are written; of `leaves`, (path, parameter), one is held at a time; `source` is what the
    checkpoint keeps of its origin.
    """
    with whole_folder(dest) as folder:
        if isinstance(config, ClipConfig):
            target = start_vision(folder, config, shapes, source)
        else:
            name = ecg_name(config)
            target = start_ecg(folder / f"{name}.pt", name, config, shapes, source)
        write_tensors([target], leaves)
