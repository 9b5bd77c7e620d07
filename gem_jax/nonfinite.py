"""A step whose numbers are not finite: RUN/nonfinite.json, which reproduces it, and what to do."""

import json
from pathlib import Path

from data_prep.files import write_whole
from gem_jax import checkpoint, processes
from gem_jax.config import Config, ConfigError
from gem_jax.record import Pending


def refusal(run_dir: Path, config: Config, sent: Pending, error: FloatingPointError) -> ConfigError:
    """Writes RUN/nonfinite.json, which names the step's records; returns what to tell the user.

    No save may be under way: the step is reproduced from the last one.
    """
    saved = checkpoint.complete_steps(run_dir)
    path = run_dir / "nonfinite.json"
    if processes.is_first():
        write_whole(path, (json.dumps(_origin(config, sent, saved), indent=1) + "\n").encode())
    last = saved[-1] if saved else 0
    return ConfigError(
        f"{error}, expected finite numbers; {path} names its records, and the same command "
        f"reproduces it from step {last}: print the batches from there to it with --inspect "
        f"{sent.step - last + 1}, or lower optimizer.learning_rate in a new --run-dir"
    )


def _origin(config: Config, sent: Pending, saved: list[int]) -> dict:
    """Returns what the step's numbers are and what they follow from."""
    return {
        "step": sent.step,
        "record_ids": list(sent.got.record_ids),
        "metrics": {name: repr(value.tolist()) for name, value in sent.metrics.items()},
        "seed": config.train.seed,
        "data_seed": config.data.seed,
        "checkpoints": saved,
    }
