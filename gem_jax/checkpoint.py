"""Checkpoints on disk: a run directory with config.json, tokenizer/ and orbax steps.

ROOT/config.json holds `model` (and, for a run, the whole Config); ROOT/tokenizer/ the tokenizer;
ROOT/checkpoints/N/ the parameters, and for a run the optimizer's and the data iterator's state.
A CKPT on a command line is ROOT (its last complete step) or ROOT/checkpoints/N.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from gem_jax.config import ConfigError, model_from_dict, read_json, to_dict
from gem_jax.models.gem import GemConfig, abstract_params


class CheckpointError(ConfigError):
    """A folder that is not a checkpoint, or one that does not fit what reads it."""


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


def complete_steps(root: Path) -> list[int]:
    """Returns the steps of `root` whose saving was finished, ascending: orbax renames last."""
    folder = steps_dir(root)
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def locate(path: Path) -> Located:
    """Returns the root and step that the CKPT `path` means; CheckpointError if it is none."""
    path = path.absolute()
    if path.parent.name == "checkpoints" and path.name.isdecimal():
        root, steps = path.parents[1], [int(path.name)] if path.is_dir() else []
    else:
        root, steps = path, complete_steps(path)
    whole = (root / "config.json").is_file() and (root / "tokenizer").is_dir()
    if not steps or not whole:
        raise CheckpointError(
            f"{path}: got no checkpoint, expected a folder with config.json, tokenizer and "
            "checkpoints/N as `gem-jax import` or `gem-jax train` writes it"
        )
    return Located(root, steps[-1])


def read_model_config(located: Located) -> GemConfig:
    """Returns the model's sizes from the checkpoint's config.json."""
    values = read_json(located.root / "config.json")
    if "model" not in values:
        raise CheckpointError(
            f"{located.root / 'config.json'}: got keys {sorted(values)}, expected `model`"
        )
    return model_from_dict(values["model"])


def load_params(path: Path) -> tuple[GemConfig, dict]:
    """Returns (model config, all of GEM's parameters) of the CKPT `path`.

    CheckpointError when it lacks a part, as a stage-0 run does: it serves `train --init` alone; or
    when the parameters are not of the config's sizes.
    """
    located = locate(path)
    config = read_model_config(located)
    params = load_tree(located)
    expected = abstract_params(config)
    missing = sorted(set(expected) - set(params))
    if missing:
        raise CheckpointError(
            f"{located.root}: got a checkpoint without {missing}, expected a whole GEM; it is an "
            "intermediate stage, train the next one with --init"
        )
    params = {part: params[part] for part in expected}
    if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, expected):
        raise CheckpointError(
            f"{located.root}: got parameters of other sizes than its config.json says, expected "
            "both as they were written; fetch the checkpoint again"
        )
    return config, params


def load_tree(located: Located) -> dict:
    """Returns the saved parameters, every part that the step holds, on the default device."""
    with _reading(located) as folder:
        saved = ocp.checkpointables_metadata(folder).metadata["params"]
        single = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=single), saved
        )
        return ocp.load_checkpointables(folder, {"params": target})["params"]


def saved_at(located: Located) -> int | None:
    """Returns when the step was saved, in ns: this tells two runs apart that lay in one place."""
    with _reading(located) as folder:
        return ocp.checkpointables_metadata(folder).commit_timestamp_nsecs


@contextmanager
def _reading(located: Located) -> Iterator[Path]:
    """Yields the step's folder; what orbax cannot read in it becomes one CheckpointError."""
    folder = steps_dir(located.root) / str(located.step)
    try:
        with _silence():
            yield folder
    except (OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: got a step that cannot be read ({type(error).__name__}), expected one that "
            "is complete; name an earlier one of checkpoints/, or fetch it again"
        ) from error


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps orbax from telling of a fault in many lines: whoever calls tells it in one."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    except Exception:
        # Its unfinished tasks speak up later, when they are collected.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
        raise
    finally:
        logging.disable(before)


def checkpointer(root: Path, keep: int) -> ocp.training.Checkpointer:
    """Returns orbax's writer of ROOT/checkpoints that keeps the last `keep` steps."""
    return ocp.training.Checkpointer(
        steps_dir(root),
        preservation_policy=ocp.training.preservation_policies.LatestN(keep),
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
    """Writes a checkpoint of a model alone, as step 0, in one step: ROOT appears when it is whole.

    `source` says in config.json where the weights come from. A ROOT that exists is refused.
    """
    if root.exists():
        raise CheckpointError(f"{root}: exists, expected a new folder; remove it or name another")
    partial = root.with_name(f"{root.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_config(partial, {"model": to_dict(config), "source": source})
    shutil.copytree(tokenizer, partial / "tokenizer")
    ocp.save_checkpointables(steps_dir(partial) / "0", {"params": params})
    os.replace(partial, root)
