"""A step whose numbers are not finite ends the run; what came of it is not saved."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from gem_jax import checkpoint, log, loop, train
from gem_jax.config import ConfigError

NAN = float("nan")


def kept_of(run_dir: Path) -> dict:
    return json.loads((run_dir / "nonfinite.json").read_text())


def steps_of(run_dir: Path) -> list[int]:
    return [row["step"] for row in log.read_metrics(run_dir / "metrics.jsonl")]


@pytest.fixture
def shown(monkeypatch) -> dict[int, list[str]]:
    """The records of each step, filled while the run reads its batches."""
    batches, found = loop.train_batches, {}

    def noted(*args):
        for step, got in enumerate(batches(*args)):
            found[step] = list(got.record_ids)
            yield got

    monkeypatch.setattr(loop, "train_batches", noted)
    return found


def spoil(monkeypatch, guilty: int, name: str) -> None:
    """Makes the step's metric not finite."""
    step = loop.train_step

    def spoilt(state, *args, **options):
        after, metrics = step(state, *args, **options)
        value = jnp.where(state.step == guilty, NAN, metrics[name])
        return after, metrics | {name: value}

    monkeypatch.setattr(loop, "train_step", spoilt)


def test_a_batch_that_makes_it_is_named_with_what_reproduces_it(prepared, tmp_path, monkeypatch):
    batches, ids = loop.train_batches, {}

    def broken(*args):
        for step, got in enumerate(batches(*args)):
            ecg = np.full_like(got.batch.ecg, np.nan if step == 5 else 0.0)
            ids[step] = list(got.record_ids)
            yield dataclasses.replace(got, batch=got.batch.replace(ecg=ecg))

    monkeypatch.setattr(loop, "train_batches", broken)
    config, run_dir = tiny.on(prepared, tiny.instruct()), tmp_path / "run"
    said = (
        r"step 5: grad_norm is nan, loss is nan, expected finite numbers; .*nonfinite.json names "
        r"its records.* from step 4: .* --inspect 2, or lower .* in a new --run-dir$"
    )
    with pytest.raises(ConfigError, match=said):
        train.run(config, run_dir)
    assert checkpoint.complete_steps(run_dir) == [4]
    assert steps_of(run_dir) == [0, 1, 2, 3, 4]
    kept = kept_of(run_dir)
    assert (kept["step"], kept["record_ids"]) == (5, ids[5])
    assert kept["record_ids"] != ids[4], "the control"
    assert (kept["seed"], kept["data_seed"]) == (config.train.seed, config.data.seed)
    assert (kept["metrics"]["loss"], kept["checkpoints"]) == ("nan", [4])


@pytest.mark.parametrize("name", ["grad_norm", "param_norm"])
def test_what_came_of_it_is_not_saved_even_where_a_save_is_due(
    name, prepared, tmp_path, monkeypatch, shown
):
    spoil(monkeypatch, 5, name)
    often = tiny.changed(tiny.instruct(), train={"checkpoint_every": 3})
    with pytest.raises(ConfigError, match=rf"step 5: {name} is nan, .* from step 3.*--inspect 3,"):
        train.run(tiny.on(prepared, often), tmp_path / "run")
    assert checkpoint.complete_steps(tmp_path / "run") == [3]
    kept = kept_of(tmp_path / "run")
    assert (kept["step"], kept["record_ids"], kept["checkpoints"]) == (5, shown[5], [3])


def test_a_save_under_way_is_waited_for_and_named(prepared, tmp_path, monkeypatch):
    spoil(monkeypatch, 4, "loss")
    with pytest.raises(ConfigError, match=r"step 4: loss is nan, .* from step 4.*--inspect 1,"):
        train.run(tiny.on(prepared, tiny.instruct()), tmp_path / "run")
    kept = kept_of(tmp_path / "run")
    assert kept["checkpoints"] == checkpoint.complete_steps(tmp_path / "run") == [4]


def test_what_it_says_of_inspecting_shows_the_step(prepared, tmp_path, monkeypatch, capsys, shown):
    spoil(monkeypatch, 5, "grad_norm")
    run_dir, config = tmp_path / "run", tiny.on(prepared, tiny.instruct())
    with pytest.raises(ConfigError, match=r"--inspect 2,"):
        train.run(config, run_dir)
    flags = [f"--data.{name}={prepared / name}" for name in ("shards", "tokenizer")]
    recipe = f"{Path(tiny.__file__)}:instruct"
    assert train.cli([recipe, f"--run-dir={run_dir}", *flags, "--inspect=2"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.split(":")[0] for line in told] == ["step 4", "step 5"]
