"""The loss on held-out data while a run trains: of the whole and of each task.

A run that is told to end at a step due for evaluation saves it without, and evaluates it when it
goes on. Such a step has its row, but is kept only as one of the last, not as the best.
"""

import functools
import sys
from collections import defaultdict
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gem_jax import log, processes
from gem_jax.config import Config
from gem_jax.data import heldout_batches, heldout_mixture
from gem_jax.models.gem import Batch
from gem_jax.models.pretrain import DenseTargets
from gem_jax.objectives import counts_of, sums_of
from gem_jax.run_folder import refuse_other_data, write_data
from gem_jax.tokenizer import Tokenizer
from gem_jax.trackers import Track

# In the run's folder: what tells whether the held-out sources are the same when it goes on.
HELD_OUT = "heldout_data.json"


def evaluator(
    config: Config, tokenizer: Tokenizer, mesh: Mesh, path: Path, first: int, track: Track
) -> Callable[[int, dict], float | None]:
    """Returns a function of (updates made, parameters) that evaluates them where that is due.

    It returns the loss and adds a row to `path`; None where nothing is due.
    """
    if config.train.eval_every is None:
        return lambda done, params: None
    log.truncate_metrics(path, first + 1)
    # Looked through before the first step, and once.
    opened = heldout_mixture(config)
    refuse_other_data(path.parent, opened, HELD_OUT)
    write_data(path.parent, opened, HELD_OUT)
    place = processes.placement(mesh, config.data.batch_size)
    everywhere = NamedSharding(mesh, P())
    measure = jax.jit(functools.partial(measured, config), out_shardings=everywhere)

    def found(params: dict) -> Iterator[tuple[Any, tuple[str, ...]]]:
        for got in heldout_batches(config, tokenizer, opened):
            yield jax.device_get(measure(params, place(got.batch), place(got.dense))), got.tasks

    def evaluate(done: int, params: dict) -> float | None:
        if not is_due(config, done):
            return None
        row = means(found(params))
        log.append_metrics(path, {"step": done, **row})
        track(done, {f"heldout/{name}": value for name, value in row.items()})
        return row["loss"]

    return evaluate


def is_due(config: Config, done: int) -> bool:
    """Returns whether the recipe evaluates after so many updates."""
    every = config.train.eval_every
    return every is not None and (done % every == 0 or done == config.train.steps)


def is_owed(config: Config, path: Path, first: int) -> bool:
    """Returns whether the run was told to end at `first` before it evaluated that step."""
    lacks = all(row["step"] != first for row in log.read_metrics(path))
    return first > 0 and is_due(config, first) and processes.all_of(lacks)


def measured(config: Config, params: dict, batch: Batch, dense: DenseTargets | None) -> Any:
    """Returns (sum and number of terms of each part, sum and number of labels of each row)."""
    sums = sums_of(config, params, batch, dense)
    return (sums.parts, counts_of(config, batch, dense)), (sums.rows, batch.loss_mask.sum(axis=1))


def means(batches: Iterator[tuple[Any, tuple[str, ...]]]) -> dict[str, float]:
    """Returns the mean over all labels as `loss`, and of each task's as `loss/TASK`.

    In stage 0 `loss` adds up the means of all parts.
    """
    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, float] = defaultdict(float)
    parts: set[str] = set()
    for ((totals, terms), (rows, labels)), tasks in batches:
        parts |= totals.keys()
        for name in totals:
            sums[name] += float(totals[name])
            counts[name] += float(terms[name])
        for task, row, label in zip(tasks, rows, labels, strict=bool(tasks)):
            sums[f"loss/{task}"] += float(row)
            counts[f"loss/{task}"] += float(label)
    each = {name: sums[name] / max(counts[name], 1) for name in sums}
    by_task = {name: each[name] for name in sorted(each.keys() - parts)}
    return {"loss": sum(each[name] for name in parts), **by_task}


def tell_best(path: Path, kept: Container[int]) -> None:
    """Tells stderr which of the checkpoints kept has the best held-out loss, if one has any."""
    rows = [row for row in log.read_metrics(path) if row["step"] in kept]
    if rows and processes.is_first():
        best = min(rows, key=lambda row: row["loss"])
        told = f"best held-out loss {best['loss']:.4f}: checkpoints/{best['step']}"
        print(told, file=sys.stderr)
