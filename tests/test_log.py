"""Metrics on disk: rows kept and dropped, by process 0 alone; FLOPs by what is trained."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import tiny
from gem_jax import log, record
from gem_jax.data import TrainBatch


def rows_of(path) -> list[int]:
    return [row["step"] for row in log.read_metrics(path)]


def test_a_continued_run_drops_the_rows_that_it_writes_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in range(4):
        log.append_metrics(path, {"step": step})
    with path.open("a") as file:
        file.write('{"step": 4')
    log.truncate_metrics(path, 2)
    assert rows_of(path) == [0, 1]
    assert path.read_text().endswith("}\n")


def test_only_process_0_writes(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    log.append_metrics(path, {"step": 0})
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    log.append_metrics(path, {"step": 1})
    log.truncate_metrics(path, 0)
    assert rows_of(path) == [0]


@pytest.fixture
def work_of(tmp_path, monkeypatch):
    """A function: parts that are trained → FLOPs that a step of them is said to take."""
    counted: list[float] = []
    monkeypatch.setattr(log, "mfu", lambda flops, seconds: counted.append(flops))

    def work_of(*trainable: str) -> float:
        config = tiny.changed(tiny.instruct(), train={"trainable": trainable})
        write = record.recorder(tmp_path / "metrics.jsonl", "run", config, tiny.params(), 0)
        got = TrainBatch(tiny.batch(2), None, ("a", "b"), num_tokens=30, squared_lengths=500)
        write(record.Pending(0, got, 0.0, 0.0, {"loss": jnp.zeros(())}))
        return counted[-1]

    return work_of


def test_a_frozen_language_model_costs_no_gradients_of_its_weights(work_of):
    assert work_of("mm_projector", "llm") == pytest.approx(work_of("mm_projector") * 6 / 4)
