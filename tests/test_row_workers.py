"""Workers make the rows of one process in its order, end with the program, and heed no signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grain
import pytest

from data_prep.records import BadInput
from gem_jax.config import ConfigError
from gem_jax.row_workers import LEFT_TO_THE_PROGRAM, rows_of

NUMBERS = range(3, 14)
ODD = 8


class Told(grain.transforms.Map):
    """Number → the number, whose process told it, and the signals that wait there."""

    def map(self, element: int) -> Any:
        return element, os.getpid(), signal.pthread_sigmask(signal.SIG_BLOCK, [])


class Broken(grain.transforms.Map):
    """Number → the number; one of them is refused."""

    def map(self, element: int) -> int:
        if element == ODD:
            raise BadInput(f"row {element}: is broken")
        return element


class Long(grain.transforms.Map):
    """Number → more than a pipe holds, so that a worker waits until it is taken."""

    def map(self, element: int) -> tuple[int, bytes]:
        return os.getpid(), bytes(10**6)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_rows_come_in_the_order_of_one_process(count):
    with rows_of(Told(), NUMBERS, count) as row:
        told = [row.map(number) for number in NUMBERS]
    assert [number for number, _, _ in told] == list(NUMBERS)
    made_by = {pid for _, pid, _ in told}
    assert len(made_by) == max(1, count)
    assert (os.getpid() in made_by) == (count == 0)


def test_a_row_out_of_turn_is_noticed():
    with rows_of(Told(), NUMBERS, 2) as row, pytest.raises(AssertionError, match="row 3 came for"):
        row.map(5)


def test_the_programs_signals_pass_workers_by_and_not_the_program():
    with rows_of(Told(), NUMBERS, 1) as row:
        assert set(LEFT_TO_THE_PROGRAM) <= row.map(3)[2]
    assert not set(LEFT_TO_THE_PROGRAM) & signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_what_a_row_is_refused_for_is_raised_with_its_place():
    with rows_of(Broken(), NUMBERS, 2) as row:
        assert [row.map(number) for number in range(3, ODD)] == list(range(3, ODD))
        with pytest.raises(BadInput) as refused:
            row.map(ODD)
    assert str(refused.value) == "row 8: is broken"
    (note,) = refused.value.__notes__
    assert "in map" in note and __file__ in note


def test_a_worker_that_is_killed_is_named():
    with rows_of(Long(), range(1000), 2) as row:
        pids = [row.map(number)[0] for number in range(4)]
        os.kill(pids[1], signal.SIGKILL)
        with pytest.raises(ConfigError, match=rf"process {pids[1]} was lost \(exit status -9;"):
            for number in range(4, 1000):
                row.map(number)
        assert number % 2 == 1, "the control: the other one still makes rows"
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


# A program with two workers that each have a row ready, which nobody takes.
PROGRAM = """
import os, time
from gem_jax.row_workers import rows_of
from test_row_workers import Long
if __name__ == "__main__":
    with rows_of(Long(), range(1000), 2) as row:
        print(*(row.map(number)[0] for number in range(2)), flush=True)
        time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_program_that_is_killed_leaves_nothing_behind(tmp_path):
    script, root = tmp_path / "program.py", Path(__file__).parents[1]
    script.write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": f"{root}:{root / 'tests'}"},
    ) as program:
        assert program.stdout
        workers = {int(pid) for pid in program.stdout.readline().split()}
        time.sleep(0.3)
        assert len(workers) == 2 and workers | {program.pid} < session(program.pid), "the control"
        program.kill()
    deadline = time.monotonic() + 30
    while session(program.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not session(program.pid)


def session(leader: int) -> set[int]:
    """Returns the processes of a session that live."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.add(int(entry.name))
    return found
