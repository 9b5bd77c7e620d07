"""`gem-jax import`: an official folder → our checkpoint."""

import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gem_jax.weights.files import Dtype, WeightsError, read_json, require_free

if TYPE_CHECKING:
    from gem_jax.weights.read import Added

TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
TOKENIZERS = ("tokenizer.model", "tokenizer.json", "vocab.json")


def main(
    source: Path,
    dest: Path,
    /,
    *,
    vision: Path | None = None,
    ecg_encoder: Path | None = None,
    ecg_projector: Path | None = None,
    adapter: Path | None = None,
    dtype: Dtype = "keep",
    template: str | None = None,
) -> None:
    """Import a GEM, a LLaVA, a LLaMA, Mistral or Qwen2 language model, or an encoder alone.

    Args:
        source: Folder with config.json, model*.safetensors or pytorch_model*.bin, the tokenizer;
            or the folder of a CLIP, or the file (.pt, .bin, .safetensors) of an ECG encoder.
        dest: New folder: our checkpoint with config.json and, but for an encoder, tokenizer/.
        vision: Folder of the image encoder, instead of the config's mm_vision_tower.
        ecg_encoder: File (.pt, .bin, .safetensors) of an ECG encoder for a LLaVA or PULSE folder.
        ecg_projector: File of its projector. Without it the checkpoint serves `train` alone.
        adapter: Folder of a PEFT adapter (LoRA) of `source`: it is merged in float32. Projectors
            beside it (modules_to_save, LLaVA's non_lora_trainables.bin) take the place of
            `source`'s; a config.json in it counts instead of `source`'s.
        dtype: What the parameters become; `keep` rounds nothing.
        template: The conversation template (vicuna_v1, qwen_2, ...), instead of the config's.
    """
    # Here, not above: `--help` need not wait for JAX.
    from flax import traverse_util

    from gem_jax.weights.model_card import describe
    from gem_jax.weights.read import Added
    from gem_jax.weights.towers import import_tower, is_tower

    require_free(dest)
    if not source.exists():
        raise WeightsError(f"{source}: no such file or folder, expected a checkpoint to read")
    if ecg_projector and not ecg_encoder:
        raise WeightsError(f"--ecg-projector: got {ecg_projector}, expected --ecg-encoder with it")
    added = Added(vision, ecg_encoder, ecg_projector, adapter)
    if not is_tower(source):
        shapes = _import_model(source, dest, added, dtype, template)
    elif added == Added() and template is None:
        shapes = import_tower(source, dest, dtype)
    else:
        raise WeightsError(f"{source}: got an encoder alone, expected no option but --dtype")
    params = traverse_util.unflatten_dict(dict(shapes), sep="/")
    print(f"{dest}: imported {describe(params)}", file=sys.stderr)
    if ecg_encoder and not ecg_projector:
        said = f"{dest}: has no ecg_projector; it serves `gem-jax train --init` alone, whose recipe"
        print(f"{said} names ecg_projector in train.init_parts", file=sys.stderr)


def _import_model(
    source: Path, dest: Path, added: "Added", dtype: Dtype, template: str | None
) -> Mapping[str, Any]:
    """Writes the checkpoint `dest` of a model; returns the shapes of what it holds, by path."""
    from gem_jax import checkpoint
    from gem_jax.templates import TEMPLATES
    from gem_jax.weights.dtypes import retyped
    from gem_jax.weights.progress import nbytes, track
    from gem_jax.weights.read import config_folder, filled_shapes, leaves, plan_import

    if not (source / "config.json").is_file():
        raise WeightsError(f"{source}: got no config.json, expected the folder of a checkpoint")
    tokenizer = _tokenizer_files(source)
    if template is not None and template not in TEMPLATES:
        expected = ", ".join(sorted(TEMPLATES))
        raise WeightsError(f"--template: got {template!r}, expected one of {expected}")
    plan = plan_import(source, added)
    config = retyped(plan.config, dtype)
    config = dataclasses.replace(config, template=template or config.template)
    plan = dataclasses.replace(plan, config=config)
    shapes = filled_shapes(plan)
    with tempfile.TemporaryDirectory() as folder:
        for path in tokenizer:
            shutil.copyfile(path, Path(folder) / path.name)
        parameters = track(leaves(plan), nbytes(shapes), "import")
        if dest.is_dir():
            dest.rmdir()
        origin = _origin(source, config_folder(source, added))
        checkpoint.write_model(dest, config, parameters, Path(folder), origin)
    return shapes


def _origin(source: Path, described: Path) -> dict[str, Any]:
    """Returns what the checkpoint keeps of its origin: the configs as they were, for export."""
    from gem_jax.weights.layout import layout_of

    origin: dict[str, Any] = {
        "layout": "transformers" if layout_of(described) == "transformers" else "official",
        "name": source.resolve().name,
        "config": read_json(described / "config.json"),
    }
    generation = source / "generation_config.json"
    return origin | ({"generation_config": read_json(generation)} if generation.is_file() else {})


def _tokenizer_files(source: Path) -> list[Path]:
    found = [source / name for name in TOKENIZER_FILES if (source / name).is_file()]
    if not any(path.name in TOKENIZERS for path in found):
        raise WeightsError(f"{source}: got no tokenizer, expected one of {', '.join(TOKENIZERS)}")
    return found
