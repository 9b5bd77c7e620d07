"""The files of a run beside its checkpoints: config, data, tokenizer."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

from data_prep.files import write_whole
from gem_jax import checkpoint, processes
from gem_jax.config import Config, ConfigError, from_dict, to_dict
from gem_jax.dry_run import fields
from gem_jax.mixture import Mixture
from gem_jax.tokenizer import SETTINGS, Tokenizer, load_tokenizer, save_tokenizer
from gem_jax.tokens import require_template

# What may change when a run goes on: the devices it runs on, how they compute the same, when it
# saves, and where what it reads lies.
FREE = {
    *("mesh.data", "mesh.fsdp", "mesh.tensor"),
    *("model.llm.remat", "model.llm.attention", "train.loss_chunk"),
    *("train.checkpoint_every", "train.checkpoint_minutes", "train.keep"),
    *("data.workers", "data.max_broken", "data.tokenizer"),
}
# Of these only whether they are named: what lies there tells `Mixture.fingerprints`.
PLACES = re.compile(r"data\.(shards|(mixture|held_out)\.\d+\.(path|ecgs|images))")


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
    if not path.exists():
        return
    found = {name: value for name, value in _known(path).items() if name != "source"}
    began, now = map(_what_is_trained, (from_dict(Config, found, str(path)), config))
    told = [
        f"{name}: got {now.get(name, 'none')}, expected {began.get(name, 'none')}"
        for name in began | now
        if began.get(name) != now.get(name)
    ]
    if told:
        raise ConfigError(
            f"{path}: is another run's config: {'; '.join(told)}; name a new --run-dir, or train "
            "the same recipe"
        )
    _refuse_another_tokenizer(config, run_dir)


def _refuse_another_tokenizer(config: Config, run_dir: Path) -> None:
    # Before its first checkpoint half of a run's tokenizer may be there, and is written again.
    if not config.data.tokenizer or not checkpoint.complete_steps(run_dir):
        return
    kept = run_dir / "tokenizer"
    if _told_by(load_tokenizer(kept)) != _told_by(load_tokenizer(Path(config.data.tokenizer))):
        raise ConfigError(
            f"data.tokenizer: got {config.data.tokenizer}, expected the files of {kept}, which the "
            "run began with; give that folder"
        )


def _told_by(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns a tokenizer's files, without the length that `save_tokenizer` writes."""
    settings = {**json.loads(tokenizer.files.get(SETTINGS, b"{}")), "model_max_length": None}
    return {**tokenizer.files, SETTINGS: settings}


def refuse_other_data(run_dir: Path, mixture: Mixture, name: str = "data.json") -> None:
    """Raises ConfigError when a source is not what it was when the run began."""
    path = run_dir / name
    if not path.exists():
        return
    before, found = _known(path, list), mixture.fingerprints()
    changed = [
        part.path
        for part, was, now in itertools.zip_longest(mixture.parts, before, found)
        # An earlier version's tells less.
        if part and not now.startswith(str(was))
    ]
    if changed:
        raise ConfigError(
            f"{path}: {', '.join(changed)} changed since the run began, expected the same records: "
            "it could not go on as it was; put them back, or name a new --run-dir"
        )


def write_data(run_dir: Path, mixture: Mixture, name: str = "data.json") -> None:
    """Writes data.json: what tells whether the sources are the same when the run goes on."""
    if processes.is_first():
        write_whole(run_dir / name, json.dumps(mixture.fingerprints()).encode())


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


def _what_is_trained(config: Config) -> dict[str, str]:
    """Returns a config's fields as text, without those that may change."""
    every = fields(from_dict(Config, to_dict(config), "config"))
    # The mean over all tokens is the same however a batch is cut; that of micro-batches is not.
    free = FREE | ({"train.accumulate"} if config.train.loss_weighting == "token" else set())
    kept = {name: value for name, value in every.items() if name not in free}
    return {
        name: repr("a place" if value and PLACES.fullmatch(name) else value)
        for name, value in kept.items()
    }


def _known(path: Path, kind: type = dict) -> Any:
    """Returns the JSON that a run keeps of itself; ConfigError when it is damaged."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        found = error
    if not isinstance(found, kind):
        told = found if isinstance(found, ValueError) else type(found).__name__
        raise ConfigError(
            f"{path}: got {told}, expected the JSON that the run wrote; put a copy back, or begin "
            "anew with another --run-dir"
        )
    return found
