"""A LoRA run: it goes on where it stopped, and whoever reads it sees the merged model."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from gem_jax import checkpoint, log, lora, orbax_leaves, step_folders, train
from gem_jax.config import LoraConfig
from gem_jax.models.gem import Gem, abstract_params
from gem_jax.paths import flat, nested
from gem_jax.weights import save
from gem_jax.weights.peft import read_adapter, read_factors
from gem_jax.weights.read import read_gem

LORA = LoraConfig(4, 8.0)
ROOT = Path(__file__).parents[1]


def adapted():
    """A recipe that trains adapters and the shared projector over a random base."""
    plain = tiny.instruct()
    moving = dataclasses.replace(plain.train, trainable=("mm_projector",), steps=8)
    return dataclasses.replace(plain, train=moving, lora=LORA)


def told(run_dir: Path):
    rows = log.read_metrics(run_dir / "metrics.jsonl")
    return [(row["step"], row["loss"], row["record_ids_hash"]) for row in rows]


def stored(run_dir: Path, step: int) -> dict[str, np.ndarray]:
    """Returns the parameters as they lie there, factors beside kernels."""
    folders = checkpoint.steps_dir(run_dir) / str(step), step_folders.frozen_dir(run_dir)
    return {
        path: np.asarray(leaf)
        for folder in folders
        for path, leaf in flat(orbax_leaves.load_tree(folder)).items()
    }


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory) -> Path:
    return train.run(tiny.on(prepared, adapted()), tmp_path_factory.mktemp("lora") / "run")


def test_the_base_is_what_it_was_and_the_factors_are_not(whole):
    before, after = stored(whole, 4), stored(whole, 8)
    changed = {path for path, leaf in after.items() if leaf.tobytes() != before[path].tobytes()}
    moving = {path for path in after if lora.is_factor(path) or path.startswith("mm_projector/")}
    assert changed == moving
    assert any(map(lora.is_factor, moving))
    # What a step records of the base is taken from the device as it is then.
    folders = [step_folders.frozen_dir(whole), *checkpoint.steps_dir(whole).iterdir()]
    one, *others = map(step_folders.frozen_sums, folders)
    assert len(others) == 2 and all(other == one for other in others)
    assert one.keys() == after.keys() - moving


def test_a_run_that_was_stopped_ends_as_the_uninterrupted(whole, prepared, tmp_path, monkeypatch):
    config, run_dir = tiny.on(prepared, adapted()), tmp_path / "run"
    write = log.append_metrics

    def append_metrics(path, row):
        write(path, row)
        if row.get("step") == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(log, "append_metrics", append_metrics)
    with pytest.raises(SystemExit, match="143"):
        train.run(config, run_dir)
    monkeypatch.undo()
    assert 4 < checkpoint.complete_steps(run_dir)[-1] < 8
    train.run(config, run_dir)
    assert told(run_dir) == told(whole)
    expected = stored(whole, 8)
    for path, leaf in stored(run_dir, 8).items():
        assert leaf.tobytes() == expected[path].tobytes(), path


def test_whoever_loads_the_run_gets_the_merged_model(whole):
    config, params = checkpoint.load_params(whole)
    expected = lora.merged(nested(stored(whole, 8)), LORA)
    assert {path: np.asarray(leaf).tobytes() for path, leaf in flat(params).items()} == {
        path: np.asarray(leaf).tobytes() for path, leaf in flat(expected).items()
    }
    located = checkpoint.locate(whole)
    one_by_one = dict(checkpoint.leaves(located, checkpoint.whole_shapes(located, config)))
    assert all(
        one_by_one[path].tobytes() == np.asarray(leaf).tobytes()
        for path, leaf in flat(params).items()
    )
    batch = jax.tree.map(jnp.asarray, tiny.batch())
    assert Gem(config).apply({"params": params}, batch).shape[-1] == config.llm.vocab_size


def test_another_run_starts_from_the_merged_model(whole, prepared, tmp_path):
    again = tiny.changed(tiny.on(prepared, adapted()), train={"init_parts": (), "steps": 1})
    train.run(again, tmp_path / "second", whole)
    merged = flat(lora.merged(nested(stored(whole, 8)), LORA))
    second = stored(tmp_path / "second", 1)
    for path, leaf in second.items():
        if path.startswith("llm/") and not lora.is_factor(path):
            assert leaf.tobytes() == np.asarray(merged[path]).tobytes(), path
    # At its first step the rate is 0, and B is where it began.
    assert not any(leaf.any() for path, leaf in second.items() if path.endswith(lora.B))


def exported_base(prepared: Path, folder: Path) -> Path:
    base = (folder / "base", tiny.MODEL, tiny.params(), prepared / "tokenizer", {})
    checkpoint.save_model(*base)
    save.main(folder / "base", folder / "base_official")
    return folder / "base_official"


def sizes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def test_the_run_is_exported_whole_and_as_an_adapter(whole, prepared, tmp_path):
    """W-08: merged it is as large as its base, and holds what the merge gives."""
    save.main(whole, tmp_path / "official")
    _, params = read_gem(tmp_path / "official")
    expected = flat(checkpoint.load_params(whole)[1])
    assert all(
        leaf.tobytes() == np.asarray(expected[path]).tobytes()
        for path, leaf in flat(params).items()
    )
    assert sizes_of(tmp_path / "official") == sizes_of(exported_base(prepared, tmp_path))
    save.main(whole, tmp_path / "adapter", layout="peft")
    assert sizes_of(tmp_path / "official") > 2 * sizes_of(tmp_path / "adapter"), "the control"
    config = checkpoint.read_model_config(checkpoint.locate(whole))
    shapes = flat(abstract_params(config))
    factors = read_factors(read_adapter(tmp_path / "adapter", config, shapes))
    found = {path: leaf for path, leaf in stored(whole, 8).items() if lora.is_factor(path)}
    assert {path: leaf.tobytes() for path, leaf in factors.items()} == {
        path: leaf.tobytes() for path, leaf in found.items()
    }


def test_the_command_line_trains_adapters_without_a_word_of_flax(prepared, tmp_path):
    folders = ["--data.shards", str(prepared / "shards")]
    folders += ["--data.tokenizer", str(prepared / "tokenizer")]
    options = ["--run-dir", str(tmp_path / "run"), "--train.steps", "1", "--lora.rank", "2"]
    program = [sys.executable, "-W", "default", "-m", "gem_jax.cli", "train"]
    done = subprocess.run(
        [*program, f"{Path(__file__)}:adapted", *options, *folders],
        capture_output=True,
        text=True,
        timeout=250,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )
    assert done.returncode == 0, done.stderr
    assert "VariableState" not in done.stderr
    assert checkpoint.read_lora(checkpoint.locate(tmp_path / "run")) == LoraConfig(2, 8.0)
