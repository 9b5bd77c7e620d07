"""Ctrl-C and SIGTERM as a request that a loop answers when it is ready."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yields a list that the first Ctrl-C or SIGTERM enters; the loop saves and ends at it.

    A Ctrl-C after one of them does not wait for that; a further SIGTERM, which schedulers send,
    does.
    """
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)

    def stop(number: int, frame: Any) -> None:
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(number)

    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield came
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
