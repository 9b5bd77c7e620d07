"""Signals: as the end of a program, or as wishes that a loop answers when it is ready."""

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
    program would run on: the signal then comes again a moment later. SIGUSR1, which asks a loop to
    save, does nothing where none runs; a SIGTERM after the one that ended the program neither.
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
    ours: dict[signal.Signals, Any] = {
        signal.SIGTERM: _end,
        signal.SIGALRM: again,
        signal.SIGUSR1: signal.SIG_IGN,
    }
    before = {number: signal.signal(number, handler) for number, handler in ours.items()}
    sys.unraisablehook = ignored
    try:
        yield
    except SystemExit as error:
        if _ending(error) == signal.SIGTERM:
            # The next one would kill what is ending already, and with another status.
            before[signal.SIGTERM] = signal.SIG_IGN
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _ending(error: BaseException | None) -> int | None:
    """Returns the signal that raised the error; None where no signal did."""
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGINT
    ended = isinstance(error, SystemExit) and error.code == TERMINATED
    return signal.SIGTERM if ended else None


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(TERMINATED)


# By urgency: where several wish, the greatest counts.
NOTHING, SAVE, INTERRUPT, TERMINATE = range(4)
WISHES = {signal.SIGUSR1: SAVE, signal.SIGINT: INTERRUPT, signal.SIGTERM: TERMINATE}


@contextmanager
def wishes() -> Iterator[list[int]]:
    """Yields a list that each SIGUSR1, Ctrl-C and SIGTERM enters as a wish.

    A Ctrl-C after one of the last two does not wait for the loop; further SIGTERMs, which
    schedulers send, do. To be left when what was saved is on disk: before, they would end the save.
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
