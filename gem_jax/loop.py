"""The loop of a run: step after step, saved, evaluated and recorded on the way.

The device works on a step while the next batch is made and the last step's metrics are written.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from gem_jax import log, processes, resume, signals
from gem_jax.config import Config
from gem_jax.data import train_batches
from gem_jax.heldout import evaluator, is_due
from gem_jax.mixture import Mixture
from gem_jax.optimizer import merge
from gem_jax.profiling import profiled
from gem_jax.record import Pending, recorder
from gem_jax.run_folder import heldout_file, metrics_file, nonfinite
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
        signals.wishes() as came,
        tracked(this.services, this.folder, config, first) as track,
        profiled(this.folder / "profile", first, this.profile) as profile,
    ):
        record = _recorded(this, state, first, track)
        heldout = (this.mesh, heldout_file(this.folder))
        evaluate = evaluator(config, this.tokenizer, *heldout, first, track)
        due, wish, waited_s = _due(this, came), signals.NOTHING, 0.0
        for step in range(first, steps):
            profile(step, state)
            began = time.perf_counter()
            got = next(batches)
            # Waiting for data while the device still works costs nothing and is not counted.
            idle = pending is None or pending.metrics["loss"].is_ready()  # type: ignore[attr-defined]
            waited_s += (time.perf_counter() - began) * idle
            state, metrics = step_fn(state, frozen, place(got.batch), place(got.dense))
            if pending:  # the last step's metrics are fetched while this one runs
                # The time of its row ends here, and what was waited for within it.
                record(dataclasses.replace(pending, waited_s=waited_s))
                waited_s = 0.0
            pending = Pending(step, got, began, waited_s, metrics)
            wish = due(step + 1)
            if wish:
                # First the row, then the checkpoint: a run that goes on behind it lacks no row.
                record(pending)
                pending, waited_s = None, 0.0
                params = merge(state.moving, frozen)
                loss = evaluate(step + 1, params) if wish == signals.SAVE else None
                resume.save(this.writer, step + 1, state, frozen, loss)
            if wish > signals.SAVE:
                break
    signals.end(wish)


def _compiled(this: Run, state: TrainState) -> Callable[..., Any]:
    """Returns the step as one program: the state stays where it lies, metrics come to everyone."""
    step = functools.partial(train_step, config=this.config, tx=this.tx)
    where = jax.tree.map(lambda leaf: leaf.sharding, state)
    everywhere = NamedSharding(this.mesh, P())
    return jax.jit(step, out_shardings=(where, everywhere), donate_argnums=0)


def _recorded(this: Run, state: TrainState, first: int, track: Track) -> Callable[[Pending], None]:
    """Returns a function that records a step, or ends the run at a loss that is no number."""
    params = merge(state.moving, this.frozen)
    record = recorder(metrics_file(this.folder), this.label, this.config, params, first, track)

    def checked(sent: Pending) -> None:
        try:
            record(sent)
        except FloatingPointError as error:
            nonfinite(this.folder, this.config, sent, error)

    return checked


def _due(this: Run, came: list[int]) -> Callable[[int], int]:
    """Returns a function of the steps done that returns what is due: nothing, to save, to end."""
    train, agree = this.config.train, processes.agreement(this.mesh)
    period_s = 60 * (train.checkpoint_minutes or float("inf"))
    saved = time.monotonic()

    def due(done: int) -> int:
        nonlocal saved
        wish, now = signals.take(came), time.monotonic()
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
