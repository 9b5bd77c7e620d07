"""A signal is a wish; a second Ctrl-C is an order."""

import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gem_jax.signals import INTERRUPT, NOTHING, SAVE, TERMINATE, end, ending_signals, take, wishes


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_the_first_signal_waits_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with wishes() as came:
        assert not came
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert came == [TERMINATE, TERMINATE]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_second_interrupt_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), wishes() as came:
        send(signal.SIGINT)
        assert came == [INTERRUPT]
        send(signal.SIGINT)


# A verb that collects garbage with a callback, during which the signal comes, and would run on.
SWALLOWING = """
import gc, os, signal, sys, time, types
from gem_jax import cli

def sent(phase, info):
    if phase == "start":
        gc.callbacks.remove(sent)
        os.kill(os.getpid(), signal.{name})
        time.sleep(0)

def main() -> int:
    "Collect."
    gc.callbacks.append(sent)
    gc.collect()
    time.sleep(60)
    return 0

sys.modules["probe"] = types.ModuleType("probe")
sys.modules["probe"].main = main
cli.VERBS["probe"] = cli.Verb("probe", "Probe.")
sys.exit(cli.main(["probe"]))
"""


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_that_python_ignored_comes_again(name: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWING.replace("{name}", name)],
        capture_output=True,
        text=True,
        timeout=50,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.returncode == status
    assert "ignored" not in done.stderr and done.stderr.count("\n") == (status == 130)


def test_it_comes_again_until_it_gets_through() -> None:
    times = []

    def swallow(phase: str, info: dict) -> None:
        if phase == "start" and len(times) < 3:
            times.append(phase)
            if len(times) == 1:
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)  # What comes again ends it, and is ignored as well.

    try:
        with pytest.raises(KeyboardInterrupt), ending_signals():
            gc.callbacks.append(swallow)
            for _ in range(3):
                gc.collect(0)
            time.sleep(30)
    finally:
        gc.callbacks.remove(swallow)
    assert len(times) == 3


def test_other_errors_that_are_ignored_are_told_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: told.append(what.exc_type))

    class Broken:
        def __del__(self) -> None:
            raise ValueError

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)
    with ending_signals():
        Broken()
    assert told == [ValueError]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)) == before


def test_a_signal_to_save_does_nothing_where_no_loop_runs() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with ending_signals():
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
        with wishes() as came:
            send(signal.SIGUSR1)
        send(signal.SIGUSR1)
        assert came == [SAVE]
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_program_that_a_sigterm_ends_is_not_killed_by_the_next() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit, match="2"), ending_signals():
            raise SystemExit(2)
        assert signal.getsignal(signal.SIGTERM) == before, "the control"
        with pytest.raises(SystemExit, match="143"), ending_signals():
            send(signal.SIGTERM)
        send(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_each_wish_to_save_is_answered_once_and_one_to_end_stays() -> None:
    with wishes() as came:
        assert take(came) == NOTHING
        send(signal.SIGUSR1)
        assert (take(came), take(came)) == (SAVE, NOTHING)
        send(signal.SIGUSR1)
        send(signal.SIGINT)
        assert (take(came), take(came), came) == (INTERRUPT, INTERRUPT, [INTERRUPT])
        end(SAVE)
        with pytest.raises(KeyboardInterrupt):
            end(take(came))
    with pytest.raises(SystemExit) as ended:
        end(TERMINATE)
    assert ended.value.code == 143
