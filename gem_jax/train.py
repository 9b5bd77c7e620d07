"""Trains a recipe: gem-jax train RECIPE.py:function --run-dir DIR [--init CKPT] [--section.field …]

A run starts from its own last checkpoint; else from --init; else from random parameters. What the
start lacks is initialised only if the recipe names it. Ctrl-C and SIGTERM save before they end;
SIGUSR1 saves and goes on. Several processes run the same command: experiments/launch/local.py.
RECIPE.py:function --help lists the options and the fields of the recipe.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Annotated, Any

import jax
import optax

from gem_jax import (
    checkpoint,
    dry_run,
    frozen_folder,
    inspect_batches,
    processes,
    resume,
    sharding,
    signals,
    usage,
)
from gem_jax.config import Config, ConfigError
from gem_jax.data import train_mixture
from gem_jax.heldout import tell_best
from gem_jax.inputs import require_sight
from gem_jax.loop import Run, loop
from gem_jax.optimizer import optimizer, split
from gem_jax.run_folder import (
    heldout_file,
    refuse_another_config,
    refuse_other_data,
    tokenizer_of,
    write_data,
    write_run,
)
from gem_jax.run_lock import alone
from gem_jax.start import placed_params
from gem_jax.step import TrainState, fresh_state
from gem_jax.trackers import Service, require_services


def run(
    config: Config,
    run_dir: Path,
    init: Path | None = None,
    label: str = "train",
    services: tuple[Service, ...] = (),
    profile: int = 0,
) -> Path:
    """Trains to the recipe's last step, or goes on from where the run stopped; returns `run_dir`.

    Args:
        config: The recipe.
        run_dir: The run's folder.
        init: CKPT that it starts from.
        label: Names the run on the progress line.
        services: Where metrics go beside metrics.jsonl and TensorBoard.
        profile: So many steps are traced into RUN/profile.

    Raises:
        SystemExit: 143, after a SIGTERM at which the state was saved.
        KeyboardInterrupt: after a Ctrl-C at which the state was saved.
    """
    require_services(services)
    with alone(run_dir):
        _train(config, run_dir, init, (label, services, profile))
    return run_dir


def _train(
    config: Config, run_dir: Path, init: Path | None, seen: tuple[str, tuple[Service, ...], int]
) -> None:
    refuse_another_config(config, run_dir)
    own = bool(checkpoint.complete_steps(run_dir))
    source = run_dir if own else init
    start = checkpoint.locate_any(source) if source else None
    tokenizer = tokenizer_of(config, start)
    # What cannot be trained is refused before anything is written.
    mixture = train_mixture(config)
    refuse_other_data(run_dir, mixture)
    if config.train.objective == "instruct":
        require_sight(config.model)
    mesh = sharding.make_mesh(config.mesh)
    tx = optimizer(config.optimizer, config.train.steps)
    with jax.set_mesh(mesh):
        begun = None if own else begin(config, start, tx, mesh)
        write_run(config, run_dir, tokenizer, start)
        write_data(run_dir, mixture)
        if begun:
            frozen_folder.write(run_dir, begun[1])
        with (
            signals.wishes() as came,
            checkpoint.checkpointer(run_dir, config.train.keep) as writer,
        ):
            state, frozen = begun or resume.restore(writer, config, tx, mesh, init)
            read = (tokenizer, mixture)
            loop(Run(config, run_dir, *seen, *read, tx, mesh, writer, frozen, came), state)
    tell_best(heldout_file(run_dir), checkpoint.complete_steps(run_dir))


def begin(
    config: Config,
    start: checkpoint.Located | None,
    tx: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
) -> tuple[TrainState, dict]:
    """Returns (state, frozen) before the first step, placed on the mesh."""
    moving, frozen = split(placed_params(config, start, mesh), config.train.trainable)
    fresh = functools.partial(fresh_state, tx)
    where = sharding.state_shardings(mesh, jax.eval_shape(fresh, moving), moving)
    return jax.jit(fresh, out_shardings=where, donate_argnums=0)(moving), frozen


def cli(args: list[str]) -> int:
    """Returns the exit status of `gem-jax train ARGS`."""
    from gem_jax.recipes import load_recipe

    if not args or args[0].startswith("-"):
        raise ConfigError(f"got {args[:1]}, expected RECIPE.py:function first")
    recipe = load_recipe(args[0])
    given: Any = usage.read(_arguments(recipe), args[1:], f"gem-jax train {args[0]}")
    if given.dry_run:
        print(dry_run.told(recipe, given.config))
        return 0
    processes.join(given.distributed)
    if given.inspect:
        _inspect(given.config, given.run_dir, given.init, given.inspect)
        return 0
    seen = {"services": given.log, "profile": given.profile}
    run_dir = run(given.config, given.run_dir, given.init, **seen)
    if processes.is_first():
        print(run_dir)
    return 0


def _inspect(config: Config, run_dir: Path, init: Path | None, count: int) -> None:
    """Prints the batches that the run begins or goes on with."""
    steps = checkpoint.complete_steps(run_dir)
    source = run_dir if steps else init
    tokenizer = tokenizer_of(config, checkpoint.locate_any(source) if source else None)
    for line in inspect_batches.told(config, tokenizer, count, steps[-1] if steps else 0):
        print(line)


def _arguments(recipe: Config) -> Any:
    """Returns the dataclass that the command line of the recipe fills."""
    import tyro

    whole = Annotated[Config, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands]
    options: list[tuple[str, Any, Any, str]] = [
        ("init", Path | None, None, "CKPT that the run starts from."),
        ("log", tuple[Service, ...], (), "Where metrics go beside metrics.jsonl and TensorBoard."),
        ("profile", int, 0, "Trace so many steps, the third and after, into RUN/profile."),
        (
            "dry_run",
            bool,
            False,
            "Print the recipe and what flags changed in it; train nothing.",
        ),
        (
            *("inspect", int, 0),
            "Print so many batches, those that the run goes on with, as texts; train nothing.",
        ),
        (
            *("distributed", bool, False),
            "Meet the other processes that Slurm, Open MPI, Kubernetes or a TPU pod names.",
        ),
    ]
    fields: list[tuple] = [
        ("run_dir", Annotated[Path, tyro.conf.arg(help="The run's folder; an old one goes on.")]),
        ("config", whole, recipe),
        *(
            (name, Annotated[kind, tyro.conf.arg(help=told)], default)
            for name, kind, default, told in options
        ),
    ]
    return dataclasses.make_dataclass("Arguments", fields)
