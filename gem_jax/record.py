"""What a run says of each step: its row for metrics.jsonl and trackers, fetched late; progress."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gem_jax import log
from gem_jax.config import Config, OptimizerConfig
from gem_jax.data import TrainBatch, ids_hash
from gem_jax.flops import formula, llm_matmul_weights, passes, step_flops
from gem_jax.objectives import Metrics
from gem_jax.optimizer import schedule
from gem_jax.trackers import Track

ROWS = ("row_loss", "row_labels")


@dataclass(frozen=True)
class Pending:
    """A step that was sent to the device and whose metrics are not fetched yet.

    Its times are of one clock, in s: `since` when the run began or had saved last, when its batch
    was `asked` for and had `arrived`; `ended` waits for the device and returns when it was done.
    """

    step: int
    got: TrainBatch
    since: float
    asked: float
    arrived: float
    metrics: Metrics
    ended: Callable[[], float]


def recorder(
    path: Path,
    label: str,
    config: Config,
    params: dict,
    first: int,
    track: Track | None = None,
) -> Callable[[Pending], None]:
    """Returns a function that fetches a step's metrics, writes its row and tells the progress.

    A row's time goes from the end of the step before to its own; one that saved in between counts
    from the end of the save. A number that is not finite raises FloatingPointError, and no row is
    written.

    Args:
        path: The run's metrics.jsonl.
        label: Names the run on the progress line.
        config: The recipe.
        params: All parameters, or their shapes: for counting FLOPs.
        first: The step that the run begins or goes on with.
        track: Takes a step's numbers elsewhere, see `gem_jax.trackers`.
    """
    describe = _describer(config, params)
    tell = log.progress(label, first, config.train.steps)
    clock = 0.0

    def record(sent: Pending) -> None:
        nonlocal clock
        values = scalars(jax.device_get(sent.metrics), sent.got.tasks)
        require_finite(sent.step, values)
        # The end of the step before; a save between the two is nobody's time.
        began, clock = max(clock, sent.since), sent.ended()
        row = {"step": sent.step, **values, **describe(sent, began, clock)}
        log.append_metrics(path, row)
        if track is not None:
            track(sent.step, numbers(row))
        tell(sent.step + 1, row)

    return record


def _describer(config: Config, params: dict) -> Callable[[Pending, float, float], dict[str, Any]]:
    """Returns a function of (step, when it began, when it ended) that returns its row's rest."""
    weights, k = llm_matmul_weights(params), passes(config, params)
    rates = schedule(config.optimizer, config.train.steps)
    log.tell_formula(formula(config.model, weights, k))

    def describe(sent: Pending, began: float, ended: float) -> dict[str, Any]:
        got, step_s = sent.got, ended - began
        work = step_flops(config.model, weights, got.num_tokens, got.squared_lengths, k)
        # Waiting for data while the device works on the step before costs nothing.
        waited_s = max(sent.arrived - max(sent.asked, began), 0.0)
        row = {
            **learning_rates(config.optimizer, float(rates(sent.step))),
            "tokens_per_s": got.num_tokens / step_s,
            "mfu": log.mfu(work, step_s),
            "data_wait": waited_s / step_s,
            "record_ids_hash": ids_hash(got.record_ids),
        }
        if config.data.cut != "refuse":
            row["rows_cut"] = got.rows_cut
        if got.skipped:
            row["records_skipped"] = got.skipped
        return row

    return describe


def require_finite(step: int, values: Mapping[str, float]) -> None:
    """Raises FloatingPointError that names each of a step's numbers that is not finite."""
    wrong = [f"{name} is {value}" for name, value in values.items() if not np.isfinite(value)]
    if wrong:
        raise FloatingPointError(f"step {step}: {', '.join(wrong)}")


def learning_rates(config: OptimizerConfig, rate: float) -> dict[str, float]:
    """Returns the step's rate, and that of each set which has its own."""
    share = rate / config.learning_rate
    own = {f"learning_rate/{name}": peak * share for name, peak in config.learning_rates}
    return {"learning_rate": rate, **own}


def scalars(metrics: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, float]:
    """Returns a step's metrics as numbers; those of rows become the mean loss of each task.

    Args:
        metrics: As the step gave them; `row_loss` and `row_labels` have an entry for every row,
            the sum of its labels' losses and their number.
        tasks: Each row's task; empty where the run has only one.
    """
    rows = {name: np.asarray(metrics[name]) for name in ROWS if name in metrics}
    found = {name: float(value) for name, value in metrics.items() if name not in rows}
    for task in sorted(set(tasks)) if rows else ():
        own = np.array([each == task for each in tasks])
        labels = rows["row_labels"][own].sum()
        if labels:
            found[f"loss/{task}"] = float(rows["row_loss"][own].sum() / labels)
    return found


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Returns what of a row is a number to be drawn over the steps."""
    return {
        name: value
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float)
    }
