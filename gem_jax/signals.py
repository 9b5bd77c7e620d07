"""Signals as wishes that a loop answers when it is ready: to save, or to save and end."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# By urgency: where several wish, the greatest counts.
NOTHING, SAVE, INTERRUPT, TERMINATE = range(4)
WISHES = {signal.SIGUSR1: SAVE, signal.SIGINT: INTERRUPT, signal.SIGTERM: TERMINATE}


@contextmanager
def wishes() -> Iterator[list[int]]:
    """Yields a list that each SIGUSR1, Ctrl-C and SIGTERM enters as a wish.

    A Ctrl-C after one of the last two does not wait for the loop; a further SIGTERM, which
    schedulers send, does.
    """
    came: list[int] = []

    def enter(number: int, frame: Any) -> None:
        if number == signal.SIGINT and max(came, default=NOTHING) > SAVE:
            raise KeyboardInterrupt
        came.append(WISHES[signal.Signals(number)])

    before = {number: signal.signal(number, enter) for number in WISHES}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def take(came: list[int]) -> int:
    """Returns the most urgent wish. One to save is taken from the list, one to end stays."""
    wish = max(came, default=NOTHING)
    if SAVE in came:
        came.remove(SAVE)
    return wish


def end(wish: int) -> None:
    """Ends as the wish to end says.

    Raises:
        SystemExit: 143, after a SIGTERM.
        KeyboardInterrupt: after a Ctrl-C.
    """
    if wish == TERMINATE:
        raise SystemExit(143)
    if wish == INTERRUPT:
        raise KeyboardInterrupt
