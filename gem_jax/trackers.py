"""Where a run's metrics go beside metrics.jsonl: TensorBoard always, W&B or trackio if named."""

import contextlib
import functools
import hashlib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from gem_jax import events
from gem_jax.config import Config, ConfigError, to_dict

Service = Literal["wandb", "trackio"]
Track = Callable[[int, Mapping[str, float]], None]


@contextlib.contextmanager
def tracked(
    services: Sequence[Service], run_dir: Path, config: Config, first: int
) -> Iterator[Track]:
    """Yields a function that takes a step's scalars to TensorBoard and the named services.

    The services are installed, see `require_services`.

    Args:
        services: Beside TensorBoard's event files in RUN/tensorboard.
        run_dir: The run's folder; its name is in the run's.
        config: The recipe, shown beside the curves.
        first: The step that the run begins or goes on with.
    """
    with contextlib.ExitStack() as stack:
        # All processes compute, process 0 writes.
        to = [] if jax.process_index() else [_tensorboard(run_dir / "tensorboard", first)]
        for name in services if to else ():
            to.append(stack.enter_context(_service(name, run_dir, config)))

        def track(step: int, scalars: Mapping[str, float]) -> None:
            for each in to:
                each(step, scalars)

        yield track


def require_services(services: Sequence[Service]) -> None:
    """Refuses services whose library is missing, with a ConfigError."""
    for name in services:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"--log: got {name}, which cannot be imported ({error}), expected an installed "
                f"library; pip install 'gem_jax[{name}]'"
            ) from error


def _tensorboard(folder: Path, first: int) -> Track:
    return functools.partial(events.append, events.new_file(folder, first))


@contextlib.contextmanager
def _service(name: Service, run_dir: Path, config: Config) -> Iterator[Track]:
    """Yields the tracker of a run of this name, which goes on with an earlier one."""
    library: Any = importlib.import_module(name)
    # Folders of one name in different places are different runs.
    place = hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:8]
    named = f"{run_dir.name}-{place}"
    own = {"dir": str(run_dir), "id": named} if name == "wandb" else {}
    run = library.init(project="gem_jax", name=named, config=to_dict(config), resume="allow", **own)
    try:
        yield lambda step, scalars: run.log(dict(scalars), step=step)
    finally:
        run.finish()
