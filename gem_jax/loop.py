"""The loop of a run: step after step, saved, evaluated and recorded on the way.

The device works on a step while the next batch is made and the last step's metrics are written.
"""

import contextlib
import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from gem_jax import log, nonfinite, processes, resume, signals
from gem_jax.config import Config
from gem_jax.data import train_batches
from gem_jax.heldout import evaluator, is_due, is_owed
from gem_jax.mixture import Mixture
from gem_jax.objectives import Metrics
from gem_jax.optimizer import merge
from gem_jax.profiling import profiled
from gem_jax.record import Pending, recorder
from gem_jax.run_folder import heldout_file, metrics_file
from gem_jax.step import TrainState, train_step
from gem_jax.tokenizer import Tokenizer
from gem_jax.trackers import Service, Track, tracked


@dataclass(frozen=True)
class Run:
    """What stays: the recipe, where the run lies, and what its steps are made of."""

    config: Config
    folder: Path
    label: str
    services: tuple[Service, ...]
    profile: int
    tokenizer: Tokenizer
    mixture: Mixture
    tx: optax.GradientTransformation
    mesh: jax.sharding.Mesh
    writer: Any
    frozen: dict
    came: list[int]  # see signals.wishes


def loop(this: Run, state: TrainState) -> None:
    """Steps to the end, or to the signal that stops it; saves on the way and at the end."""
    config, frozen = this.config, this.frozen
    first, steps = int(state.step), config.train.steps
    log.truncate_metrics(metrics_file(this.folder), first)
    step_fn = _compiled(this, state)
    place = processes.placement(this.mesh, config.data.batch_size)
    made: Any = train_batches(config, this.tokenizer, first, this.mixture)
    pending: Pending | None = None
    with (
        contextlib.closing(made) as batches,
        tracked(this.services, this.folder, config, first) as track,
        profiled(this.folder / "profile", first, this.profile) as profile,
        ThreadPoolExecutor(1) as watcher,
    ):
        record = _recorded(this, state, first, track)
        evaluate = _evaluator(this, state, first, track)
        due, wish = _due(this), signals.NOTHING
        since = time.perf_counter()
        for step in range(first, steps):
            profile(step, state)
            asked = time.perf_counter()
            got = next(batches)
            arrived = time.perf_counter()
            state, metrics = step_fn(state, frozen, place(got.batch), place(got.dense))
            ended = watcher.submit(_ended, metrics).result
            if pending:  # the last step's metrics are fetched while this one runs
                record(pending)
            pending = Pending(step, got, since, asked, arrived, metrics, ended)
            wish = due(step + 1)
            if wish:
                # First the row, then the checkpoint: a run that goes on behind it lacks no row, and
                # what came of a step whose numbers are not finite is never saved.
                record(pending)
                pending = None
                # An evaluation that is due waits for the run to go on: a scheduler soon kills.
                params = merge(state.moving, frozen)
                loss = evaluate(step + 1, params) if wish == signals.SAVE else None
                resume.save(this.writer, step + 1, state, frozen, loss)
                since = time.perf_counter()
            if wish > signals.SAVE:
                break
    signals.end(wish)


def _compiled(this: Run, state: TrainState) -> Callable[..., Any]:
    """Returns the step as one program: the state stays where it lies, metrics come to everyone."""
    step = functools.partial(train_step, config=this.config, tx=this.tx)
    where = jax.tree.map(lambda leaf: leaf.sharding, state)
    everywhere = NamedSharding(this.mesh, P())
    return jax.jit(step, out_shardings=(where, everywhere), donate_argnums=0)


def _ended(metrics: Metrics) -> float:
    """Returns when the device had made them."""
    jax.block_until_ready(metrics)
    return time.perf_counter()


def _evaluator(
    this: Run, state: TrainState, first: int, track: Track
) -> Callable[[int, dict], float | None]:
    """Returns the run's `heldout.evaluator`; a step that is still owed is evaluated by then."""
    path = heldout_file(this.folder)
    evaluate = evaluator(this.config, this.tokenizer, this.mesh, path, first, track)
    if is_owed(this.config, path, first):
        evaluate(first, merge(state.moving, this.frozen))
    return evaluate


def _recorded(this: Run, state: TrainState, first: int, track: Track) -> Callable[[Pending], None]:
    """Returns a function that records a step, or ends the run at a number that is not finite."""
    params = merge(state.moving, this.frozen)
    record = recorder(metrics_file(this.folder), this.label, this.config, params, first, track)

    def checked(sent: Pending) -> None:
        try:
            record(sent)
        except FloatingPointError as error:
            this.writer.wait()
            raise nonfinite.refusal(this.folder, this.config, sent, error) from error

    return checked


def _due(this: Run) -> Callable[[int], int]:
    """Returns a function of the steps done that returns what is due: nothing, to save, to end."""
    train, agree = this.config.train, processes.agreement(this.mesh)
    period_s = 60 * (train.checkpoint_minutes or float("inf"))
    saved = time.monotonic()

    def due(done: int) -> int:
        nonlocal saved
        wish, now = signals.take(this.came), time.monotonic()
        # One clock counts: those of other processes go differently.
        if processes.is_first() and now - saved >= period_s:
            wish, saved = max(wish, signals.SAVE), now
        wish = agree(wish)
        if done % train.checkpoint_every == 0 or done == train.steps or is_due(this.config, done):
            wish = max(wish, signals.SAVE)
        if wish:
            saved = now
        return wish

    return due
