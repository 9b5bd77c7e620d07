"""Trains a recipe: gem-jax train RECIPE.py:function --run-dir DIR [--init CKPT] [--section.field …]

A run starts from its own last checkpoint; else from --init; else from random parameters. What the
start lacks is initialised only if the recipe names it. Ctrl-C and SIGTERM save before they end.
RECIPE.py:function --help lists the fields of the recipe.
"""

import dataclasses
import functools
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import optax

from gem_jax import checkpoint, log, sharding, usage
from gem_jax.config import Config, ConfigError, read_json, to_dict
from gem_jax.data import train_batches, train_shards
from gem_jax.inputs import require_sight
from gem_jax.optimizer import merge, optimizer, split
from gem_jax.record import Pending, recorder
from gem_jax.signals import stop_signals
from gem_jax.start import initial_params, param_shapes
from gem_jax.step import TrainState, fresh_state, train_step
from gem_jax.tokenizer import Tokenizer, load_tokenizer, save_tokenizer
from gem_jax.tokens import require_template


@dataclass(frozen=True)
class Run:
    """What stays: the recipe, where the run lies, and what its steps are made of."""

    config: Config
    folder: Path
    label: str
    tokenizer: Tokenizer
    tx: optax.GradientTransformation
    mesh: jax.sharding.Mesh
    writer: Any
    frozen: dict

    @property
    def metrics_file(self) -> Path:
        """One JSON line a step."""
        return self.folder / "metrics.jsonl"


def run(config: Config, run_dir: Path, init: Path | None = None, label: str = "train") -> Path:
    """Trains to the recipe's last step, or goes on from where the run stopped; returns `run_dir`.

    Raises:
        SystemExit: 143, after a SIGTERM at which the state was saved.
        KeyboardInterrupt: after a Ctrl-C at which the state was saved.
    """
    _refuse_another_config(config, run_dir)
    own = bool(checkpoint.complete_steps(run_dir))
    source = run_dir if own else init
    start = checkpoint.locate_any(source) if source else None
    tokenizer = _tokenizer(config, start)
    # What cannot be trained is refused before anything is written.
    train_shards(config)
    if config.train.objective == "instruct":
        require_sight(config.model)
    mesh = sharding.make_mesh(config.mesh)
    tx = optimizer(config.optimizer, config.train.steps)
    with jax.set_mesh(mesh):
        begun = None if own else begin(config, start, tx, mesh)
        _write_run(config, run_dir, tokenizer, start)
        with checkpoint.checkpointer(run_dir, config.train.keep) as writer:
            state, frozen = begun or restore(writer, config, tx, mesh)
            _loop(Run(config, run_dir, label, tokenizer, tx, mesh, writer, frozen), state)
    return run_dir


def begin(
    config: Config,
    start: checkpoint.Located | None,
    tx: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
) -> tuple[TrainState, dict]:
    """Returns (state, frozen) before the first step, placed on the mesh."""
    params = initial_params(config, checkpoint.load_tree(start) if start else {})
    params = jax.device_put(params, sharding.param_shardings(mesh, params))
    moving, frozen = split(params, config.train.trainable)
    fresh = functools.partial(fresh_state, tx)
    where = sharding.state_shardings(mesh, jax.eval_shape(fresh, moving), moving)
    return jax.jit(fresh, out_shardings=where, donate_argnums=0)(moving), frozen


def saved_state(state: TrainState, frozen: dict) -> dict[str, Any]:
    """Returns what a step of the run's checkpoints holds."""
    return {
        "params": merge(state.moving, frozen),
        "optimizer": {"state": state.opt_state, "step": state.step},
    }


def restore(
    writer: Any, config: Config, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh
) -> tuple[TrainState, dict]:
    """Returns (state, frozen) of the run's last complete step, placed on the mesh."""
    shapes = param_shapes(config)
    moving, frozen = split(shapes, config.train.trainable)
    state = jax.eval_shape(functools.partial(fresh_state, tx), moving)
    target = saved_state(state, frozen)
    placed = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        target,
        sharding.state_shardings(mesh, target, shapes),
    )
    saved = writer.load_checkpointables(None, placed)
    moving, frozen = split(saved["params"], config.train.trainable)
    return TrainState(saved["optimizer"]["step"], moving, saved["optimizer"]["state"]), frozen


def _loop(this: Run, state: TrainState) -> None:
    """Steps to the end, or to the signal that stops it; saves on the way and at the end."""
    config, frozen = this.config, this.frozen
    first, steps = int(state.step), config.train.steps
    log.truncate_metrics(this.metrics_file, first)
    step_fn = jax.jit(functools.partial(train_step, config=config, tx=this.tx), donate_argnums=0)
    place = functools.partial(jax.device_put, device=sharding.batch_sharding(this.mesh))
    batches = train_batches(config, this.tokenizer, first)
    record = recorder(this.metrics_file, this.label, config, merge(state.moving, frozen), first)
    pending: Pending | None = None
    with stop_signals() as stopped:
        for step in range(first, steps):
            began = time.perf_counter()
            got = next(batches)
            # Waiting for data while the device still works costs nothing and is not counted.
            idle = pending is None or pending.metrics["loss"].is_ready()  # type: ignore[attr-defined]
            waited_s = (time.perf_counter() - began) * idle
            state, metrics = step_fn(state, frozen, place(got.batch), place(got.dense))
            if pending:  # the last step's metrics are fetched while this one runs
                record(pending)
            pending = Pending(step, got, began, waited_s, metrics)
            ending = bool(stopped)
            due = (step + 1) % config.train.checkpoint_every == 0 or step + 1 == steps
            if due or ending:
                # First the row, then the checkpoint: a run that goes on behind it lacks no row.
                record(pending)
                pending = None
                this.writer.save_checkpointables(step + 1, saved_state(state, frozen))
            if ending:
                break
    if stopped and stopped[0] == signal.SIGTERM:
        raise SystemExit(143)
    if stopped:
        raise KeyboardInterrupt


def _tokenizer(config: Config, start: checkpoint.Located | None) -> Tokenizer:
    if not config.data.tokenizer and start is None:
        raise ConfigError("data.tokenizer: is empty, expected a folder; or start from --init CKPT")
    folder = start.tokenizer if start and not config.data.tokenizer else Path(config.data.tokenizer)
    tokenizer = load_tokenizer(folder)
    pieces, rows = tokenizer.num_tokens, config.model.llm.vocab_size
    if pieces > rows:
        raise ConfigError(
            f"model.llm.vocab_size: got {rows}, expected at least the {pieces} pieces of {folder}"
        )
    require_template(tokenizer, config.model.template, str(folder))
    return tokenizer


def _refuse_another_config(config: Config, run_dir: Path) -> None:
    path = run_dir / "config.json"
    found = read_json(path) if path.exists() else None
    # Where its start was imported from is no part of what it trains.
    if found is not None and {**found, "source": None} != {**to_dict(config), "source": None}:
        raise ConfigError(
            f"{path}: is another run's config; name a new --run-dir or train the same recipe"
        )


def _write_run(
    config: Config, run_dir: Path, tokenizer: Tokenizer, start: checkpoint.Located | None
) -> None:
    """Writes config.json, with the files that the start was imported from, and the tokenizer."""
    source = checkpoint.read_source(start) if start else None
    kept = {} if source is None else {"source": source}
    if jax.process_index() == 0:
        checkpoint.write_config(run_dir, to_dict(config) | kept)
        save_tokenizer(tokenizer, run_dir / "tokenizer", config.model.max_length)


def cli(args: list[str]) -> int:
    """Returns the exit status of `gem-jax train ARGS`."""
    import tyro

    from gem_jax.recipes import load_recipe

    if not args or args[0].startswith("-"):
        raise ConfigError(f"got {args[:1]}, expected RECIPE.py:function first")
    fields: list[tuple] = [
        ("run_dir", Path),
        (
            "config",
            Annotated[Config, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands],
            load_recipe(args[0]),
        ),
        ("init", Path | None, None),
    ]
    arguments: Any = dataclasses.make_dataclass("Arguments", fields)
    given: Any = usage.read(arguments, args[1:], f"gem-jax train {args[0]}")
    print(run(given.config, given.run_dir, given.init))
    return 0
