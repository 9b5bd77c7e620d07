"""Trackers: TensorBoard always, services by name, nothing of it by a process other than 0."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import jax
import pytest

import tiny
from gem_jax import trackers, train
from gem_jax.config import ConfigError

ROW = {"loss": 0.5, "loss/ptbxl": 0.25}


@pytest.fixture
def service(monkeypatch) -> list:
    """What a library in the place of wandb and trackio was asked to do."""
    asked: list = []

    def init(**arguments):
        asked.append(("init", arguments))
        return SimpleNamespace(
            log=lambda row, step: asked.append(("log", step, row)),
            finish=lambda: asked.append(("finish",)),
        )

    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(init=init))
    return asked


def test_event_files_are_written_unasked(tmp_path):
    with trackers.tracked((), tmp_path / "run", tiny.instruct(), 0) as track:
        track(0, ROW)
    (path,) = (tmp_path / "run" / "tensorboard").iterdir()
    content = path.read_bytes()
    assert b"loss/ptbxl" in content
    assert b"grad_norm" not in content


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_service_gets_the_recipe_then_the_rows_and_is_ended_in_any_case(name, service, tmp_path):
    config = tiny.instruct()
    with (
        pytest.raises(FloatingPointError),
        trackers.tracked((name,), tmp_path / "run", config, 0) as track,
    ):
        track(7, ROW)
        raise FloatingPointError
    (_, given), logged, ended = service
    assert (logged, ended) == (("log", 7, ROW), ("finish",))
    assert given["project"] == "gem_jax"
    assert given["name"].startswith("run-")
    assert given["resume"] == "allow"
    assert given["config"]["train"]["steps"] == config.train.steps


def test_runs_of_one_name_in_two_places_are_two(service, tmp_path):
    for place in ("a", "b", "a"):
        with trackers.tracked(("trackio",), tmp_path / place / "run", tiny.instruct(), 0):
            pass
    names = [each[1]["name"] for each in service if each[0] == "init"]
    assert names[0] == names[2] != names[1]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_service_that_is_not_installed_is_named_with_its_cure(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"--log: got {name}.*pip install 'gem_jax\[{name}\]'"):
        trackers.require_services((name,))


def test_only_process_0_tracks(service, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with trackers.tracked(("wandb",), tmp_path / "run", tiny.instruct(), 0) as track:
        track(0, ROW)
    assert service == []
    assert not (tmp_path / "run").exists()


def test_a_run_with_a_missing_service_is_refused_before_anything_is_written(
    prepared, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = tiny.on(prepared, tiny.instruct())
    with pytest.raises(ConfigError, match="--log"):
        train.run(config, tmp_path / "run", services=("wandb",))
    assert not (tmp_path / "run").exists()
