"""`gem-jax import`: an official folder → our checkpoint."""

import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gem_jax.weights.files import Dtype, WeightsError, require_free

if TYPE_CHECKING:
    from gem_jax.weights.read import Added

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
    print(f"{dest}: imported {describe(shapes)}", file=sys.stderr)
    if ecg_encoder and not ecg_projector:
        said = f"{dest}: has no ecg_projector; it serves `gem-jax train --init` alone, whose recipe"
        print(f"{said} names ecg_projector in train.init_parts", file=sys.stderr)


def _import_model(
    source: Path, dest: Path, added: "Added", dtype: Dtype, template: str | None
) -> Mapping[str, Any]:
    """Writes the checkpoint `dest` of a model; returns the shapes of what it holds, by path."""
    from gem_jax import checkpoint
    from gem_jax.templates import TEMPLATES
    from gem_jax.tokenizer import FILES, load_tokenizer
    from gem_jax.tokens import require_template
    from gem_jax.weights.dtypes import retyped
    from gem_jax.weights.progress import nbytes, track
    from gem_jax.weights.read import filled_shapes, leaves, plan_import
    from gem_jax.weights.source import source_of

    if not (source / "config.json").is_file():
        raise WeightsError(f"{source}: got no config.json, expected the folder of a checkpoint")
    _require_tokenizer(source)
    tokenizer = load_tokenizer(source)
    if template is not None:
        if template not in TEMPLATES:
            expected = ", ".join(sorted(TEMPLATES))
            raise WeightsError(f"--template: got {template!r}, expected one of {expected}")
        require_template(tokenizer, template, str(source))
    plan = plan_import(source, added)
    config = retyped(plan.config, dtype)
    config = dataclasses.replace(config, template=template or config.template)
    plan = dataclasses.replace(plan, config=config)
    shapes = filled_shapes(plan)
    with tempfile.TemporaryDirectory() as folder:
        for name in FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, Path(folder) / name)
        parameters = track(leaves(plan), nbytes(shapes), "import")
        if dest.is_dir():
            dest.rmdir()
        checkpoint.write_model(dest, config, parameters, Path(folder), source_of(source, plan))
    return shapes


def _require_tokenizer(source: Path) -> None:
    if not any((source / name).is_file() for name in TOKENIZERS):
        raise WeightsError(f"{source}: got no tokenizer, expected one of {', '.join(TOKENIZERS)}")
