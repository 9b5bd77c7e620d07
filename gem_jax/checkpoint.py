"""Checkpoints on disk: a run directory with config.json, tokenizer/ and orbax steps.

ROOT/config.json holds `model` (and, for a run, the whole Config); ROOT/tokenizer/ the tokenizer;
ROOT/checkpoints/N/ the parameters, and for a run the optimizer's state. Parameters that a run does
not move lie once in ROOT/frozen/, and not in its steps: all that is read here has both.
A LoRA run's factors lie beside their kernels; all that is read here has them merged.
A CKPT on a command line is ROOT (its last complete step) or ROOT/checkpoints/N.
An encoder alone has its own key instead of `model`, `vision` or `ecg`, and no tokenizer.
"""

import functools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

from gem_jax import orbax_leaves
from gem_jax.config import (
    ConfigError,
    LoraConfig,
    from_dict,
    model_from_dict,
    read_json,
    to_dict,
)
from gem_jax.lora import is_factor, kernel_of, merged_leaves
from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.models.gem import GemConfig, abstract_params
from gem_jax.orbax_leaves import Shapes
from gem_jax.paths import flat, nested, part_of
from gem_jax.whole import whole_folder

FETCH = "name an earlier one of checkpoints/, or fetch it again"
MAKE_AGAIN = "fetch it again, or give `gem-jax train` the run's --init once more to make it again"


class CheckpointError(ConfigError):
    """A folder that is not a checkpoint, or one that does not fit what reads it."""


class Encoder(NamedTuple):
    """A kind of encoder that a checkpoint may hold alone."""

    what: str
    config: type[ClipConfig] | type[EcgConfig]


ENCODERS = {
    "vision": Encoder("an image encoder", ClipConfig),
    "ecg": Encoder("an ECG encoder", EcgConfig),
}


@dataclass(frozen=True)
class Located:
    """A checkpoint found on disk."""

    root: Path
    step: int

    @property
    def tokenizer(self) -> Path:
        """The folder of its tokenizer."""
        return self.root / "tokenizer"


def steps_dir(root: Path) -> Path:
    """Returns the folder that holds the steps of `root`, absolute as orbax wants it."""
    return root.absolute() / "checkpoints"


def step_dir(located: Located) -> Path:
    """Returns the folder of the step."""
    return steps_dir(located.root) / str(located.step)


def frozen_dir(root: Path) -> Path:
    """Returns the folder of the parameters that the run of `root` does not move."""
    return root.absolute() / "frozen"


def complete_steps(root: Path) -> list[int]:
    """Returns the steps of `root` whose saving was finished, ascending: orbax renames last."""
    folder = steps_dir(root)
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def locate(path: Path) -> Located:
    """Returns the root and step that the CKPT `path` means.

    CheckpointError if it is none, or an encoder alone.
    """
    located = locate_any(path)
    for kind in _keys(located.root) & ENCODERS.keys():
        raise CheckpointError(
            f"{path}: got {ENCODERS[kind].what} alone, expected a whole model; it serves `gem-jax "
            "train --init` and `gem-jax export`"
        )
    return located


def locate_any(path: Path) -> Located:
    """Returns the root and step that the CKPT `path` means, be it an encoder alone."""
    path = path.absolute()
    if path.parent.name == "checkpoints" and path.name.isdecimal():
        root, steps = path.parents[1], [int(path.name)] if path.is_dir() else []
    else:
        root, steps = path, complete_steps(path)
    whole = (root / "tokenizer").is_dir() or _keys(root) & ENCODERS.keys()
    if not steps or not whole or not (root / "config.json").is_file():
        raise CheckpointError(
            f"{path}: got no checkpoint, expected a folder with config.json, tokenizer and "
            "checkpoints/N as `gem-jax import` or `gem-jax train` writes it"
        )
    return Located(root, steps[-1])


def _keys(root: Path) -> set[str]:
    path = root / "config.json"
    return set(read_json(path)) if path.is_file() else set()


def read_encoder_config(located: Located) -> ClipConfig | EcgConfig | None:
    """Returns the sizes of an encoder alone; None for a model."""
    values = read_json(located.root / "config.json")
    for kind in values.keys() & ENCODERS.keys():
        return from_dict(ENCODERS[kind].config, values[kind], kind)
    return None


def read_model_config(located: Located) -> GemConfig:
    """Returns the model's sizes from the checkpoint's config.json."""
    values = read_json(located.root / "config.json")
    if "model" not in values:
        raise CheckpointError(
            f"{located.root / 'config.json'}: got keys {sorted(values)}, expected `model`"
        )
    return model_from_dict(values["model"])


def read_lora(located: Located) -> LoraConfig | None:
    """Returns how the run's factors are merged; None: it has none."""
    values = read_json(located.root / "config.json").get("lora")
    return None if values is None else from_dict(LoraConfig, values, "lora")


def read_source(located: Located) -> dict[str, Any] | None:
    """Returns what the checkpoint's config.json says of its origin; None: nothing."""
    return read_json(located.root / "config.json").get("source")


def load_params(path: Path) -> tuple[GemConfig, dict]:
    """Returns (model config, all of GEM's parameters) of the CKPT `path`.

    CheckpointError as of `whole_shapes`.
    """
    located = locate(path)
    config = read_model_config(located)
    whole_shapes(located, config)
    params = load_tree(located)
    return config, {part: params[part] for part in abstract_params(config)}


def whole_shapes(located: Located, config: GemConfig) -> Shapes:
    """Returns shape and dtype of each of GEM's parameters; none is read yet.

    CheckpointError when it lacks a part, as a stage-0 run does: it serves `train --init` alone; or
    when the parameters are not of the config's sizes.
    """
    saved, expected = saved_shapes(located), flat(abstract_params(config))
    parts = {part_of(path) for path in expected}
    missing = sorted(parts - {part_of(path) for path in saved})
    if missing:
        raise CheckpointError(
            f"{located.root}: got a checkpoint without {missing}, expected a whole GEM; it is an "
            "intermediate stage, train the next one with --init"
        )
    found = {path: leaf.shape for path, leaf in saved.items() if part_of(path) in parts}
    if found != {path: leaf.shape for path, leaf in expected.items()}:
        raise CheckpointError(
            f"{located.root}: got parameters of other sizes than its config.json says, expected "
            "both as they were written; fetch the checkpoint again"
        )
    return {path: saved[path] for path in expected}


def saved_shapes(located: Located) -> Shapes:
    """Returns shape and dtype of each parameter of the step, factors merged."""
    return {path: leaf for path, leaf in _known(located).items() if not is_factor(path)}


def saved_factors(located: Located) -> Shapes:
    """Returns shape and dtype of each factor of LoRA of the step."""
    return {path: leaf for path, leaf in _known(located).items() if is_factor(path)}


def _known(located: Located) -> Shapes:
    return _united(_folders(located), orbax_leaves.shapes)


def load_tree(located: Located) -> dict:
    """Returns the saved parameters, every part that the step has, on the default device."""
    loaded = _united(_folders(located), lambda folder: flat(orbax_leaves.load_tree(folder)))
    return nested(merged_leaves(loaded, read_lora(located)))


def load_onto(located: Located, wanted: Shapes) -> dict[str, jax.Array]:
    """Returns the parameters that are `wanted` by path, factors merged.

    Each comes in the dtype and onto the devices that `wanted` says; no device holds more. What is
    merged is rounded once.
    """
    lora, saved = read_lora(located), _known(located)
    factors = {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_whole(wanted[kernel_of(path)]))
        for path, leaf in saved.items()
        if is_factor(path) and kernel_of(path) in wanted
    }
    kernels = {
        path: wanted[path].update(dtype=jnp.promote_types(wanted[path].dtype, saved[path].dtype))
        for path in map(kernel_of, factors)
    }
    target = wanted | kernels | factors
    loaded = _united(_folders(located), lambda folder: orbax_leaves.load_onto(folder, target))
    if not factors:
        return loaded
    return {
        path: jax.device_put(leaf.astype(wanted[path].dtype), wanted[path].sharding)
        for path, leaf in merged_leaves(loaded, lora).items()
    }


def _whole(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
    return NamedSharding(leaf.sharding.mesh, PartitionSpec())


def leaves(located: Located, shapes: Shapes) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (path, parameter) in host memory, one after the other, for each of `shapes`.

    The caller drops one before it asks for the next: then a batch is held at a time. Factors are
    merged into their kernels unless `shapes` names them.
    """
    lora, folders = read_lora(located), _folders(located)
    factors = {} if lora is None else saved_factors(located)
    for batch in orbax_leaves.batches(shapes.items()):
        merging = {path: leaf for path, leaf in factors.items() if kernel_of(path) in batch}
        loaded = _united(folders, functools.partial(orbax_leaves.load, wanted=batch | merging))
        if merging:
            loaded = jax.device_get(merged_leaves(loaded, lora))
        for path in batch:
            yield path, loaded.pop(path)


def saved_at(located: Located) -> int | None:
    """Returns when the step was saved, in ns: this tells two runs apart that lay in one place."""
    with _reading(step_dir(located), FETCH):
        return ocp.checkpointables_metadata(step_dir(located)).commit_timestamp_nsecs


def frozen_of(located: Located) -> Path | None:
    """Returns the folder of the parameters that the step goes with but does not hold, if any.

    CheckpointError when it is missing, or not the one that the step was saved beside.
    """
    step, folder = step_dir(located), frozen_dir(located.root)
    with _reading(step, FETCH):
        expected = frozen_sums(step)
    if not folder.is_dir():
        if expected is None:
            return None
        raise CheckpointError(f"{folder}: is missing, expected what {step} lacks; {MAKE_AGAIN}")
    with _reading(folder, MAKE_AGAIN):
        found = frozen_sums(folder)
    if found != expected:
        raise CheckpointError(
            f"{folder}: holds other parameters than {step} was saved beside, expected those of one "
            f"run; {MAKE_AGAIN}"
        )
    return folder


def frozen_sums(folder: Path) -> dict[str, int] | None:
    """Returns the bit sums, by path, of the frozen parameters that a step goes with, or RUN/frozen.

    None: the step says nothing of such.
    """
    return (ocp.checkpointables_metadata(folder).custom_metadata or {}).get("frozen")


def _folders(located: Located) -> dict[Path, str]:
    """Returns the orbax folders that hold the step's parameters, each with its cure."""
    frozen = frozen_of(located)
    return {step_dir(located): FETCH} | ({} if frozen is None else {frozen: MAKE_AGAIN})


def _united(folders: dict[Path, str], read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Returns what `read` finds in all of the folders, by path."""
    found: dict[str, Any] = {}
    for folder, cure in folders.items():
        with _reading(folder, cure):
            found |= read(folder)
    return found


@contextmanager
def _reading(folder: Path, cure: str) -> Iterator[None]:
    """Makes one CheckpointError of what orbax cannot read in `folder`."""
    try:
        with orbax_leaves.silence():
            yield
    except orbax_leaves.UNREADABLE as error:
        raise CheckpointError(
            f"{folder}: got a folder that cannot be read ({type(error).__name__}), expected one "
            f"that is complete; {cure}"
        ) from error


def checkpointer(root: Path, keep: int) -> ocp.training.Checkpointer:
    """Returns orbax's writer of ROOT/checkpoints.

    It keeps the last `keep` steps, and of those saved with a held-out loss the best. What an
    interrupted save left behind is removed.
    """
    policies = ocp.training.preservation_policies
    best = policies.BestN(
        get_metric_fn=lambda metrics: metrics["loss"],
        reverse=True,
        n=1,
        keep_checkpoints_without_metrics=False,
    )
    return ocp.training.Checkpointer(
        steps_dir(root),
        preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
        cleanup_tmp_directories=True,
    )


def write_config(root: Path, values: dict[str, Any]) -> None:
    """Writes ROOT/config.json in one step."""
    root.mkdir(parents=True, exist_ok=True)
    partial = root / "config.json.partial"
    partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, root / "config.json")


def save_model(
    root: Path, config: GemConfig, params: dict, tokenizer: Path, source: dict[str, Any]
) -> None:
    """Writes a checkpoint of a model that is in memory; all else as `write_model`."""
    write_model(root, config, flat(params).items(), tokenizer, source)


def write_model(
    root: Path,
    config: GemConfig,
    leaves: Iterable[tuple[str, Any]],
    tokenizer: Path,
    source: dict[str, Any],
) -> None:
    """Writes a checkpoint of a model alone, as step 0, in one step: ROOT appears when it is whole.

    `leaves` are (path, parameter), of which a batch is held at a time. `source` says in config.json
    where they come from. A ROOT that exists is refused.
    """
    _write(root, {"model": to_dict(config), "source": source}, leaves, tokenizer)


def write_encoder(
    root: Path,
    config: ClipConfig | EcgConfig,
    leaves: Iterable[tuple[str, Any]],
    source: dict[str, Any],
) -> None:
    """Writes a checkpoint of an encoder alone; all else as `write_model`."""
    (kind,) = [kind for kind, known in ENCODERS.items() if isinstance(config, known.config)]
    _write(root, {kind: to_dict(config), "source": source}, leaves, None)


def _write(
    root: Path, values: dict[str, Any], leaves: Iterable[tuple[str, Any]], tokenizer: Path | None
) -> None:
    if root.exists():
        raise CheckpointError(f"{root}: exists, expected a new folder; remove it or name another")
    with whole_folder(root) as partial:
        write_config(partial, values)
        if tokenizer:
            shutil.copytree(tokenizer, partial / "tokenizer")
        orbax_leaves.write(steps_dir(partial) / "0", leaves)
