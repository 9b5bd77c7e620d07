"""Evaluation inside training: what is due, whose loss it is, and which checkpoint is the best."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

import tiny
from gem_jax import checkpoint, heldout, log, train
from gem_jax.config import Config, ConfigError, SourceConfig
from gem_jax.data import as_arrays, heldout_batches
from gem_jax.objectives import counts_of, sums_of
from gem_jax.tokenizer import load_tokenizer


def recipe(prepared: Path) -> Config:
    """Six steps, evaluated after four and at the end; two tasks of three held-out records each."""
    shards = str(prepared / "shards")
    held_out = (SourceConfig(shards, split="test"), SourceConfig(shards, split="train"))
    config = tiny.changed(
        tiny.instruct(),
        data={"held_out": held_out, "held_out_rows": 6},
        train={"steps": 6, "eval_every": 4, "checkpoint_every": 5},
    )
    return tiny.on(prepared, config)


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory) -> Path:
    return train.run(recipe(prepared), tmp_path_factory.mktemp("heldout") / "run")


def rows(run_dir: Path) -> list[dict]:
    return log.read_metrics(run_dir / "heldout.jsonl")


def test_a_run_evaluates_when_it_is_due_and_saves(trained):
    assert [row["step"] for row in rows(trained)] == [4, 6]
    best = min(rows(trained), key=lambda row: row["loss"])["step"]
    assert checkpoint.complete_steps(trained) == sorted({best, 5, 6})
    assert [row["step"] for row in log.read_metrics(trained / "metrics.jsonl")] == list(range(6))


def test_the_loss_is_that_of_the_held_out_rows(prepared, trained):
    config, tokenizer = recipe(prepared), load_tokenizer(trained / "tokenizer")
    params = checkpoint.load_tree(checkpoint.Located(trained, 6))
    sums = counts = 0.0
    ids: list[str] = []
    for got in heldout_batches(config, tokenizer):
        batch = as_arrays(got.batch)
        sums += float(sums_of(config, params, batch, None).parts["text"])
        counts += float(counts_of(config, batch, None)["text"])
        ids += [id for id in got.record_ids if id]
    assert len(ids) == 6
    last = rows(trained)[-1]
    assert last["loss"] == pytest.approx(sums / counts, rel=1e-4)
    assert last["loss"] != pytest.approx(rows(trained)[0]["loss"], rel=1e-4), "the control"


def test_a_run_that_goes_on_evaluates_each_step_once(prepared, trained, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(trained, run_dir)
    shutil.rmtree(run_dir / "checkpoints" / "6")
    train.run(recipe(prepared), run_dir)
    assert rows(run_dir) == rows(trained)


@pytest.mark.parametrize(("told_at", "stopped_at"), [(2, 4), (4, 6)])
def test_a_run_told_to_end_where_it_should_evaluate_does_so_when_it_goes_on(
    told_at, stopped_at, prepared, trained, tmp_path, monkeypatch
):
    run_dir, write = tmp_path / "run", log.append_metrics

    def append_metrics(path, row):
        write(path, row)
        if path.name == "metrics.jsonl" and row["step"] == told_at:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(log, "append_metrics", append_metrics)
        with pytest.raises(SystemExit, match="143"):
            train.run(recipe(prepared), run_dir)
    assert checkpoint.complete_steps(run_dir)[-1] == stopped_at
    assert [row["step"] for row in rows(run_dir)] == [4, 6][: stopped_at // 2 - 2], "the control"
    train.run(recipe(prepared), run_dir)
    assert rows(run_dir) == rows(trained)


def test_means_weigh_each_label_and_tell_tasks_apart(tmp_path, capsys):
    first = (({"text": 6.0}, {"text": 4}), (np.array([1.0, 5.0]), np.array([1, 3])))
    second = (({"text": 2.0}, {"text": 4}), (np.array([2.0, 0.0]), np.array([4, 0])))
    told = heldout.means(iter([(first, ("a", "b")), (second, ("a", "b"))]))
    assert told == {"loss": 1.0, "loss/a": 3 / 5, "loss/b": 5 / 3}
    parts = (({"text": 6.0, "waves": 1.0}, {"text": 4, "waves": 2}), (np.zeros(2), np.zeros(2)))
    assert heldout.means(iter([(parts, ())])) == {"loss": 2.0}
    path = tmp_path / "heldout.jsonl"
    heldout.tell_best(path, (1,))
    assert capsys.readouterr().err == ""
    losses = enumerate((3.0, 1.0, 2.0))
    path.write_text("".join(json.dumps({"step": n, "loss": loss}) + "\n" for n, loss in losses))
    heldout.tell_best(path, (0, 1, 2))
    assert capsys.readouterr().err == "best held-out loss 1.0000: checkpoints/1\n"
    heldout.tell_best(path, (0, 2))
    assert capsys.readouterr().err == "best held-out loss 2.0000: checkpoints/2\n"


def test_to_evaluate_on_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"data.held_out: got \(\), expected sources"):
        tiny.changed(tiny.instruct(), train={"eval_every": 2})
