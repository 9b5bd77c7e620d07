"""A run that was stopped ends as if it had not been; what does not belong to it is refused."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tiny
from gem_jax import checkpoint, log, resume, step_folders, train
from gem_jax.config import ConfigError, read_json, to_dict
from gem_jax.paths import flat

STEPS = 12
# A process that sends itself a signal as soon as the metrics of a step are written.
STOPPED_AT = """
import os, sys
from gem_jax import cli, log
write, step, number = log.append_metrics, int(sys.argv[1]), int(sys.argv[2])
def append_metrics(path, row):
    write(path, row)
    if row["step"] == step:
        os.kill(os.getpid(), number)
log.append_metrics = append_metrics
sys.exit(cli.main(sys.argv[3:]))
"""
# One on whose disk no file of more than 2000 bytes has room once a step is to be saved.
FULL = """
import resource, sys
from gem_jax import cli, resume
save = resume.save
def save_into_nothing(*args):
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    save(*args)
resume.save = save_into_nothing
sys.exit(cli.main(sys.argv[1:]))
"""


def config_of(**sections):
    return tiny.changed(tiny.instruct(), **sections)


def leaves(tree):
    return {path: np.asarray(leaf) for path, leaf in flat(tree).items()}


@pytest.fixture(scope="module")
def uninterrupted(prepared, tmp_path_factory) -> Path:
    return train.run(tiny.on(prepared, tiny.instruct()), tmp_path_factory.mktemp("whole") / "run")


def told(run_dir: Path):
    rows = log.read_metrics(run_dir / "metrics.jsonl")
    return [(row["step"], row["loss"], row["grad_norm"], row["record_ids_hash"]) for row in rows]


def saved(run_dir: Path):
    return checkpoint.load_tree(checkpoint.locate(run_dir))


def saved_at(run_dir: Path, step: int):
    return checkpoint.load_tree(checkpoint.Located(run_dir, step))


def test_a_run_leaves_config_metrics_and_checkpoints(uninterrupted):
    rows = log.read_metrics(uninterrupted / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(STEPS))
    expected = {"step", "loss", "grad_norm", "learning_rate", "tokens_per_s", "mfu", "data_wait"}
    assert set(rows[0]) == expected | {"record_ids_hash", "labels", "param_norm"}
    assert rows[0]["learning_rate"] == 0.0
    assert rows[2]["learning_rate"] == pytest.approx(3e-3)
    assert all(0 <= row["data_wait"] <= 1 and row["tokens_per_s"] > 0 for row in rows)
    assert rows[0]["mfu"] is None
    assert len({row["record_ids_hash"] for row in rows}) > 1
    assert checkpoint.complete_steps(uninterrupted) == [8, 12]
    assert json.loads((uninterrupted / "config.json").read_text())["train"]["steps"] == STEPS
    assert (uninterrupted / "tokenizer" / "tokenizer.json").is_file()


def interrupt(step: int, number: int, config, run_dir: Path) -> subprocess.CompletedProcess[str]:
    return trained([STOPPED_AT, str(step), str(int(number))], config, run_dir)


def trained(program: list[str], config, run_dir: Path) -> subprocess.CompletedProcess[str]:
    """What a program with its arguments makes of `gem-jax train`, in a process of its own."""
    arguments = ["--data.shards", config.data.shards, "--data.tokenizer", config.data.tokenizer]
    recipe = f"{Path(tiny.__file__)}:instruct"
    root = Path(__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-c", *program, "train", recipe, "--run-dir", str(run_dir), *arguments],
        capture_output=True,
        text=True,
        timeout=200,
        env=os.environ | {"PYTHONPATH": f"{root}:{root / 'tests'}"},
    )


def test_a_full_disk_ends_the_run_in_one_line(prepared, tmp_path):
    config, run_dir = tiny.on(prepared, tiny.instruct()), tmp_path / "run"
    full = trained([FULL], config, run_dir)
    assert full.returncode == 2, full.stderr
    assert f"{run_dir}/checkpoints/4: File too large, expected it to be wri" in full.stderr
    assert "ERROR" not in full.stderr, "orbax's own lines are kept back"
    assert checkpoint.complete_steps(run_dir) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("RESOURCE_EXHAUSTED: Failed to write 9 bytes [os_error_code='28']"),
    ],
)
def test_what_orbax_says_of_a_full_disk_is_told_with_the_step(error, tmp_path):
    (tmp_path / "8.orbax-checkpoint-tmp").mkdir()
    told = f"{tmp_path}/8: No space left on device, expected it to be written; make room"
    with pytest.raises(checkpoint.CheckpointError, match=told), step_folders.writing(tmp_path):
        raise error
    with pytest.raises(ValueError, match="another"), step_folders.writing(tmp_path):
        raise ValueError("another")


def test_a_run_that_was_stopped_thrice_ends_as_the_uninterrupted(prepared, uninterrupted, tmp_path):
    config, run_dir = tiny.on(prepared, tiny.instruct()), tmp_path / "run"
    killed = interrupt(5, signal.SIGKILL, config, run_dir)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert checkpoint.complete_steps(run_dir) in ([], [4]), "the save may still have been under way"
    assert [row[0] for row in told(run_dir)] == list(range(6)), "rows ahead of the checkpoint"
    ended = interrupt(5, signal.SIGTERM, config, run_dir)
    assert ended.returncode == 143, ended.stderr
    assert checkpoint.complete_steps(run_dir)[-1] == len(told(run_dir)) == 7
    broken = interrupt(8, signal.SIGINT, config, run_dir)
    assert broken.returncode == 130, broken.stderr
    assert broken.stderr.splitlines()[-1].endswith("run the same command again to go on")
    assert checkpoint.complete_steps(run_dir)[-1] == len(told(run_dir)) == 10
    train.run(config, run_dir)
    assert told(run_dir) == told(uninterrupted)
    expected = leaves(saved(uninterrupted))
    assert checkpoint.locate(run_dir).step == STEPS
    for path, leaf in leaves(saved(run_dir)).items():
        assert leaf.tobytes() == expected[path].tobytes(), path
    earlier = checkpoint.load_tree(checkpoint.Located(uninterrupted, 8))
    assert leaves(earlier)["llm/norm/scale"].tobytes() != expected["llm/norm/scale"].tobytes()


def test_a_finished_run_does_nothing_more(prepared, uninterrupted):
    before = (uninterrupted / "metrics.jsonl").read_bytes()
    train.run(tiny.on(prepared, tiny.instruct()), uninterrupted)
    assert (uninterrupted / "metrics.jsonl").read_bytes() == before


def test_a_run_of_another_config_is_refused(prepared, uninterrupted):
    before = sorted(uninterrupted.rglob("*"))
    other = tiny.on(prepared, config_of(optimizer={"learning_rate": 1e-3}))
    told = r"is another run's config: optimizer.learning_rate: got 0.001, expected 0.003"
    with pytest.raises(ConfigError, match=told):
        train.run(other, uninterrupted)
    assert sorted(uninterrupted.rglob("*")) == before


def test_a_checkpoint_is_never_ahead_of_its_rows(prepared, tmp_path, monkeypatch):
    save = resume.save

    def save_and_die(*args):
        save(*args)
        raise MemoryError

    monkeypatch.setattr(resume, "save", save_and_die)
    with pytest.raises(MemoryError):
        train.run(tiny.on(prepared, tiny.instruct()), tmp_path / "run")
    assert checkpoint.complete_steps(tmp_path / "run") == [4]
    assert [row[0] for row in told(tmp_path / "run")] == [0, 1, 2, 3]


def saves_of(config, run_dir: Path, monkeypatch, at: dict[int, int] | None = None) -> list[int]:
    """The steps that a run saves, when it is sent the signals `at` the rows of some steps."""
    saves, save, write = [], resume.save, log.append_metrics

    def noted(writer, step, *args):
        saves.append(step)
        save(writer, step, *args)

    def append_metrics(path, row):
        write(path, row)
        if row["step"] in (at or {}):
            os.kill(os.getpid(), at[row["step"]])

    monkeypatch.setattr(resume, "save", noted)
    monkeypatch.setattr(log, "append_metrics", append_metrics)
    train.run(config, run_dir)
    return saves


def test_a_run_saves_on_demand_and_by_minutes(prepared, tmp_path, monkeypatch):
    rarely = tiny.on(prepared, config_of(train={"checkpoint_every": 100, "steps": 6}))
    with monkeypatch.context() as patch:
        asked = saves_of(rarely, tmp_path / "asked", patch, {1: signal.SIGUSR1})
    # Step 1 is told while step 2 runs: three updates are made by then.
    assert asked == [3, 6]
    often = tiny.changed(rarely, train={"checkpoint_minutes": 1e-9})
    with monkeypatch.context() as patch:
        assert saves_of(often, tmp_path / "often", patch) == [1, 2, 3, 4, 5, 6]
    assert checkpoint.complete_steps(tmp_path / "often") == [5, 6]
    assert told(tmp_path / "often") == told(tmp_path / "asked")


def test_a_run_goes_on_on_another_mesh_and_with_other_saves(prepared, tmp_path):
    config = tiny.on(prepared, config_of(train={"checkpoint_every": 3, "steps": 6}))
    run_dir = train.run(config, tmp_path / "run")
    shutil.rmtree(run_dir / "checkpoints" / "6")
    before, expected = told(run_dir), leaves(saved_at(run_dir, 3))
    other = tiny.changed(
        config,
        mesh={"data": 1, "fsdp": 4, "tensor": 2},
        train={"checkpoint_every": 2, "checkpoint_minutes": 60.0, "keep": 5},
    )
    train.run(other, run_dir)
    assert checkpoint.complete_steps(run_dir) == [3, 4, 6]
    assert read_json(run_dir / "config.json") == to_dict(other)
    after = told(run_dir)
    assert after[:3] == before[:3]
    for one, theirs in zip(after, before, strict=True):
        assert (one[0], one[3]) == (theirs[0], theirs[3])
        assert one[1] == pytest.approx(theirs[1], abs=1e-4)
    moved = np.abs(leaves(saved_at(run_dir, 6))["llm/norm/scale"] - expected["llm/norm/scale"])
    assert moved.max() > 1e-4, "the control"


def test_an_init_that_does_not_fit_is_refused(prepared, uninterrupted, tmp_path):
    config = config_of(train={"init_parts": ()})
    llm = dataclasses.replace(config.model.llm, hidden_dim=40)
    wide = dataclasses.replace(config, model=dataclasses.replace(config.model, llm=llm))
    with pytest.raises(ConfigError, match=r"--init: does not fit.*llm/embed_tokens/embedding has"):
        train.run(tiny.on(prepared, wide), tmp_path / "run", uninterrupted)
    assert not (tmp_path / "run").exists()
    with pytest.raises(checkpoint.CheckpointError, match="got no checkpoint"):
        train.run(tiny.on(prepared, config), tmp_path / "run", tmp_path / "nothing")
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_without_its_init(prepared, uninterrupted, tmp_path, monkeypatch):
    config = tiny.on(prepared, config_of(train={"init_parts": ()}))
    write = log.append_metrics

    def append_metrics(path, row):
        write(path, row)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(log, "append_metrics", append_metrics)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="143"):
        train.run(config, tmp_path / "run", uninterrupted)
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.undo()
    stopped = told(tmp_path / "run")
    assert checkpoint.complete_steps(tmp_path / "run") == [len(stopped)] == [2]
    train.run(config, tmp_path / "run")
    assert [row[0] for row in told(tmp_path / "run")] == list(range(STEPS))
    assert told(tmp_path / "run")[:2] == stopped
    assert told(tmp_path / "run")[0][1] < told(uninterrupted)[0][1], "it began from trained parts"
    with pytest.raises(ConfigError, match="give --init CKPT, or, to begin at random, say --train"):
        train.run(config, tmp_path / "other")


def test_the_command_line_changes_fields_of_the_recipe(monkeypatch, tmp_path, capsys):
    recipe = f"{Path(tiny.__file__)}:instruct"
    called = []

    def run(*args, **seen):
        called.append((*args, seen))
        return tmp_path

    monkeypatch.setattr(train, "run", run)
    flags = ["--train.steps", "3", "--model.ecg.num-layers", "2", "--train.trainable", "llm"]
    flags += ["--profile", "3", "--log", "wandb"]
    assert train.cli([recipe, "--run-dir", str(tmp_path), *flags]) == 0
    [(config, run_dir, init, seen)] = called
    assert seen == {"services": ("wandb",), "profile": 3}
    expected = config_of(train={"steps": 3, "trainable": ("llm",)})
    ecg = dataclasses.replace(expected.model.ecg, num_layers=2)
    model = dataclasses.replace(expected.model, ecg=ecg)
    assert config == dataclasses.replace(expected, model=model)
    assert (run_dir, init) == (tmp_path, None)
    capsys.readouterr()
    assert train.cli([recipe, "--run-dir", str(tmp_path), *flags, "--dry-run"]) == 0
    assert "* train.steps = 3  (recipe: 12)" in capsys.readouterr().out
    assert len(called) == 1, "a dry run trains nothing"
    for flag, said in (("--train.steps", "train.steps: got 0"), ("--trian.steps", "--trian")):
        with pytest.raises(SystemExit) as refused:
            train.cli([recipe, "--run-dir", str(tmp_path), flag, "0"])
        assert refused.value.code == 2
        shown = capsys.readouterr().err
        assert said in shown
        assert shown.count("\n") == 1
    with pytest.raises(ConfigError, match=r"data.length: got 999, expected at most"):
        train.cli([recipe, "--run-dir", str(tmp_path), "--data.length", "999"])
    with pytest.raises(ConfigError, match=r"expected RECIPE.py:function first"):
        train.cli(["--run-dir", str(tmp_path)])
