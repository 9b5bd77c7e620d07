"""A signal is a wish; a second Ctrl-C is an order."""

import os
import signal

import pytest

from gem_jax.signals import INTERRUPT, NOTHING, SAVE, TERMINATE, end, take, wishes


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
