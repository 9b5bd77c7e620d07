"""What a run says of each step: its row in metrics.jsonl, fetched late, and the progress line."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from gem_jax import log
from gem_jax.config import Config
from gem_jax.data import TrainBatch, ids_hash
from gem_jax.flops import FROZEN, TRAINED, llm_matmul_weights, step_flops
from gem_jax.objectives import Metrics
from gem_jax.optimizer import schedule


@dataclass(frozen=True)
class Pending:
    """A step that was sent to the device and whose metrics are not fetched yet."""

    step: int
    got: TrainBatch
    began: float
    waited_s: float
    metrics: Metrics


def recorder(
    path: Path, label: str, config: Config, params: dict, first: int
) -> Callable[[Pending], None]:
    """Returns a function that fetches a step's metrics, writes its row and tells the progress.

    Args:
        path: The run's metrics.jsonl.
        label: Names the run on the progress line.
        config: The recipe.
        params: All parameters, or their shapes: for counting FLOPs.
        first: The step that the run begins or goes on with.
    """
    weights = llm_matmul_weights(params)
    passes = TRAINED if "llm" in config.train.trainable else FROZEN
    rates = schedule(config.optimizer, config.train.steps)
    tell = log.progress(label, first, config.train.steps)
    clock = 0.0

    def record(sent: Pending) -> None:
        nonlocal clock
        got = sent.got
        values = {name: float(value) for name, value in jax.device_get(sent.metrics).items()}
        if not np.isfinite(values["loss"]):
            raise FloatingPointError(f"step {sent.step}: the loss is {values['loss']}")
        # From the end of the step before, or from its own beginning when none was under way.
        now = time.perf_counter()
        step_s, clock = now - max(clock, sent.began), now
        work = step_flops(config.model, weights, got.num_tokens, got.squared_lengths, passes)
        row = {
            "step": sent.step,
            **values,
            "learning_rate": float(rates(sent.step)),
            "tokens_per_s": got.num_tokens / step_s,
            "mfu": log.mfu(work, step_s),
            "data_wait": sent.waited_s / step_s,
            "record_ids_hash": ids_hash(got.record_ids),
        }
        if config.data.cut != "refuse":
            row["rows_cut"] = got.rows_cut
        log.append_metrics(path, row)
        tell(sent.step + 1, values["loss"])

    return record
