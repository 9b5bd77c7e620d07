"""`gem-jax import`: an official folder → our checkpoint."""

import shutil
import sys
import tempfile
from pathlib import Path

from gem_jax.weights.files import WeightsError, require_free

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
) -> None:
    """Import an official GEM or LLaVA folder, or a LLaMA, Mistral or Qwen2 language model.

    Args:
        source: Folder with config.json, model*.safetensors or pytorch_model*.bin, the tokenizer.
        dest: New folder: our checkpoint with config.json and tokenizer/.
        vision: Folder of the image encoder, instead of the config's mm_vision_tower.
        ecg_encoder: File (.pt, .bin, .safetensors) of an ECG encoder for a LLaVA or PULSE folder.
        ecg_projector: File of its projector. Without it the checkpoint serves `train` alone.
    """
    # Here, not above: `--help` need not wait for JAX.
    from gem_jax import checkpoint
    from gem_jax.weights.model_card import describe
    from gem_jax.weights.read import Added, read_with

    require_free(dest)
    if not (source / "config.json").is_file():
        raise WeightsError(f"{source}: got no config.json, expected the folder of a checkpoint")
    tokenizer = _tokenizer_files(source)
    if ecg_projector and not ecg_encoder:
        raise WeightsError(f"--ecg-projector: got {ecg_projector}, expected --ecg-encoder with it")
    config, params = read_with(source, Added(vision, ecg_encoder, ecg_projector))
    if dest.is_dir():
        dest.rmdir()
    with tempfile.TemporaryDirectory() as folder:
        for path in tokenizer:
            shutil.copyfile(path, Path(folder) / path.name)
        origin = {"layout": "official", "name": source.resolve().name}
        checkpoint.save_model(dest, config, params, Path(folder), origin)
    print(f"{dest}: imported {describe(params)}", file=sys.stderr)
    if ecg_encoder and not ecg_projector:
        said = f"{dest}: has no ecg_projector; it serves `gem-jax train --init` alone, whose recipe"
        print(f"{said} names ecg_projector in train.init_parts", file=sys.stderr)


def _tokenizer_files(source: Path) -> list[Path]:
    found = [source / name for name in TOKENIZER_FILES if (source / name).is_file()]
    if not any(path.name in TOKENIZERS for path in found):
        raise WeightsError(f"{source}: got no tokenizer, expected one of {', '.join(TOKENIZERS)}")
    return found
