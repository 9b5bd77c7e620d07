"""Checkpoints: found, read back bit for bit, complete or not there at all."""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from gem_jax import checkpoint, orbax_leaves
from gem_jax.checkpoint import CheckpointError, Located, complete_steps, locate
from gem_jax.config import ConfigError, to_dict
from gem_jax.paths import flat


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A run's folder with steps 4 and 8, and what an interrupted save left behind."""
    root = tmp_path_factory.mktemp("run")
    checkpoint.write_config(root, {"model": to_dict(tiny.MODEL)})
    (root / "tokenizer").mkdir()
    (root / "tokenizer" / "tokenizer.json").touch()
    with checkpoint.checkpointer(root, keep=2) as writer:
        for step in (2, 4, 8):
            writer.save_checkpointables(step, {"params": {"part": {"leaf": jnp.full(3, step)}}})
    leftover(root)
    return root


def leftover(root: Path) -> None:
    unfinished = checkpoint.steps_dir(root) / "12.orbax-checkpoint-tmp-99"
    unfinished.mkdir(parents=True)
    (unfinished / "half").write_bytes(b"0")


def leaf_at(path: Path) -> float:
    return float(checkpoint.load_tree(locate(path))["part"]["leaf"][0])


def test_the_last_complete_step_counts(saved):
    assert complete_steps(saved) == [4, 8]
    assert locate(saved) == Located(saved, 8)
    assert leaf_at(saved) == 8.0
    assert locate(saved / "checkpoints" / "4") == Located(saved, 4)
    assert leaf_at(saved / "checkpoints" / "4") == 4.0
    assert locate(saved).tokenizer == saved / "tokenizer"


def test_a_path_may_be_relative(saved, monkeypatch):
    monkeypatch.chdir(saved / "checkpoints")
    assert locate(Path("4")) == Located(saved, 4)
    assert locate(Path("..")).step == 8


def test_an_unfinished_save_does_not_block(tmp_path):
    leftover(tmp_path)
    assert complete_steps(tmp_path) == []
    with checkpoint.checkpointer(tmp_path, keep=2) as writer:
        writer.save_checkpointables(12, {"params": {"part": {"leaf": jnp.full(3, 12)}}})
    assert complete_steps(tmp_path) == [12]
    names = [entry.name for entry in checkpoint.steps_dir(tmp_path).iterdir()]
    assert not any("tmp" in name for name in names)


@pytest.mark.parametrize("inside", ["", "checkpoints/6", "checkpoints/12", "tokenizer"])
def test_what_is_no_checkpoint_is_refused(inside, saved, tmp_path):
    with pytest.raises(CheckpointError, match="got no checkpoint, expected a folder with config"):
        locate(saved / inside if inside else tmp_path)
    with pytest.raises(CheckpointError, match="got no checkpoint"):
        locate(tmp_path / "absent")


def test_steps_without_a_config_are_refused(saved, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "tokenizer").symlink_to(saved / "tokenizer")
    (tmp_path / "checkpoints" / "8").symlink_to(saved / "checkpoints" / "8")
    with pytest.raises(CheckpointError, match="got no checkpoint"):
        locate(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"got keys \[\], expected `model`"):
        checkpoint.read_model_config(locate(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="expected a JSON object"):
        checkpoint.read_model_config(locate(tmp_path))


def test_a_step_that_cannot_be_read_is_refused(saved, tmp_path):
    (tmp_path / "tokenizer").symlink_to(saved / "tokenizer")
    empty = tmp_path / "checkpoints" / "3"
    empty.mkdir(parents=True)
    (empty / "something").write_text("else")
    checkpoint.write_config(tmp_path, {"model": to_dict(tiny.MODEL)})
    with pytest.raises(CheckpointError, match=r"checkpoints/3: got a folder that cannot be read"):
        checkpoint.load_tree(locate(tmp_path))


def test_a_stage_that_lacks_parts_is_not_a_whole_gem(saved):
    with pytest.raises(CheckpointError, match=r"got a checkpoint without \['ecg_projector'"):
        checkpoint.load_params(saved)


def test_a_model_is_written_whole_and_read_back_bit_for_bit(prepared, tmp_path):
    root = tmp_path / "model"
    source = {"from": "numpy"}
    written = (root, tiny.MODEL, tiny.params(), prepared / "tokenizer", source)
    checkpoint.save_model(*written)
    config, params = checkpoint.load_params(root)
    assert config == tiny.MODEL
    expected = flat(tiny.params())
    for path, leaf in flat(params).items():
        assert np.asarray(leaf).tobytes() == np.asarray(expected[path]).tobytes(), path
    assert set(flat(params)) == set(expected)
    assert json.loads((root / "config.json").read_text())["source"] == source
    assert (locate(root).tokenizer / "tokenizer.json").is_file()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match="exists, expected a new folder"):
        checkpoint.save_model(*written)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_that_was_written_in_part_is_no_checkpoint(prepared, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(orbax_leaves.ocp.partial, "finalize", broken)
    written = (tiny.MODEL, tiny.params(), prepared / "tokenizer", {})
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save_model(tmp_path / "model", *written)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    checkpoint.save_model(tmp_path / "model", *written)
    assert locate(tmp_path / "model").step == 0
