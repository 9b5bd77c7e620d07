"""The training loop: restore, step, log, save. `gem-jax train RECIPE.py:function --run-dir DIR`.

A run starts from its own last checkpoint; else from `--init`; else from random parameters. What
the start lacks is initialised only if the recipe names it.
"""

import dataclasses
import functools
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Float
from tokenizers import Tokenizer

from gem_jax import checkpoint, flops, log, sharding
from gem_jax.config import Config, ConfigError, to_dict
from gem_jax.data import TrainBatch, ids_hash, train_batches
from gem_jax.models.gem import Batch, Gem, abstract_batch
from gem_jax.models.pretrain import DenseTargets, Pretrain, dense_loss
from gem_jax.optimizer import flat, merge, optimizer, schedule, split
from gem_jax.tokens import load_tokenizer, save_tokenizer

Metrics = dict[str, jax.Array]


@struct.dataclass
class TrainState:
    """What moves; the frozen half of the parameters is an argument of its own."""

    step: jax.Array
    moving: dict
    opt_state: optax.OptState


def text_loss(logits: Float[Array, "B T V"], batch: Batch) -> Float[Array, ""]:
    """Returns the mean cross entropy of the tokens that carry loss; 0 when none does."""
    each = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
    return (each * batch.loss_mask).sum() / jnp.maximum(batch.loss_mask.sum(), 1)


def instruct_loss(config: Config, params: dict, batch: Batch, _) -> tuple[jax.Array, Metrics]:
    """Returns (loss of the answers, no parts): stages 1 and 2."""
    return text_loss(Gem(config.model).apply({"params": params}, batch), batch), {}


def pretrain_loss(
    config: Config, params: dict, batch: Batch, dense: DenseTargets
) -> tuple[jax.Array, Metrics]:
    """Returns (sum of the parts, each part): stage 0, towers and language model side by side."""
    said, logits = Pretrain(config.model).apply({"params": params}, batch)
    parts = dense_loss(said, dense) | {"text": text_loss(logits, batch)}
    total = jnp.stack(list(parts.values())).sum()
    return total, {f"loss_{name}": part for name, part in parts.items()}


LOSSES: dict[str, Callable] = {"instruct": instruct_loss, "pretrain": pretrain_loss}


def train_step(
    state: TrainState,
    frozen: dict,
    batch: Batch,
    dense: DenseTargets | None,
    *,
    config: Config,
    tx: optax.GradientTransformation,
) -> tuple[TrainState, Metrics]:
    """Returns the state after one update, and the metrics of the parameters before it."""

    def loss_fn(moving: dict) -> tuple[jax.Array, Metrics]:
        return LOSSES[config.train.objective](config, merge(moving, frozen), batch, dense)

    (loss, parts), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.moving)
    updates, opt_state = tx.update(grads, state.opt_state, state.moving)
    moving = optax.apply_updates(state.moving, updates)
    metrics = {"loss": loss, "grad_norm": optax.global_norm(grads), **parts}
    return TrainState(state.step + 1, moving, opt_state), metrics


def model_of(config: Config) -> Gem | Pretrain:
    """Returns the module that the objective trains."""
    return {"instruct": Gem, "pretrain": Pretrain}[config.train.objective](config.model)


def initial_params(config: Config, start: dict) -> dict:
    """Returns the whole tree: `start`'s parts, and at random those that the recipe names.

    ConfigError when the start lacks a part that the recipe does not name, names one that is
    there, or has one of another shape. Parts that the model has not are left behind.
    """
    model = model_of(config)
    batch = abstract_batch(config.model, 1, config.data.length)
    key = jax.random.key(config.train.seed)
    shapes = jax.eval_shape(model.init, key, batch)["params"]
    lacking = set(shapes) - set(start)
    if lacking != set(config.train.init_parts):
        raise ConfigError(
            f"train.init_parts: got {sorted(config.train.init_parts)}, expected what the start "
            f"lacks: {sorted(lacking)}; give --init or name them in the recipe"
        )
    wrong = [
        f"{path}: {flat(start)[path].shape} instead of {leaf.shape}"
        for path, leaf in flat({part: shapes[part] for part in shapes if part in start}).items()
        if path not in flat(start) or flat(start)[path].shape != leaf.shape
    ]
    if wrong:
        raise ConfigError(f"--init: does not fit the recipe's model: {'; '.join(wrong)}")
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), batch)
    made = jax.jit(model.init)(key, empty)["params"] if lacking else {}
    return {part: made[part] if part in lacking else start[part] for part in shapes}


def saved_state(state: TrainState, frozen: dict) -> dict[str, Any]:
    """Returns what a step of the run's checkpoints holds."""
    return {
        "params": merge(state.moving, frozen),
        "optimizer": {"state": state.opt_state, "step": state.step},
    }


def restore(writer, state: TrainState, frozen: dict) -> tuple[TrainState, dict]:
    """Returns (state, frozen) of the run's last complete step."""
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
        saved_state(state, frozen),
    )
    saved = writer.load_checkpointables(None, target)
    params, moved = saved["params"], saved["optimizer"]
    moving = {part: params[part] for part in state.moving}
    kept = {part: params[part] for part in frozen}
    return TrainState(moved["step"], moving, moved["state"]), kept


def run(config: Config, run_dir: Path, init: Path | None = None, label: str = "train") -> Path:
    """Trains to the recipe's last step, or goes on from where the run stopped; returns `run_dir`.

    Raises:
        SystemExit: 143, after a SIGTERM at which the state was saved.
        KeyboardInterrupt: after a Ctrl-C at which the state was saved.
    """
    start = checkpoint.locate(init) if init else None
    tokenizer = _tokenizer(config, start)
    _write_run(config, run_dir, tokenizer)
    mesh = sharding.make_mesh(config.mesh)
    tx = optimizer(config.optimizer, config.train.steps)
    with jax.set_mesh(mesh), checkpoint.checkpointer(run_dir, config.train.keep) as writer:
        params = initial_params(config, checkpoint.load_tree(start) if start else {})
        params = jax.device_put(params, sharding.param_shardings(mesh, params))
        moving, frozen = split(params, config.train.trainable)
        opt_state = jax.jit(tx.init)(moving)
        state = TrainState(jnp.zeros((), jnp.int32), moving, opt_state)
        if checkpoint.complete_steps(run_dir):
            state, frozen = restore(writer, state, frozen)
        _loop(config, run_dir, writer, tokenizer, tx, mesh, state, frozen, label)
    return run_dir


def _loop(config, run_dir, writer, tokenizer, tx, mesh, state, frozen, label) -> None:
    first, steps = int(state.step), config.train.steps
    metrics_file = run_dir / "metrics.jsonl"
    log.truncate_metrics(metrics_file, first)
    step_fn = jax.jit(functools.partial(train_step, config=config, tx=tx), donate_argnums=0)
    weights = flops.llm_matmul_weights(merge(state.moving, frozen))
    batches = train_batches(config, tokenizer, first)
    rates = schedule(config.optimizer, steps)
    tell = log.progress(label, first, steps)
    place = functools.partial(jax.device_put, device=sharding.batch_sharding(mesh))
    pending: tuple[dict[str, Any], Metrics] | None = None
    with _stop_signals() as stopped:
        clock = time.perf_counter()
        for step in range(first, steps):
            got: TrainBatch = next(batches)
            waited = time.perf_counter() - clock
            state, metrics = step_fn(state, frozen, place(got.batch), place(got.dense))
            # The last step's metrics are fetched while this one runs.
            if pending:
                tell(step, _write_row(metrics_file, *pending))
            seconds, clock = time.perf_counter() - clock, time.perf_counter()
            work = flops.step_flops(config.model, weights, got.num_tokens, got.squared_lengths)
            row = {
                "step": step,
                "learning_rate": float(rates(step)),
                "tokens_per_s": got.num_tokens / seconds,
                "mfu": log.mfu(work, seconds),
                "data_wait": waited / seconds,
                "record_ids_hash": ids_hash(got.record_ids),
            }
            pending = (row, metrics)
            due = (step + 1) % config.train.checkpoint_every == 0
            if due or stopped or step + 1 == steps:
                writer.save_checkpointables(step + 1, saved_state(state, frozen))
            if stopped:
                break
    if pending:
        tell(pending[0]["step"] + 1, _write_row(metrics_file, *pending))
    if stopped and stopped[0] == signal.SIGTERM:
        raise SystemExit(143)
    if stopped:
        raise KeyboardInterrupt


def _write_row(path: Path, row: dict[str, Any], metrics: Metrics) -> float:
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if not np.isfinite(values["loss"]):
        raise FloatingPointError(f"step {row['step']}: the loss is {values['loss']}")
    log.append_metrics(path, {"step": row["step"], **values, **row})
    return values["loss"]


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Yields a list that the first Ctrl-C or SIGTERM enters; the loop saves and ends at it."""
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda got, _: came.append(got)) for number in numbers]
    try:
        yield came
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _tokenizer(config: Config, start: checkpoint.Located | None) -> Tokenizer:
    if not config.data.tokenizer and start is None:
        raise ConfigError("data.tokenizer: is empty, expected a folder; or give --init a checkpoint")
    folder = Path(config.data.tokenizer) if config.data.tokenizer else start.tokenizer  # type: ignore[union-attr]
    tokenizer = load_tokenizer(folder)
    if tokenizer.get_vocab_size() > config.model.llm.vocab_size:
        raise ConfigError(
            f"model.llm.vocab_size: got {config.model.llm.vocab_size}, expected at least the "
            f"{tokenizer.get_vocab_size()} pieces of {folder}"
        )
    return tokenizer


def _write_run(config: Config, run_dir: Path, tokenizer: Tokenizer) -> None:
    """Writes config.json and the tokenizer; refuses to go on in a run of another config."""
    path = run_dir / "config.json"
    if path.exists() and checkpoint.read_json(path) != to_dict(config):
        raise ConfigError(
            f"{path}: is another run's config; name a new --run-dir or train the same recipe"
        )
    if jax.process_index() == 0:
        checkpoint.write_config(run_dir, to_dict(config))
        save_tokenizer(tokenizer, run_dir / "tokenizer", config.model.max_length)


def cli(args: list[str]) -> int:
    """Runs `train RECIPE.py:function [--section.field VALUE …] --run-dir DIR [--init CKPT]`."""
    import tyro

    from gem_jax.recipes import load_recipe

    if not args or args[0].startswith("-"):
        print(__doc__.strip() + "\n\nSee the fields of a recipe with RECIPE.py:function --help.")
        return 0 if args and args[0] in ("-h", "--help") else 2
    recipe = load_recipe(args[0])
    arguments = dataclasses.make_dataclass(
        "Arguments",
        [("run_dir", Path), ("config", tyro.conf.OmitArgPrefixes[Config], recipe), ("init", Path | None, None)],
    )
    given = tyro.cli(arguments, args=args[1:], prog=f"gem-jax train {args[0]}")
    run(given.config, given.run_dir, given.init)
    print(f"{given.run_dir}", file=sys.stdout)
    return 0
