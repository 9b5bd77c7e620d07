"""Checkpoints on disk: a run directory with config.json, tokenizer/ and orbax steps.

ROOT/config.json holds `model` (and, for a run, the whole Config); ROOT/tokenizer/ the tokenizer;
ROOT/checkpoints/N/ the parameters, and for a run the optimizer's state. Parameters that a run does
not move lie once in ROOT/frozen/, and not in its steps: all that is read here has both.
A LoRA run's factors lie beside their kernels; all that is read here has them merged.
A CKPT on a command line is ROOT (its last complete step) or ROOT/checkpoints/N.
An encoder alone has its own key instead of `model`, `vision` or `ecg`, and no tokenizer.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

from gem_jax import orbax_leaves
from gem_jax.config import LoraConfig, from_dict, model_from_dict, read_json, to_dict
from gem_jax.lora import is_factor, kernel_of, merged_leaves
from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.models.gem import GemConfig, abstract_params
from gem_jax.orbax_leaves import Shapes
from gem_jax.paths import flat, nested, part_of
from gem_jax.step_folders import (
    FETCH,
    CheckpointError,
    Located,
    complete_steps,
    folders_of,
    reading,
    step_dir,
    steps_dir,
    united,
    writing,
)
from gem_jax.whole import whole_folder


class Encoder(NamedTuple):
    """A kind of encoder that a checkpoint may hold alone."""

    what: str
    config: type[ClipConfig] | type[EcgConfig]


ENCODERS = {
    "vision": Encoder("an image encoder", ClipConfig),
    "ecg": Encoder("an ECG encoder", EcgConfig),
}


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
    return united(folders_of(located), orbax_leaves.shapes)


def load_tree(located: Located) -> dict:
    """Returns the saved parameters, every part that the step has, on the default device."""
    loaded = united(folders_of(located), lambda folder: flat(orbax_leaves.load_tree(folder)))
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
    loaded = united(folders_of(located), orbax_leaves.load_onto, target)
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
    lora, folders = read_lora(located), folders_of(located)
    factors = {} if lora is None else saved_factors(located)
    for batch in orbax_leaves.batches(shapes.items()):
        merging = {path: leaf for path, leaf in factors.items() if kernel_of(path) in batch}
        loaded = united(folders, orbax_leaves.load, batch | merging)
        if merging:
            loaded = jax.device_get(merged_leaves(loaded, lora))
        for path in batch:
            yield path, loaded.pop(path)


def saved_at(located: Located) -> int | None:
    """Returns when the step was saved, in ns: this tells two runs apart that lay in one place."""
    with reading(step_dir(located), FETCH):
        return ocp.checkpointables_metadata(step_dir(located)).commit_timestamp_nsecs


@contextmanager
def checkpointer(root: Path, keep: int) -> Iterator[ocp.training.Checkpointer]:
    """Yields orbax's writer of ROOT/checkpoints; what it was given is on disk at the end.

    It keeps the last `keep` steps, and of those saved with a held-out loss the best. What an
    interrupted save left behind is removed. CheckpointError when the last step cannot be written.
    """
    policies = ocp.training.preservation_policies
    best = policies.BestN(
        get_metric_fn=lambda metrics: metrics["loss"],
        reverse=True,
        n=1,
        keep_checkpoints_without_metrics=False,
    )
    writer = ocp.training.Checkpointer(
        steps_dir(root),
        preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
        cleanup_tmp_directories=True,
    )
    with orbax_leaves.hushed():
        try:
            yield writer
        finally:
            with writing(steps_dir(root)):
                writer.close()


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
