"""What a run saved comes back on any mesh with its structure; what was damaged is passed over."""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

import tiny
from gem_jax import bit_sums, checkpoint, resume
from gem_jax.checkpoint import CheckpointError
from gem_jax.run_folder import write_run
from gem_jax.tokenizer import load_tokenizer
from gem_jax.weights.files import SINGLE
from gem_jax.weights.save import main as export
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
    tx_of,
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((8, 1, 1), (1, 1, 1)),
        ((1, 1, 1), (1, 8, 1)),
        ((1, 4, 2), (1, 2, 4)),
        ((2, 2, 2), (1, 4, 1)),
    ],
)
def test_a_state_comes_back_on_another_mesh(before, after, tmp_path):
    """C-01: the values are equal, the shardings the new mesh's."""
    config, mesh = KINDS["instruct"], mesh_of(*after)
    save(tmp_path, config, mesh_of(*before), 4)
    got = restored(tmp_path, config, mesh)
    expected = state_of(config, mesh, 4)
    assert_equal(got, expected)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert one.sharding == other.sharding
    kernel = got[0].moving["llm"]["layers"]["mlp"]["up_proj"]["kernel"]
    assert kernel.sharding.is_fully_replicated == (mesh.size == 1)
    other = state_of(config, mesh, 5)[0].moving["llm"]["norm"]["scale"]
    assert not np.array_equal(other, got[0].moving["llm"]["norm"]["scale"]), "the control"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_comes_back_and_goes_on(kind, tmp_path):
    """C-06, C-02: alignment and LoRA too; the next update works as if nothing had been saved."""
    config, mesh = KINDS[kind], mesh_of(1, 2, 1)
    save(tmp_path, config, mesh, 4)
    got, expected = restored(tmp_path, config, mesh), state_of(config, mesh, 4)
    assert_equal(got, expected)
    update = jax.jit(
        lambda state: tx_of(config).update(state.moving, state.opt_state, state.moving)
    )
    assert_equal(update(got[0]), update(expected[0]))


def test_a_mesh_that_is_set_for_all_does_not_matter(tmp_path):
    """C-05, also with axes of the explicit kind."""
    config, mesh = KINDS["alignment"], mesh_of(1, 4, 2)
    explicit = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    for number, each in enumerate((mesh, explicit)):
        with jax.set_mesh(each):
            got = restored(save(tmp_path / str(number), config, mesh, 4), config, mesh)
        assert_equal(got, state_of(config, mesh, 4))
        kernel = got[1]["llm"]["layers"]["mlp"]["up_proj"]["kernel"]
        assert kernel.sharding.mesh == mesh
        assert not kernel.sharding.is_fully_replicated


def test_another_structure_is_told_by_its_paths(tmp_path):
    """C-02: no older step is taken instead."""
    config, mesh = KINDS["alignment"], mesh_of(1, 1, 1)
    save(tmp_path, config, mesh, 2, 4)
    more = tiny.changed(config, train={"trainable": ("ecg_projector", "mm_projector", "llm")})
    model = tiny.dataclasses.replace(config.model, ecg_projector="mlp2x_gelu")
    for other, told in (
        (more, "optimizer/state/1/0/mu/llm/embed_tokens/embedding is missing"),
        (tiny.dataclasses.replace(config, model=model), "ecg_projector/linear/kernel is unknown"),
        (KINDS["lora"], "_proj/kernel_lora_a is missing"),
    ):
        with pytest.raises(CheckpointError, match=rf"4: does not fit the recipe: .*{told}"):
            restored(tmp_path, other, mesh)
    assert checkpoint.complete_steps(tmp_path) == [2, 4]


DAMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "an array is gone": ("params/ocdbt.process_0/d/*", Path.unlink),
    "an array is cut off": ("params/ocdbt.process_0/d/*", cut_off),
    "a bit is another": ("params/ocdbt.process_0/d/*", change_a_bit),
    "an array of the optimizer is gone": ("optimizer/d/*", Path.unlink),
    "the list of arrays is gone": ("params/_METADATA", Path.unlink),
    "the list of arrays is cut off": ("optimizer/_METADATA", cut_off),
    "what it goes with is lost": ("_CHECKPOINT_METADATA", Path.unlink),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_step_is_passed_over_and_told(damage, tmp_path, capfd):
    """C-03: the step before it counts, and the damaged one does not block."""
    config, mesh = KINDS["alignment"], mesh_of(1, 1, 1)
    save(tmp_path, config, mesh, 2, 4)
    leftover = checkpoint.steps_dir(tmp_path) / "4.orbax-checkpoint-tmp-7"
    leftover.mkdir()
    pattern, spoil = DAMAGES[damage]
    for path in files_of(checkpoint.steps_dir(tmp_path) / "4", pattern):
        spoil(path)
    assert_equal(restored(tmp_path, config, mesh), state_of(config, mesh, 2))
    told = capfd.readouterr().err.strip().splitlines()[-1]
    expected = (
        r"checkpoints/4: cannot be read, set aside as 4\.damaged; the run goes on from step 2"
    )
    assert re.search(expected, told)
    assert sorted(path.name for path in checkpoint.steps_dir(tmp_path).iterdir()) == [
        "2",
        "4.damaged",
    ]
    save(tmp_path, config, mesh, 4)
    assert_equal(restored(tmp_path, config, mesh), state_of(config, mesh, 4))


def test_where_no_step_can_be_read_nothing_is_touched(tmp_path):
    config, mesh = KINDS["alignment"], mesh_of(1, 1, 1)
    save(tmp_path, config, mesh, 2, 4)
    for step in ("2", "4"):
        shutil.rmtree(checkpoint.steps_dir(tmp_path) / step / "params" / "ocdbt.process_0")
    with pytest.raises(CheckpointError, match=r"got steps \[2, 4\] of which none can be read"):
        restored(tmp_path, config, mesh)
    assert checkpoint.complete_steps(tmp_path) == [2, 4]


def test_a_step_saved_in_pieces_is_exported_whole(prepared, tmp_path):
    """W-12: the arrays span eight devices; what is written is what one device would have."""
    config, exported = KINDS["instruct"], []
    tokenizer = load_tokenizer(prepared / "tokenizer")
    for sizes, step in (((1, 4, 2), 4), ((1, 1, 1), 4), ((1, 1, 1), 5)):
        run_dir, mesh = tmp_path / f"run{len(exported)}", mesh_of(*sizes)
        kernel = state_of(config, mesh, step)[0].moving["llm"]["layers"]["mlp"]["up_proj"]["kernel"]
        assert len({str(shard.index) for shard in kernel.addressable_shards}) == mesh.size
        write_run(config, save(run_dir, config, mesh, step), tokenizer, None)
        export(run_dir, tmp_path / f"out{len(exported)}")
        exported.append((tmp_path / f"out{len(exported)}" / SINGLE).read_bytes())
    assert exported[0] == exported[1]
    assert exported[1] != exported[2], "the control: another step"


def test_the_sums_see_every_bit_and_no_mesh():
    state, _ = state_of(KINDS["instruct"], mesh_of(1, 1, 1), 4)
    saved = resume.saved_state(state)
    expected = np.asarray(bit_sums.sums(saved))
    spread = resume.saved_state(state_of(KINDS["instruct"], mesh_of(2, 2, 2), 4)[0])
    assert np.array_equal(bit_sums.sums(spread), expected)
    assert len(set(expected.tolist())) > 0.9 * len(expected)
    name = functools.reduce(lambda tree, key: tree[key], ("llm", "norm"), saved["params"])
    name["scale"] = np.nextafter(name["scale"], np.float32(9e9))
    assert (np.asarray(bit_sums.sums(saved)) != expected).sum() == 1


def test_the_best_step_is_kept_beside_the_last(tmp_path):
    config, mesh = KINDS["alignment"], mesh_of(1, 1, 1)
    losses = {2: 3.0, 4: 1.0, 6: 2.0, 8: None, 10: 2.5}
    for steps in ((2, 4, 6), (8, 10)):  # the second run has to know of the first
        with checkpoint.checkpointer(tmp_path, keep=2) as writer:
            for step in steps:
                resume.save(writer, step, *state_of(config, mesh, step), losses[step])
    assert checkpoint.complete_steps(tmp_path) == [4, 8, 10]
