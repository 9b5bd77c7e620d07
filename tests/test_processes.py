"""Two real processes train as one; what they write is written once; a lost one is named."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import tiny
from gem_jax import checkpoint, log, processes, sharding, train
from gem_jax.config import Config, ConfigError, MeshConfig
from gem_jax.paths import flat
from gem_jax.run_lock import alone

pytestmark = pytest.mark.timeout(900)
ROOT = Path(__file__).parents[1]
LOCAL = ROOT / "experiments" / "launch" / "local.py"
STEPS = 6
RECIPE = f"{Path(tiny.__file__)}:instruct"


def flags(prepared: Path, run_dir: Path, *more: str) -> list[str]:
    folders = ["--data.shards", f"{prepared}/shards", "--data.tokenizer", f"{prepared}/tokenizer"]
    return ["--run-dir", str(run_dir), "--train.steps", str(STEPS), *folders, *more]


def begin(count: int, args: list[str], devices: int = 2) -> subprocess.Popen[str]:
    """Returns the parent of `count` processes of `gem-jax train`, each with some devices."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    own = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "XLA_FLAGS": flags}
    command = [sys.executable, "-m", "gem_jax.cli", "train", RECIPE, *args]
    return subprocess.Popen(
        [sys.executable, str(LOCAL), str(count), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | own,
    )


def rows(run_dir: Path) -> list[dict]:
    return log.read_metrics(run_dir / "metrics.jsonl")


def wait_for_rows(run_dir: Path, count: int) -> None:
    while len(rows(run_dir)) < count:
        time.sleep(0.1)


@pytest.fixture(scope="module")
def together(prepared, tmp_path_factory) -> Path:
    """A run of two processes with two devices each."""
    run_dir = tmp_path_factory.mktemp("two") / "run"
    with begin(2, flags(prepared, run_dir, "--mesh.data", "2", "--mesh.fsdp", "2")) as parent:
        said, told = parent.communicate(timeout=800)
    assert parent.returncode == 0, told
    assert said.count(str(run_dir)) == 1, "the first alone tells"
    return run_dir


def recipe(prepared: Path) -> Config:
    return tiny.on(prepared, tiny.changed(tiny.instruct(), train={"steps": STEPS}))


def params(run_dir: Path, step: int = STEPS) -> dict[str, np.ndarray]:
    saved = flat(checkpoint.load_tree(checkpoint.Located(run_dir, step)))
    return {path: np.asarray(leaf) for path, leaf in saved.items()}


def test_two_processes_see_the_records_and_losses_of_one(prepared, together, tmp_path):
    alone = train.run(recipe(prepared), tmp_path / "alone")
    assert [row["step"] for row in rows(together)] == list(range(STEPS)), "each row once"
    for ours, theirs in zip(rows(together), rows(alone), strict=True):
        assert ours["record_ids_hash"] == theirs["record_ids_hash"]
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-6)
    assert len({row["record_ids_hash"] for row in rows(together)}) > 1, "the control"
    assert abs(rows(alone)[0]["loss"] - rows(alone)[-1]["loss"]) > 1e-3, "the control"


def test_both_are_refused_where_another_trains(prepared, tmp_path):
    with alone(tmp_path / "run"), begin(2, flags(prepared, tmp_path / "run")) as parent:
        _, told = parent.communicate(timeout=300)
    assert parent.returncode == 2, told
    assert "another process trains there" in told
    assert not (tmp_path / "run").exists(), "nobody wrote anything"


def test_one_process_goes_on_from_what_two_have_saved(prepared, together, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(together, run_dir)
    shutil.rmtree(run_dir / "checkpoints" / str(STEPS))
    train.run(recipe(prepared), run_dir)
    assert [row["step"] for row in rows(run_dir)] == list(range(STEPS))
    assert rows(run_dir)[:4] == rows(together)[:4]
    assert rows(run_dir)[4:] != rows(together)[4:], "the control: these steps were taken anew"
    ours, theirs, before = params(run_dir), params(together), params(together, 4)
    for path, leaf in theirs.items():
        np.testing.assert_allclose(ours[path], leaf, atol=1e-5, err_msg=path)
    assert np.abs(ours["llm/norm/scale"] - before["llm/norm/scale"]).max() > 1e-4, "the control"


def test_a_step_that_one_of_them_cannot_read_is_passed_over_by_both(prepared, together, tmp_path):
    """C-03, D-09: told once; they go on from the step before, bit for bit as the first time."""
    run_dir = tmp_path / "run"
    shutil.copytree(together, run_dir)
    own = [*(checkpoint.steps_dir(run_dir) / str(STEPS)).rglob("ocdbt.process_1/d/*")]
    assert own
    for path in own:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    args = flags(prepared, run_dir, "--mesh.data", "2", "--mesh.fsdp", "2")
    aside = f"{STEPS}: cannot be read, set aside as {STEPS}.damaged; the run goes on from step 4"
    for told_times in (1, 0):  # the second time is the control: the newest is as it was written
        with begin(2, args) as parent:
            _, told = parent.communicate(timeout=300)
        assert parent.returncode == 0, told
        assert told.count(aside) == told.count("cannot be read") == told_times, told
        assert told.count("train 6/6") == told_times
        assert seen(run_dir) == seen(together)
    assert (checkpoint.steps_dir(run_dir) / f"{STEPS}.damaged").is_dir()
    ours, theirs = params(run_dir), params(together)
    assert all(ours[path].tobytes() == leaf.tobytes() for path, leaf in theirs.items())


def seen(run_dir: Path) -> list[tuple]:
    return [(row["step"], row["loss"], row["record_ids_hash"]) for row in rows(run_dir)]


def test_a_lost_process_is_named_and_the_others_end(prepared, tmp_path):
    run_dir = tmp_path / "run"
    with begin(2, flags(prepared, run_dir, "--train.steps", "100000")) as parent:
        wait_for_rows(run_dir, 2)
        listed = subprocess.run(
            ["ps", "--ppid", str(parent.pid), "-o", "pid="],
            capture_output=True,
            text=True,
            check=True,
        )
        first, second = sorted(map(int, listed.stdout.split()))
        os.kill(second, signal.SIGKILL)
        began = time.monotonic()
        _, told = parent.communicate(timeout=120)
    assert time.monotonic() - began < 60
    assert parent.returncode == 128 + signal.SIGKILL
    last = told.splitlines()[-1]
    assert last.startswith(f"local.py: process 1 of 2 (pid {second}) was lost by SIGKILL"), told
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


def test_a_sigterm_saves_in_all_of_them(prepared, tmp_path):
    run_dir = tmp_path / "run"
    with begin(2, flags(prepared, run_dir, "--train.steps", "100000")) as parent:
        wait_for_rows(run_dir, 2)
        parent.send_signal(signal.SIGTERM)
        _, told = parent.communicate(timeout=300)
    assert parent.returncode == 143, told
    assert checkpoint.complete_steps(run_dir)[-1] == len(rows(run_dir))


def test_the_environment_is_whole_or_refused(monkeypatch):
    joined = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: joined.append(given))
    processes.join(asked=False)
    assert joined == []
    monkeypatch.setenv(processes.COUNT, "2")
    with pytest.raises(ConfigError, match="JAX_PROCESS_ID as numbers, all three of them"):
        processes.join(asked=False)
    monkeypatch.setenv(processes.COORDINATOR, "127.0.0.1:1")
    monkeypatch.setenv(processes.INDEX, "one")
    with pytest.raises(ConfigError, match="as numbers"):
        processes.join(asked=True)
    monkeypatch.setenv(processes.INDEX, "1")
    processes.join(asked=False)
    assert (joined[0]["num_processes"], joined[0]["process_id"]) == (2, 1)


def test_a_batch_that_the_mesh_cannot_cut_is_refused():
    mesh = sharding.make_mesh(MeshConfig(2, 2, 2))
    placed = processes.placement(mesh, 8)({"rows": np.arange(8)})
    assert placed["rows"].sharding == sharding.batch_sharding(mesh)
    with pytest.raises(ConfigError, match=r"data.batch_size: got 6, expected a multiple of.*\(4\)"):
        processes.placement(mesh, 6)


@pytest.mark.parametrize("args", [[], ["0", "true"], ["two", "true"], ["2"]])
def test_a_parent_without_a_command_says_how_it_is_used(args):
    done = subprocess.run([sys.executable, str(LOCAL), *args], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: local.py N COMMAND")
