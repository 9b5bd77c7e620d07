"""A profile: of as many steps as asked, behind the first two, ended with the run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from gem_jax.profiling import profiled


@pytest.fixture
def calls(monkeypatch) -> list:
    """What was asked of the profiler, and the steps between."""
    said: list = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *a, **k: said.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: said.append("stop"))
    return said


def steps(calls: list, first: int, end: int, count: int, tmp_path) -> list:
    with profiled(tmp_path, first, count) as before:
        for step in range(first, end):
            before(step, jnp.zeros(()))
            calls.append(step)
    return calls


def test_the_steps_behind_the_first_two_are_traced(calls, tmp_path):
    assert steps(calls, 5, 11, 3, tmp_path) == [5, 6, "start", 7, 8, 9, "stop", 10]


def test_a_run_that_ends_before_leaves_a_shorter_trace(calls, tmp_path):
    assert steps(calls, 0, 3, 5, tmp_path) == [0, 1, "start", 2, "stop"]


def test_a_run_that_is_not_profiled_or_too_short_leaves_none(calls, tmp_path):
    assert steps(calls, 0, 4, 0, tmp_path) == [0, 1, 2, 3]
    calls.clear()
    assert steps(calls, 0, 2, 4, tmp_path) == [0, 1]


def test_a_real_trace_is_there(tmp_path):
    with profiled(tmp_path, 0, 1) as before:
        for step in range(4):
            before(step, jnp.ones((8, 8)) @ jnp.ones((8, 8)))
    assert [path.name for path in tmp_path.rglob("perfetto_trace.json.gz")]
    assert list(tmp_path.rglob("*.xplane.pb"))
