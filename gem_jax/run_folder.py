"""The files of a run beside its checkpoints: config, data, tokenizer."""

import json
from pathlib import Path
from typing import Any

from data_prep.files import write_whole
from gem_jax import checkpoint, processes
from gem_jax.config import Config, ConfigError, read_json, to_dict
from gem_jax.mixture import Mixture
from gem_jax.tokenizer import Tokenizer, load_tokenizer, save_tokenizer
from gem_jax.tokens import require_template

# What may change when a run goes on: the devices it runs on, and when it saves.
FREE = {
    "mesh": ("data", "fsdp", "tensor"),
    "train": ("checkpoint_every", "checkpoint_minutes", "keep"),
    "data": ("workers", "max_broken"),
}


def metrics_file(run_dir: Path) -> Path:
    """Returns the file with one JSON line a step."""
    return run_dir / "metrics.jsonl"


def heldout_file(run_dir: Path) -> Path:
    """Returns the file with one JSON line an evaluation."""
    return run_dir / "heldout.jsonl"


def tokenizer_of(config: Config, start: checkpoint.Located | None) -> Tokenizer:
    """Returns the recipe's tokenizer, or the start's.

    Raises:
        ConfigError: when neither has one, or the model has fewer rows than it has pieces.
        TokenError: when it lacks a token of the model's template.
    """
    if not config.data.tokenizer and start is None:
        raise ConfigError("data.tokenizer: is empty, expected a folder; or start from --init CKPT")
    folder = start.tokenizer if start and not config.data.tokenizer else Path(config.data.tokenizer)
    tokenizer = load_tokenizer(folder)
    pieces, rows = tokenizer.num_tokens, config.model.llm.vocab_size
    if pieces > rows:
        raise ConfigError(
            f"model.llm.vocab_size: got {rows}, expected at least the {pieces} pieces of {folder}; "
            f"--model.llm.vocab-size {pieces} --train.grow-vocab adds rows to the start's"
        )
    require_template(tokenizer, config.model.template, str(folder))
    return tokenizer


def refuse_another_config(config: Config, run_dir: Path) -> None:
    """Raises ConfigError when the folder is a run's that trains something else."""
    path = run_dir / "config.json"
    found = read_json(path) if path.exists() else None
    if found is not None and _what_is_trained(found) != _what_is_trained(to_dict(config)):
        raise ConfigError(
            f"{path}: is another run's config; name a new --run-dir or train the same recipe"
        )


def refuse_other_data(run_dir: Path, mixture: Mixture) -> None:
    """Raises ConfigError when a source is not what it was when the run began."""
    path = run_dir / "data.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    found = mixture.fingerprints()
    if before is not None and before != found:
        changed = [
            part.path
            for part, was, now in zip(mixture.parts, before, found, strict=True)
            if was != now
        ]
        raise ConfigError(
            f"{path}: {', '.join(changed)} changed since the run began, expected the same records: "
            "it could not go on as it was; put them back, or name a new --run-dir"
        )


def write_data(run_dir: Path, mixture: Mixture) -> None:
    """Writes data.json: what tells whether the sources are the same when the run goes on."""
    if processes.is_first():
        write_whole(run_dir / "data.json", json.dumps(mixture.fingerprints()).encode())


def write_run(
    config: Config, run_dir: Path, tokenizer: Tokenizer, start: checkpoint.Located | None
) -> None:
    """Writes config.json, with the files that the start was imported from, and the tokenizer.

    A run that goes on has its tokenizer: it may be read from there alone, and half of it, where the
    run is killed just then, would be all that is left.
    """
    source = checkpoint.read_source(start) if start else None
    kept = {} if source is None else {"source": source}
    if processes.is_first():
        checkpoint.write_config(run_dir, to_dict(config) | kept)
        if start is None or start.root != run_dir.absolute():
            save_tokenizer(tokenizer, run_dir / "tokenizer", config.model.max_length)


def _what_is_trained(values: dict[str, Any]) -> dict[str, Any]:
    """Returns a config's values without those that may change, and without the start's origin."""
    kept = {name: value for name, value in values.items() if name != "source"}
    for section, names in FREE.items():
        fields = kept.get(section)
        if isinstance(fields, dict):
            kept[section] = {name: value for name, value in fields.items() if name not in names}
    return kept
