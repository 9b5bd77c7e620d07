"""A run that is killed or told to end, whenever that is, ends as the uninterrupted one."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import lives
import tiny
from gem_jax import checkpoint, log
from gem_jax.config import Config, to_dict
from gem_jax.paths import flat
from test_row_workers import session

pytestmark = pytest.mark.timeout(900)
STEPS = 30
KILLS = 20


def recipe(prepared: Path, **data) -> Config:
    """A run of small steps; every second one is saved."""
    short = tiny.on(prepared, tiny.changed(tiny.instruct(), data={"batch_size": 2, **data}))
    return tiny.changed(short, train={"steps": STEPS, "checkpoint_every": 2})


@pytest.fixture(scope="module")
def mother(tmp_path_factory) -> Iterator[subprocess.Popen[str]]:
    """The process whose children live the runs."""
    with lives.begin(tmp_path_factory.mktemp("mother") / "stderr") as process:
        yield process
        process.stdin.close()
        assert process.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def uninterrupted(prepared, mother, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    assert lives.live(mother, config=to_dict(recipe(prepared)), run_dir=str(run_dir)) == 0
    return run_dir


def rows(run_dir: Path) -> list[tuple]:
    found = log.read_metrics(run_dir / "metrics.jsonl")
    return [(row["step"], row["loss"], row["grad_norm"], row["record_ids_hash"]) for row in found]


def checksum(run_dir: Path, step: int = STEPS) -> str:
    params = flat(checkpoint.load_tree(checkpoint.Located(run_dir, step)))
    digest = hashlib.sha256()
    for path in sorted(params):
        digest.update(path.encode() + np.asarray(params[path]).tobytes())
    return digest.hexdigest()


def killed_often(mother, config: Config, run_dir: Path, kills: int, seed: int) -> int:
    """Lives the run with `kills` kills in it; returns how many left an unfinished save behind."""
    rng, inside = np.random.default_rng(seed), 0
    for number in range(kills):
        at = "save" if number % 2 else "row"
        # Small counts, so that the run is not over before its last kill.
        count = int(rng.integers(1, 3 if at == "save" else 5))
        delay_ms = float(rng.uniform(0, 120 if at == "save" else 60))
        order = {"at": at, "count": count, "delay_ms": delay_ms}
        status = lives.live(mother, config=to_dict(config), run_dir=str(run_dir), **order)
        assert status == -signal.SIGKILL, (number, order)
        inside += any(checkpoint.steps_dir(run_dir).glob("*tmp*"))
        saved = checkpoint.complete_steps(run_dir)
        assert (saved[-1] if saved else 0) <= len(rows(run_dir)), "a checkpoint ahead of its rows"
    assert lives.live(mother, config=to_dict(config), run_dir=str(run_dir)) == 0
    return inside


@pytest.mark.parametrize("workers", [0, 2])
def test_kills_change_nothing(workers, prepared, mother, uninterrupted, tmp_path):
    """D-03, C-03: twenty, half of them about a save."""
    run_dir = tmp_path / "run"
    inside = killed_often(mother, recipe(prepared, workers=workers), run_dir, KILLS, seed=workers)
    assert inside > 0, "some kills fall inside a save"
    assert_the_same(run_dir, uninterrupted)
    left = [entry.name for entry in checkpoint.steps_dir(run_dir).iterdir()]
    assert sorted(left) == [str(STEPS - 2), str(STEPS)]


def assert_the_same(run_dir: Path, uninterrupted: Path) -> None:
    assert [row[0] for row in rows(run_dir)] == list(range(STEPS))
    assert rows(run_dir) == rows(uninterrupted)
    assert checksum(run_dir) == checksum(uninterrupted)
    assert checksum(run_dir) != checksum(run_dir, STEPS - 2), "the control: a step changes it"


def test_a_run_killed_before_any_of_its_first_files_begins_again(
    prepared, mother, uninterrupted, tmp_path
):
    """Each life dies before a later file than the last, on what that one left."""
    order = {"config": to_dict(recipe(prepared)), "run_dir": str(tmp_path / "run")}
    count, seen = -1, []
    while not rows(tmp_path / "run"):
        count += 2
        status = lives.live(mother, **order, at="file", count=count, delay_ms=0)
        assert status == -signal.SIGKILL, count
        seen.append({str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")})
    for name in ("run", "run/config.json", "run/data.json", "run/frozen"):
        there = [name in left for left in seen]
        assert there == sorted(there) and there[-1], f"{name} goes again"
    assert "run" not in seen[0] and "run/config.json" not in seen[1]
    assert any("run/frozen." in name for left in seen for name in left), "inside the frozen save"
    assert "run/tokenizer/tokenizer.json" in seen[-1]
    assert lives.live(mother, **order) == 0
    assert not any((tmp_path / "run").glob("frozen.*"))
    assert_the_same(tmp_path / "run", uninterrupted)


def begun(run_dir: Path, prepared: Path) -> subprocess.Popen[str]:
    """Returns `gem-jax train` with two workers, as the leader of a session and a process group."""
    short = {"train.steps": STEPS, "train.checkpoint-every": 2, "data.batch-size": 2}
    flags = short | {f"data.{name}": prepared / name for name in ("shards", "tokenizer")}
    given = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "gem_jax.cli", "train", f"{tiny.__file__}:instruct"]
    return subprocess.Popen(
        [*command, "--run-dir", str(run_dir), "--data.workers", "2", *given],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=lives.environment(),
    )


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_signals_to_program_and_workers_alike_end_it_quietly(
    prepared, mother, uninterrupted, tmp_path
):
    """D-02, C-04: a terminal's Ctrl-C and a scheduler's SIGTERM come to every process of a run."""
    run_dir, said = tmp_path / "run", []
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGTERM, 143)):
        before = len(rows(run_dir))
        with begun(run_dir, prepared) as program:
            # The first while the workers still begin, the others while they work.
            while len(session(program.pid)) < 3 or (said and len(rows(run_dir)) <= before):
                assert program.poll() is None, program.stderr and program.stderr.read()
                time.sleep(0.01)
            os.killpg(program.pid, number)
            _, told = program.communicate(timeout=200)
        assert program.returncode == status, told
        said.append([line for line in told.splitlines() if not line.startswith("train ")])
        saved = checkpoint.complete_steps(run_dir)
        assert not said[1:] or saved[-1] == len(rows(run_dir)) > before, "saved, and each row told"
        while session(program.pid):
            time.sleep(0.05)
    assert said == [[], ["gem-jax train: interrupted; run the same command again to go on"], []]
    assert len(rows(run_dir)) < STEPS, "the control: it was not over"
    assert lives.live(mother, config=to_dict(recipe(prepared)), run_dir=str(run_dir)) == 0
    assert_the_same(run_dir, uninterrupted)


def test_sigterms_without_end_leave_a_whole_save(prepared, tmp_path):
    run_dir = tmp_path / "run"
    with begun(run_dir, prepared) as program:
        while len(rows(run_dir)) < 3:
            assert program.poll() is None
            time.sleep(0.01)
        while program.poll() is None:
            program.send_signal(signal.SIGTERM)
            time.sleep(0.01)
        _, told = program.communicate(timeout=200)
    assert program.returncode == 143, told
    assert "Traceback" not in told and "ignored" not in told
    assert 3 < len(rows(run_dir)) < STEPS
    assert checkpoint.complete_steps(run_dir)[-1] == len(rows(run_dir))
    assert not any(checkpoint.steps_dir(run_dir).glob("*tmp*"))
