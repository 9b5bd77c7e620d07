"""Parameters that do not move in a dtype of their own: half the memory, the rest as it was."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from gem_jax import checkpoint, cli, log, lora, orbax_leaves, sharding, step_folders, train
from gem_jax.config import Config, ConfigError, LoraConfig, MeshConfig
from gem_jax.optimizer import split
from gem_jax.paths import flat
from gem_jax.start import param_shapes, placed_params
from gem_jax.weights.read import read_gem

LORA = LoraConfig(4, 8.0)
BFLOAT16 = jnp.dtype("bfloat16")
KERNEL = "llm/layers/self_attn/q_proj/kernel"


def adapted(prepared: Path, dtype: str | None = "bfloat16") -> Config:
    """Adapters and projectors move, with weight decay; the base rests in `dtype`."""
    moving = {"trainable": ("ecg_projector", "mm_projector"), "frozen_dtype": dtype}
    steps = {"init_parts": (), "steps": 4, "checkpoint_every": 2}
    config = tiny.on(prepared, tiny.changed(tiny.instruct(), train=moving | steps))
    assert config.optimizer.weight_decay > 0
    return dataclasses.replace(config, lora=LORA)


@pytest.fixture(scope="module")
def start(prepared, tmp_path_factory) -> Path:
    """A float32 checkpoint."""
    root = tmp_path_factory.mktemp("start") / "model"
    checkpoint.save_model(root, tiny.MODEL, tiny.params(), prepared / "tokenizer", {})
    return root


@pytest.fixture(scope="module")
def ran(prepared, start, tmp_path_factory) -> Path:
    return train.run(adapted(prepared), tmp_path_factory.mktemp("adapted") / "run", start)


def stored(run_dir: Path, step: int = 4) -> dict[str, np.ndarray]:
    """The parameters as they lie there, factors beside kernels."""
    located = checkpoint.Located(run_dir, step)
    shapes = checkpoint.saved_shapes(located) | checkpoint.saved_factors(located)
    frozen = orbax_leaves.load(step_folders.frozen_dir(run_dir), shapes)
    return frozen | orbax_leaves.load(step_folders.step_dir(located), shapes)


def nbytes(leaves: dict) -> int:
    return sum(leaf.nbytes for leaf in leaves.values())


def rounded(leaf: np.ndarray, dtype: str = "bfloat16") -> np.ndarray:
    return np.asarray(jnp.asarray(leaf).astype(dtype))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_is_frozen_takes_half_and_what_moves_is_float32(dtype, prepared, start):
    located, mesh = checkpoint.locate(start), sharding.make_mesh(MeshConfig(1, 4, 2))
    halves, wholes = (
        split(
            placed_params(adapted(prepared, each), located, mesh),
            adapted(prepared).train.trainable,
        )
        for each in (dtype, None)
    )
    for half, whole, parts in zip(map(flat, halves), map(flat, wholes), (1, 2), strict=True):
        assert nbytes(half) * parts == nbytes(whole) > 1000
    expected = flat(tiny.params())
    for path, leaf in flat(halves[1]).items():
        assert leaf.dtype == dtype
        assert np.asarray(leaf).tobytes() == rounded(expected[path], dtype).tobytes(), path
    for path, leaf in flat(halves[0]).items():
        assert leaf.dtype == np.float32
        if path in expected:
            assert np.asarray(leaf).tobytes() == np.asarray(expected[path]).tobytes(), path
    assert {leaf.dtype for leaf in flat(wholes[1]).values()} == {np.dtype("float32")}, "the control"


def test_parts_at_random_are_held_alike(prepared):
    config = tiny.changed(adapted(prepared), train={"init_parts": tuple(tiny.params())})
    made = flat(placed_params(config, None, sharding.make_mesh(MeshConfig())))
    assert {path: leaf.dtype for path, leaf in made.items()} == {
        path: leaf.dtype for path, leaf in flat(param_shapes(config)).items()
    }
    assert {leaf.dtype for leaf in made.values()} == {np.dtype("float32"), BFLOAT16}


def test_a_run_leaves_it_as_it_was(ran):
    before, after = stored(ran, 2), stored(ran)
    frozen = {path for path in after if after[path].dtype == jnp.bfloat16}
    assert frozen and frozen == step_folders.frozen_sums(step_folders.frozen_dir(ran)).keys()
    for path in frozen:
        assert after[path].tobytes() == rounded(flat(tiny.params())[path]).tobytes(), path
    changed = {path for path in after if before[path].tobytes() != after[path].tobytes()}
    assert changed == after.keys() - frozen, "all else moves"


def test_a_run_goes_on_bit_for_bit(ran, prepared, start, tmp_path):
    run_dir = Path(shutil.copytree(ran, tmp_path / "run"))
    shutil.rmtree(run_dir / "checkpoints" / "4")
    train.run(adapted(prepared), run_dir)
    expected = stored(ran)
    for path, leaf in stored(run_dir).items():
        assert (leaf.dtype, leaf.tobytes()) == (expected[path].dtype, expected[path].tobytes())
    rows, others = (log.read_metrics(folder / "metrics.jsonl") for folder in (ran, run_dir))
    for name in ("step", "loss", "grad_norm"):
        assert [row[name] for row in rows] == [row[name] for row in others]
    with pytest.raises(ConfigError, match="is another run's config"):
        train.run(adapted(prepared, "float16"), run_dir)


def merged(leaves: dict[str, np.ndarray]) -> np.ndarray:
    """The kernel merged in float32."""
    kernel, a, b = (
        leaves[path].astype(np.float32) for path in (KERNEL, KERNEL + lora.A, KERNEL + lora.B)
    )
    return kernel + np.float32(LORA.alpha / LORA.rank) * (a @ b)


def test_the_next_stage_moves_it_in_float32(ran, prepared):
    everything = tuple(tiny.params())
    config = dataclasses.replace(adapted(prepared), lora=None)
    config = tiny.changed(config, train={"trainable": everything})
    mesh = sharding.make_mesh(MeshConfig())
    placed = flat(placed_params(config, checkpoint.locate(ran), mesh))
    assert {leaf.dtype for leaf in placed.values()} == {np.dtype("float32")}
    found = np.asarray(placed[KERNEL])
    np.testing.assert_allclose(found, merged(stored(ran)), rtol=1e-6, atol=1e-7)
    assert np.any(found != rounded(found)), "nothing of the adapters is rounded away"


def test_it_is_exported_merged_in_float32_and_rounded_once(ran, tmp_path):
    """It comes back, although the layout knows one dtype for what moved and what did not."""
    assert cli.main(["export", str(ran), str(tmp_path / "out")]) == 0
    config, params = read_gem(tmp_path / "out")
    assert (config.llm.param_dtype, config.ecg.param_dtype) == ("float32", "bfloat16")
    found, leaves = flat(params), stored(ran)
    exact = merged(leaves)
    assert np.mean(np.asarray(found[KERNEL]) == rounded(exact)) > 0.999  # but for ties
    small = {path: rounded(leaf) for path, leaf in leaves.items() if path.startswith(KERNEL)}
    scale = jnp.bfloat16(LORA.alpha / LORA.rank)
    twice = small[KERNEL] + scale * (small[KERNEL + lora.A] @ small[KERNEL + lora.B])
    assert np.any(twice != rounded(exact)), "the control"
    for path, leaf in leaves.items():
        if not lora.is_factor(path) and path + lora.A not in leaves:
            assert found[path].dtype == ("bfloat16" if "_tower/" in path else "float32")
            np.testing.assert_array_equal(found[path].astype(leaf.dtype), leaf, err_msg=path)
    assert cli.main(["export", str(ran), str(tmp_path / "half"), "--dtype", "bfloat16"]) == 0
    half = flat(read_gem(tmp_path / "half")[1])
    assert {leaf.dtype for leaf in half.values()} == {BFLOAT16}
    assert np.array_equal(half[KERNEL], found[KERNEL].astype(BFLOAT16))


def test_a_float32_base_is_merged_before_it_is_rounded(prepared, start, tmp_path):
    """The next stage rests in bfloat16: W + A·B is rounded, not W and then the sum."""
    run_dir = train.run(tiny.changed(adapted(prepared, None), train={"steps": 2}), tmp_path, start)
    stage = dataclasses.replace(adapted(prepared), lora=None)
    placed = placed_params(stage, checkpoint.locate(run_dir), sharding.make_mesh(MeshConfig()))
    leaves = stored(run_dir, 2)
    found, exact = np.asarray(flat(placed)[KERNEL]), rounded(merged(leaves))
    assert np.mean(found == exact) > 0.999
    twice = rounded(merged(leaves | {KERNEL: rounded(leaves[KERNEL])}))
    assert np.mean(twice == exact) < 0.999, "the control"


def test_an_unknown_dtype_is_refused(prepared):
    said = r"train.frozen_dtype: got 'int8', expected bfloat16, float16, float32 or none"
    with pytest.raises(ConfigError, match=said):
        adapted(prepared, "int8")
