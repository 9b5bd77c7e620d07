"""`gem-jax import`: an official folder → our checkpoint."""

import dataclasses
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from gem_jax.weights.files import Dtype, WeightsError, read_json, require_free

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
    dtype: Dtype = "keep",
    template: str | None = None,
) -> None:
    """Import an official GEM or LLaVA folder, or a LLaMA, Mistral or Qwen2 language model.

    Args:
        source: Folder with config.json, model*.safetensors or pytorch_model*.bin, the tokenizer.
        dest: New folder: our checkpoint with config.json and tokenizer/.
        vision: Folder of the image encoder, instead of the config's mm_vision_tower.
        ecg_encoder: File (.pt, .bin, .safetensors) of an ECG encoder for a LLaVA or PULSE folder.
        ecg_projector: File of its projector. Without it the checkpoint serves `train` alone.
        dtype: What the parameters become; `keep` rounds nothing.
        template: The conversation template (vicuna_v1, qwen_2, ...), instead of the config's.
    """
    # Here, not above: `--help` need not wait for JAX.
    from flax import traverse_util

    from gem_jax import checkpoint
    from gem_jax.templates import TEMPLATES
    from gem_jax.weights.dtypes import retyped
    from gem_jax.weights.model_card import describe
    from gem_jax.weights.progress import nbytes, track
    from gem_jax.weights.read import Added, filled_shapes, leaves, plan_import

    require_free(dest)
    if not (source / "config.json").is_file():
        raise WeightsError(f"{source}: got no config.json, expected the folder of a checkpoint")
    tokenizer = _tokenizer_files(source)
    if ecg_projector and not ecg_encoder:
        raise WeightsError(f"--ecg-projector: got {ecg_projector}, expected --ecg-encoder with it")
    if template is not None and template not in TEMPLATES:
        expected = ", ".join(sorted(TEMPLATES))
        raise WeightsError(f"--template: got {template!r}, expected one of {expected}")
    plan = plan_import(source, Added(vision, ecg_encoder, ecg_projector))
    config = retyped(plan.config, dtype)
    config = dataclasses.replace(config, template=template or config.template)
    plan = dataclasses.replace(plan, config=config)
    shapes = filled_shapes(plan)
    if dest.is_dir():
        dest.rmdir()
    with tempfile.TemporaryDirectory() as folder:
        for path in tokenizer:
            shutil.copyfile(path, Path(folder) / path.name)
        parameters = track(leaves(plan), nbytes(shapes), "import")
        checkpoint.write_model(dest, config, parameters, Path(folder), _origin(source))
    params = traverse_util.unflatten_dict(shapes, sep="/")
    print(f"{dest}: imported {describe(params)}", file=sys.stderr)
    if ecg_encoder and not ecg_projector:
        said = f"{dest}: has no ecg_projector; it serves `gem-jax train --init` alone, whose recipe"
        print(f"{said} names ecg_projector in train.init_parts", file=sys.stderr)


def _origin(source: Path) -> dict[str, Any]:
    """Returns what the checkpoint keeps of its origin: the configs as they were, for export."""
    from gem_jax.weights.layout import layout_of

    origin: dict[str, Any] = {
        "layout": "transformers" if layout_of(source) == "transformers" else "official",
        "name": source.resolve().name,
        "config": read_json(source / "config.json"),
    }
    generation = source / "generation_config.json"
    return origin | ({"generation_config": read_json(generation)} if generation.is_file() else {})


def _tokenizer_files(source: Path) -> list[Path]:
    found = [source / name for name in TOKENIZER_FILES if (source / name).is_file()]
    if not any(path.name in TOKENIZERS for path in found):
        raise WeightsError(f"{source}: got no tokenizer, expected one of {', '.join(TOKENIZERS)}")
    return found
