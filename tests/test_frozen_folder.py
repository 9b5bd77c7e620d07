"""What a run does not move is saved once: read with every step, never beside another run's."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

import tiny
from gem_jax import checkpoint, frozen_folder, orbax_leaves, resume
from gem_jax.checkpoint import CheckpointError, Located
from gem_jax.optimizer import merge, split
from gem_jax.paths import flat
from gem_jax.start import placed_params
from states import (
    KINDS,
    assert_equal,
    change_a_bit,
    cut_off,
    files_of,
    mesh_of,
    restored,
    save,
    state_of,
)

CONFIG = KINDS["alignment"]
ONE = mesh_of(1, 1, 1)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_step_of_adapters_is_small_beside_the_frozen_parameters(tmp_path):
    llm = dataclasses.replace(tiny.MODEL.llm, vocab_size=8000, hidden_dim=256, mlp_dim=2048)
    model = dataclasses.replace(tiny.MODEL, llm=llm)
    config = dataclasses.replace(KINDS["lora"], model=model)
    save(tmp_path / "lora", config, ONE, 2, 4)
    frozen = size_of(tmp_path / "lora" / "frozen")
    assert frozen > 10e6
    for step in ("2", "4"):
        assert size_of(tmp_path / "lora" / "checkpoints" / step) < 0.1 * frozen
    whole = tiny.changed(tiny.instruct(), train={"trainable": tuple(tiny.params())})
    whole = dataclasses.replace(whole, model=model)
    save(tmp_path / "whole", whole, ONE, 2)
    assert size_of(tmp_path / "whole" / "checkpoints" / "2") > 2 * frozen, "the control"
    assert not (tmp_path / "whole" / "frozen").exists(), "there is nothing frozen"
    assert_equal(restored(tmp_path / "whole", whole, ONE), state_of(whole, ONE, 2))


@pytest.mark.parametrize(("before", "after"), [((1, 8, 1), (1, 1, 1)), ((1, 1, 1), (2, 2, 2))])
def test_it_comes_back_on_another_mesh(before, after, tmp_path):
    config, mesh = KINDS["lora"], mesh_of(*after)
    got = restored(save(tmp_path, config, mesh_of(*before), 4), config, mesh)
    expected = state_of(config, mesh, 4)
    assert_equal(got, expected)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert one.sharding == other.sharding


def test_a_run_that_was_moved_is_read_with_it(tmp_path):
    save(tmp_path / "run", CONFIG, ONE, 2, 4)
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    assert_equal(restored(tmp_path / "elsewhere", CONFIG, ONE), state_of(CONFIG, ONE, 4))
    for step in (2, 4):
        state, frozen = state_of(CONFIG, ONE, step)
        expected = flat(merge(state.moving, frozen))
        located = Located(tmp_path / "elsewhere", step)
        loaded = flat(checkpoint.load_tree(located))
        one_by_one = dict(checkpoint.leaves(located, checkpoint.saved_shapes(located)))
        assert loaded.keys() == one_by_one.keys() == expected.keys()
        for path, leaf in expected.items():
            assert np.asarray(loaded[path]).tobytes() == np.asarray(leaf).tobytes(), path
            assert one_by_one[path].tobytes() == np.asarray(leaf).tobytes(), path


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def spoilt(pattern: str, spoil: Callable[[Path], None]) -> Callable[[Path], None]:
    def all_of(folder: Path) -> None:
        for path in files_of(folder, pattern):
            spoil(path)

    return all_of


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "it is gone": (remove, "is missing"),
    "an array is gone": (spoilt("params/ocdbt.process_0/d/*", Path.unlink), "cannot be read"),
    "an array is cut off": (spoilt("params/ocdbt.process_0/d/*", cut_off), "cannot be read"),
    "a bit is another": (spoilt("params/ocdbt.process_0/d/*", change_a_bit), "(read|changed)"),
    "the list of arrays is gone": (spoilt("params/_METADATA", Path.unlink), "cannot be read"),
    "its sums are gone": (spoilt("_CHECKPOINT_METADATA", Path.unlink), "cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_with_its_cure(damage, tmp_path):
    spoil, told = DAMAGES[damage]
    config = tiny.changed(CONFIG, train={"init_parts": ()})
    save(tmp_path, config, ONE, 2, 4)
    assert_equal(restored(tmp_path, config, ONE), state_of(config, ONE, 4)), "the control"
    spoil(tmp_path / "frozen")
    with pytest.raises(CheckpointError, match=rf"/frozen: .*{told}.*again, with the run's --init"):
        restored(tmp_path, config, ONE)
    assert checkpoint.complete_steps(tmp_path) == [2, 4], "no step is to blame"


def test_numbers_that_changed_are_told_by_their_paths(tmp_path):
    save(tmp_path, CONFIG, ONE, 4)
    _, frozen = state_of(CONFIG, ONE, 4)
    kept = frozen_folder.record(frozen)
    scale = frozen["llm"]["norm"]["scale"]
    frozen["llm"]["norm"]["scale"] = scale.at[3].set(np.nextafter(scale[3], np.float32(9)))
    orbax_leaves.ocp.save_checkpointables(
        tmp_path / "frozen", {"params": frozen}, overwrite=True, custom_metadata=kept
    )
    with pytest.raises(CheckpointError, match=r"/frozen: llm/norm/scale changed, expected"):
        restored(tmp_path, CONFIG, ONE)


def test_another_runs_folder_is_refused_by_all_who_read(tmp_path):
    ours, theirs, twin = (
        save(tmp_path / name, CONFIG, ONE, 4, seed=seed)
        for name, seed in (("ours", 0), ("theirs", 1), ("twin", 0))
    )
    for name, run_dir in (("own", ours), ("same", twin), ("other", theirs)):
        os.replace(run_dir / "frozen", tmp_path / name)
    (ours / "frozen").symlink_to(tmp_path / "other")
    located, told = Located(ours, 4), r"ours/frozen: holds other parameters than .*checkpoints/4"
    with pytest.raises(CheckpointError, match=told):
        restored(ours, CONFIG, ONE)
    for read in (checkpoint.load_tree, checkpoint.saved_shapes, checkpoint.saved_factors):
        with pytest.raises(CheckpointError, match=told):
            read(located)
    with pytest.raises(CheckpointError, match=told):
        list(checkpoint.leaves(located, {}))
    for name in ("same", "own"):
        (ours / "frozen").unlink()
        (ours / "frozen").symlink_to(tmp_path / name)
        assert_equal(restored(ours, CONFIG, ONE), state_of(CONFIG, ONE, 4)), "the control"
    (ours / "frozen").unlink()
    with pytest.raises(CheckpointError, match=r"ours/frozen: is missing, expected what .*4 lacks"):
        checkpoint.load_tree(located)


@pytest.fixture
def begun(prepared, tmp_path) -> tuple[Path, Path, Path]:
    """A run's folder, the CKPT that it began from, and another CKPT."""
    config = tiny.changed(CONFIG, train={"init_parts": ()})
    for name, seed in (("start", 0), ("other", 1)):
        params = tiny.drawn(jax.eval_shape(tiny.params), seed)
        checkpoint.save_model(
            tmp_path / name, tiny.MODEL, params, prepared / "tokenizer", {"name": name}
        )
    run_dir, start = tmp_path / "run", checkpoint.locate(tmp_path / "start")
    checkpoint.write_config(run_dir, checkpoint.to_dict(config))
    _, frozen = split(placed_params(config, start, ONE), config.train.trainable)
    frozen_folder.write(run_dir, frozen)
    with checkpoint.checkpointer(run_dir, keep=1) as writer:
        resume.save(writer, 4, state_of(config, ONE, 4)[0], frozen)
    return run_dir, tmp_path / "start", tmp_path / "other"


@pytest.mark.parametrize("damage", ["it is gone", "an array is cut off", "its sums are gone"])
def test_its_init_makes_it_again(damage, begun, capfd):
    config, (run_dir, start, other) = tiny.changed(CONFIG, train={"init_parts": ()}), begun
    expected = restored(run_dir, config, ONE)
    DAMAGES[damage][0](run_dir / "frozen")
    with pytest.raises(CheckpointError, match=r"other: gives other frozen parameters than the run"):
        restored(run_dir, config, ONE, other)
    with pytest.raises(CheckpointError, match=r"run/frozen: "):
        restored(run_dir, config, ONE)
    assert "made again" not in capfd.readouterr().err
    assert_equal(restored(run_dir, config, mesh_of(1, 8, 1), start), expected)
    told = capfd.readouterr().err.strip()
    assert told.endswith(f": made again from --init {start}")
    assert told.count("\n") == 0
    assert_equal(restored(run_dir, config, ONE), expected)


@pytest.mark.parametrize("damage", ["it is gone", "an array is cut off"])
def test_a_run_without_init_makes_it_again_from_its_seed(damage, tmp_path, capfd):
    _, frozen = split(placed_params(CONFIG, None, ONE), CONFIG.train.trainable)
    frozen_folder.write(tmp_path, frozen)
    with checkpoint.checkpointer(tmp_path, keep=1) as writer:
        resume.save(writer, 4, state_of(CONFIG, ONE, 4)[0], frozen)
    DAMAGES[damage][0](tmp_path / "frozen")
    other = tiny.changed(CONFIG, train={"seed": 6})
    with pytest.raises(CheckpointError, match=r"train.seed 6: gives other frozen parameters than"):
        restored(tmp_path, other, ONE)
    assert_equal(restored(tmp_path, CONFIG, ONE)[1], frozen)
    assert capfd.readouterr().err.strip().endswith(": made again from train.seed 5")
    assert_equal(restored(tmp_path, other, ONE)[1], frozen), "it is there again, and read"


def test_what_a_cut_off_write_left_behind_is_removed(tmp_path):
    leftover = tmp_path / "frozen.orbax-checkpoint-tmp-7"
    (leftover / "params").mkdir(parents=True)
    save(tmp_path, CONFIG, ONE, 4)
    assert not leftover.exists()
    assert_equal(restored(tmp_path, CONFIG, ONE), state_of(CONFIG, ONE, 4))


def test_a_run_whose_steps_hold_everything_is_read_but_does_not_go_on(tmp_path):
    """As the steps of earlier versions do."""
    state, frozen = state_of(CONFIG, ONE, 4)
    checkpoint.write_config(tmp_path, checkpoint.to_dict(CONFIG))
    saved = resume.saved_state(state)
    saved["params"] = merge(state.moving, frozen)
    saved["optimizer"]["sums"] = np.zeros(3, np.uint32)
    with checkpoint.checkpointer(tmp_path, keep=1) as writer:
        writer.save_checkpointables(4, saved)
    loaded = flat(checkpoint.load_tree(Located(tmp_path, 4)))
    for path, leaf in flat(saved["params"]).items():
        assert np.asarray(loaded[path]).tobytes() == np.asarray(leaf).tobytes(), path
    with pytest.raises(CheckpointError, match=r"does not fit the recipe: .* is unknown.*version"):
        restored(tmp_path, CONFIG, ONE)
