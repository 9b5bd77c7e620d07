"""Metrics on disk: rows kept and dropped, by process 0 alone; FLOPs by what is trained."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import pytest

import tiny
from gem_jax import log, record
from gem_jax.config import ConfigError
from gem_jax.data import TrainBatch

BATCH = TrainBatch(
    tiny.batch(2),
    None,
    ("a", "b"),
    num_tokens=30,
    squared_lengths=500,
    tasks=("ptbxl", "ludb"),
    skipped=3,
)


def sent(step: int, metrics: dict, *times: float) -> record.Pending:
    """A step with the times since, asked, arrived and ended."""
    since, asked, arrived, ended = times or (0.0, 0.0, 0.0, 1.0)
    return record.Pending(step, BATCH, since, asked, arrived, metrics, lambda: ended)


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


def test_only_process_0_writes_and_speaks(tmp_path, monkeypatch, capsys):
    path = tmp_path / "metrics.jsonl"
    log.append_metrics(path, {"step": 0})
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    log.append_metrics(path, {"step": 1})
    log.truncate_metrics(path, 0)
    log.progress("run", 0, 1)(1, {"loss": 0.0})
    assert rows_of(path) == [0]
    assert capsys.readouterr().err == ""


@pytest.fixture
def work_of(tmp_path, monkeypatch):
    """A function: parts that are trained → FLOPs that a step of them is said to take."""
    counted: list[float] = []
    monkeypatch.setattr(log, "mfu", lambda flops, seconds: counted.append(flops))

    def work_of(*trainable: str) -> float:
        config = tiny.changed(tiny.instruct(), train={"trainable": trainable})
        write = record.recorder(tmp_path / "metrics.jsonl", "run", config, tiny.params(), 0)
        write(sent(0, {"loss": jnp.zeros(())}))
        return counted[-1]

    return work_of


def test_a_frozen_language_model_costs_no_gradients_of_its_weights(work_of):
    assert work_of("mm_projector", "llm") == pytest.approx(work_of("mm_projector") * 6 / 4)


def test_a_steps_row_is_complete_and_goes_to_the_trackers_as_numbers(tmp_path):
    tracked: list = []
    rates = {"learning_rate": 0.2, "learning_rates": (("mm_projector", 0.1),)}
    config = tiny.changed(tiny.instruct(), optimizer=rates)
    write = record.recorder(
        *(tmp_path / "metrics.jsonl", "run", config, tiny.params(), 0),
        track=lambda step, row: tracked.append((step, row)),
    )
    metrics = {name: jnp.ones(()) for name in ("loss", "grad_norm", "param_norm")}
    rows = {"row_loss": jnp.array([3.0, 8.0]), "row_labels": jnp.array([2, 4])}
    write(sent(5, metrics | rows))
    (row,) = log.read_metrics(tmp_path / "metrics.jsonl")
    assert row["step"] == 5
    assert (row["loss/ptbxl"], row["loss/ludb"]) == (1.5, 2.0)
    assert {*metrics, "learning_rate", "tokens_per_s", "mfu", "data_wait"} < set(row)
    assert row["records_skipped"] == 3
    assert row["learning_rate"] > 0
    assert row["learning_rate/mm_projector"] == pytest.approx(row["learning_rate"] / 2)
    assert not set(rows) & set(row)
    ((step, numbers),) = tracked
    assert step == 5
    assert numbers == {
        name: value for name, value in row.items() if name not in ("step", "mfu", "record_ids_hash")
    }


def test_the_loss_of_a_task_is_the_mean_over_its_labels():
    loss = {"row_loss": jnp.array([1.0, 6.0, 0.0]), "row_labels": jnp.array([1, 1, 0])}
    told = record.scalars(loss, ("a", "a", "b"))
    assert told == {"loss/a": 3.5}, "a task without a label has no loss"
    assert record.scalars(loss, ("a", "b", "b")) == {"loss/a": 1.0, "loss/b": 6.0}
    assert record.scalars(loss, ()) == {}


@pytest.mark.parametrize("name", ["loss", "grad_norm", "param_norm"])
def test_a_number_that_is_not_finite_ends_the_run_before_its_row_is_written(name, tmp_path):
    path = tmp_path / "metrics.jsonl"
    write = record.recorder(path, "run", tiny.instruct(), tiny.params(), 0)
    metrics = {"loss": jnp.ones(()), "grad_norm": jnp.ones(()), "param_norm": jnp.ones(())}
    write(sent(2, metrics))
    with pytest.raises(FloatingPointError, match=f"^step 3: {name} is inf$"):
        write(sent(3, metrics | {name: jnp.array(float("inf"))}))
    assert rows_of(path) == [2]


def test_a_rows_time_goes_from_the_end_of_a_step_to_the_end_of_the_next(tmp_path):
    path, metrics = tmp_path / "metrics.jsonl", {"loss": jnp.zeros(())}
    write = record.recorder(path, "run", tiny.instruct(), tiny.params(), 0)
    # Since, asked, arrived, ended: the second waits while the first is under way, and after it.
    for step, times in enumerate([(10, 10, 11, 14), (10, 12, 16, 19), (10, 16, 17, 22)]):
        write(sent(step, metrics, *times))
    # What it took to save until 30 is nobody's.
    write(sent(3, metrics, 30, 30, 31, 32))
    rows = log.read_metrics(path)
    assert [30 / row["tokens_per_s"] for row in rows] == pytest.approx([4, 5, 3, 2])
    assert [row["data_wait"] for row in rows] == pytest.approx([1 / 4, 2 / 5, 0, 1 / 2])


def test_mfu_is_told_with_its_formula_where_the_peak_is_known(tmp_path, monkeypatch, capsys):
    def told() -> str:
        write = record.recorder(tmp_path / "m.jsonl", "run", tiny.instruct(), tiny.params(), 11)
        write(sent(11, {"loss": jnp.zeros(())}))
        return capsys.readouterr().err

    assert "mfu" not in told()
    monkeypatch.setitem(log.PEAK_FLOPS, jax.devices()[0].device_kind, 1e9)
    formula, line = told().splitlines()
    assert formula.startswith("mfu: k·N + k·T·d·L FLOPs a token: k = 6, N = ")
    assert "8 GFLOP/s of 8 × cpu" in formula
    assert re.fullmatch(r"run 12/12 [0-9.]+ steps/s loss 0\.000 mfu [0-9]+%", line)


@pytest.mark.parametrize("broken", [b'{"step": \n', b"\x00\x00\n", b"7\n", b'{"loss": 1.0}\n'])
def test_a_broken_line_is_named(broken, tmp_path):
    path = tmp_path / "metrics.jsonl"
    log.append_metrics(path, {"step": 0})
    path.write_bytes(path.read_bytes() + broken + b'{"step": 2}\n')
    with pytest.raises(ConfigError, match=r"metrics.jsonl: line 2: .*remove the line"):
        log.truncate_metrics(path, 2)
    path.write_bytes(path.read_bytes().replace(broken, b""))
    assert rows_of(path) == [0, 2]
