"""A run that is killed again and again, also inside a save, ends as the uninterrupted one."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import lives
import tiny
from gem_jax import checkpoint, log, step_folders
from gem_jax.config import Config, to_dict
from gem_jax.paths import flat

pytestmark = pytest.mark.timeout(900)
STEPS = 30


def recipe(prepared: Path, **data) -> Config:
    """A run of small steps; every second one is saved."""
    short = tiny.on(prepared, tiny.changed(tiny.instruct(), data={"batch_size": 2, **data}))
    return tiny.changed(short, train={"steps": STEPS, "checkpoint_every": 2})


@pytest.fixture(scope="module")
def mother(tmp_path_factory) -> Iterator[lives.subprocess.Popen[str]]:
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


@pytest.mark.parametrize(("workers", "kills"), [(0, 20), (2, 6)])
def test_kills_change_nothing(workers, kills, prepared, mother, uninterrupted, tmp_path):
    """Twenty; fewer with worker processes, which take their time to begin."""
    run_dir = tmp_path / "run"
    inside = killed_often(mother, recipe(prepared, workers=workers), run_dir, kills, seed=0)
    assert inside > 0 or workers, "some kills fall inside a save"
    assert [row[0] for row in rows(run_dir)] == list(range(STEPS))
    assert rows(run_dir) == rows(uninterrupted)
    assert checksum(run_dir) == checksum(uninterrupted)
    assert checksum(run_dir) != checksum(run_dir, STEPS - 2), "the control: a step changes it"
    left = [entry.name for entry in checkpoint.steps_dir(run_dir).iterdir()]
    assert sorted(left) == [str(STEPS - 2), str(STEPS)]


def test_kills_while_the_frozen_parameters_are_written_change_nothing(
    prepared, mother, uninterrupted, tmp_path
):
    run_dir, rng = tmp_path / "run", np.random.default_rng(1)
    config = to_dict(recipe(prepared))
    inside = whole = 0
    for number in range(20):
        order = {"at": "frozen", "count": 1, "delay_ms": float(rng.uniform(0, 10 * number))}
        status = lives.live(mother, config=config, run_dir=str(run_dir), **order)
        assert status == -signal.SIGKILL, (number, order)
        whole += step_folders.frozen_dir(run_dir).is_dir()
        inside += any(run_dir.glob("frozen.*tmp*"))
        if inside and whole:
            break
    assert inside, "some kills fall inside it"
    assert lives.live(mother, config=config, run_dir=str(run_dir)) == 0
    assert not any(run_dir.glob("frozen.*"))
    assert rows(run_dir) == rows(uninterrupted)
    assert checksum(run_dir) == checksum(uninterrupted)
