"""Ctrl-C and SIGTERM: as the end of a program, or as a request that a loop answers when ready."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

TERMINATED = 143
AGAIN_S = 0.05


@contextmanager
def ending_signals() -> Iterator[None]:
    """Makes Ctrl-C raise KeyboardInterrupt and SIGTERM SystemExit(143) until one gets through.

    Python ignores what is raised while garbage is collected or an object is finalised, and the
    program would run on: the signal then comes again a moment later.
    """
    swallowed: list[int] = []

    def again(number: int, frame: FrameType | None) -> None:
        signal.raise_signal(swallowed[-1])

    def ignored(what: Any) -> None:
        number = _ending(what.exc_value)
        if number is None:
            hook(what)
        else:
            # Raised here it would be ignored as well.
            swallowed.append(number)
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)

    hook = sys.unraisablehook
    before = [
        (n, signal.signal(n, h)) for n, h in ((signal.SIGTERM, _end), (signal.SIGALRM, again))
    ]
    sys.unraisablehook = ignored
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook
        for number, handler in before:
            signal.signal(number, handler)


def _ending(error: BaseException | None) -> int | None:
    """Returns the signal that raised the error; None where no signal did."""
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    ended = isinstance(error, SystemExit) and error.code == TERMINATED
    return signal.SIGTERM if ended else None


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(TERMINATED)


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
