"""A signal is a request; a second Ctrl-C is an order."""

import os
import signal

import pytest

from gem_jax.signals import stop_signals


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_the_first_signal_waits_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with stop_signals() as came:
        assert not came
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert came == [signal.SIGTERM, signal.SIGTERM]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_second_interrupt_does_not_wait() -> None:
    with pytest.raises(KeyboardInterrupt), stop_signals() as came:
        send(signal.SIGINT)
        assert came == [signal.SIGINT]
        send(signal.SIGINT)
