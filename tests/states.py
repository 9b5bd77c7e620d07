"""States of runs in which every number is another: saved, spoilt and restored without training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import optax
from jax.sharding import AxisType, Mesh

import tiny
from gem_jax import checkpoint, frozen_folder, resume, sharding
from gem_jax.config import Config, LoraConfig, to_dict
from gem_jax.optimizer import optimizer, split
from gem_jax.start import param_shapes
from gem_jax.step import TrainState, fresh_state

ALIGNMENT = tiny.changed(tiny.instruct(), train={"trainable": ("ecg_projector", "mm_projector")})
KINDS = {
    "instruct": tiny.instruct(),
    "alignment": ALIGNMENT,
    "lora": dataclasses.replace(ALIGNMENT, lora=LoraConfig(rank=2, alpha=4.0)),
    "pretrain": tiny.pretrain(),
}


def mesh_of(*sizes: int) -> Mesh:
    """A mesh of the first devices."""
    devices = np.array(jax.devices()[: np.prod(sizes)]).reshape(sizes)
    return Mesh(devices, sharding.AXES, axis_types=(AxisType.Auto,) * 3)


def tx_of(config: Config) -> optax.GradientTransformation:
    return optimizer(config.optimizer, config.train.steps)


def state_of(config: Config, mesh: Mesh, step: int, seed: int = 0) -> tuple[TrainState, dict]:
    """A state in which every number that moves is another at each step, any other by the seed."""
    moving, frozen = split(tiny.drawn(param_shapes(config), seed), config.train.trainable)
    state = fresh_state(tx_of(config), moving)
    rng = np.random.default_rng(step)
    drawn = jax.tree.map(
        lambda leaf: np.asarray(rng.normal(size=leaf.shape) * 9).astype(leaf.dtype), state
    )
    placed = jax.device_put(drawn, sharding.state_shardings(mesh, drawn, drawn.moving))
    return placed, jax.device_put(frozen, sharding.param_shardings(mesh, frozen))


def save(run_dir: Path, config: Config, mesh: Mesh, *steps: int, seed: int = 0) -> Path:
    """A run's folder with these steps, for whoever reads checkpoints."""
    checkpoint.write_config(run_dir, to_dict(config))
    frozen_folder.write(run_dir, state_of(config, mesh, 0, seed)[1])
    with checkpoint.checkpointer(run_dir, keep=len(steps)) as writer:
        for step in steps:
            resume.save(writer, step, *state_of(config, mesh, step, seed))
    return run_dir


def restored(
    run_dir: Path, config: Config, mesh: Mesh, init: Path | None = None
) -> tuple[TrainState, dict]:
    with checkpoint.checkpointer(run_dir, keep=2) as writer:
        return resume.restore(writer, config, tx_of(config), mesh, init)


def assert_equal(got, expected) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def files_of(folder: Path, pattern: str) -> list[Path]:
    found = [path for path in folder.glob(pattern) if path.is_file()]
    assert found
    return found


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
