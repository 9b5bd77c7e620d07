"""A run's folder is one training's at a time, whatever the other one dies of."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tiny
from gem_jax import cli, run_lock, train
from gem_jax.config import ConfigError
from gem_jax.run_lock import alone

HOLDER = """
import sys
from pathlib import Path
from gem_jax.run_lock import alone
with alone(Path(sys.argv[1])):
    print("holds it", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of tmp_path/run."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    ) as process:
        assert process.stdout and process.stdout.readline() == "holds it\n"
        yield process
        process.kill()


def test_another_training_in_the_folder_is_refused_until_it_is_gone(holder, tmp_path, capsys):
    run_dir = tmp_path / "run"
    before = (run_dir / "lock").read_text()
    assert before.startswith(f"process {holder.pid} of ")
    recipe = f"{Path(tiny.__file__)}:instruct"
    assert cli.main(["train", recipe, "--run-dir", str(run_dir)]) == 2
    told = capsys.readouterr().err
    assert f"{run_dir}: another process trains there (process {holder.pid} of " in told
    assert told.count("\n") == 1
    assert (run_dir / "lock").read_text() == before, "it is still the other's"
    assert [path.name for path in run_dir.iterdir()] == ["lock"]
    holder.kill()
    holder.wait()
    with alone(run_dir):
        assert (run_dir / "lock").read_text().startswith(f"process {os.getpid()} of ")
        with alone(tmp_path / "other"):
            pass
        with pytest.raises(ConfigError, match="another process trains there"), alone(run_dir):
            pass
    with alone(run_dir):
        pass


def test_the_others_of_a_run_end_with_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock.processes, "is_first", lambda: False)
    monkeypatch.setattr(run_lock, "exchange", lambda own: ["run: another", own])
    with pytest.raises(ConfigError, match="run: another"), alone(tmp_path / "run"):
        pass
    monkeypatch.setattr(run_lock, "exchange", lambda own: [None, own])
    with alone(tmp_path / "run"):
        assert not (tmp_path / "run").exists(), "the first alone writes"


def test_where_nothing_can_be_locked_it_is_said_once(tmp_path, monkeypatch, capsys):
    def none(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with alone(tmp_path / "run"):
        pass
    told = capsys.readouterr().err
    assert "run/lock: cannot be locked here (No locks available); begin no other run" in told
    assert told.count("\n") == 1


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/run/lock: .*expected a folder that can be writt"):
        train.run(tiny.instruct(), tmp_path / "file" / "run")


def test_a_new_folder_in_which_nothing_was_written_is_removed(tmp_path):
    for written in (False, True):
        with alone(tmp_path / "runs" / "run"):
            if written:
                (tmp_path / "runs" / "run" / "config.json").write_text("{}")
        assert (tmp_path / "runs").exists() == written
