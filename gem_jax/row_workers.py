"""Processes that make rows beside the training program, and end with it.

Nothing of theirs is worth waiting for, so they are killed when the program is done with them. Where
it is killed itself they find nobody to send to, and end.
"""

import atexit
import functools
import multiprocessing
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

import grain

from gem_jax.config import ConfigError

# One process imports all of it, and the workers are copies of that one.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["gem_jax.train_rows"])
# The program answers these and may save first; the workers are not asked.
LEFT_TO_THE_PROGRAM = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass(frozen=True, eq=False)
class Worker:
    """A process, and where its rows come out."""

    process: ForkServerProcess
    rows: Connection


@dataclass(frozen=True, eq=False)
class Received(grain.transforms.Map):
    """Number of a row → the row, from the worker that made it; asked for in order."""

    workers: tuple[Worker, ...]

    def map(self, element: int) -> Any:
        worker = self.workers[element % len(self.workers)]
        try:
            number, made = worker.rows.recv()
        except (EOFError, OSError) as error:
            raise lost(worker) from error
        assert number == element, f"row {number} came for row {element}"
        if isinstance(made, Exception):
            raise made
        return made


def lost(worker: Worker) -> ConfigError:
    """Returns what is said of a worker that ended before its last row."""
    worker.process.join(timeout=1.0)
    return ConfigError(
        f"data.workers: process {worker.process.pid} was lost (exit status "
        f"{worker.process.exitcode}; -9: killed, as where memory runs out), expected it to make "
        "rows to the end; use fewer, and run the same command again to go on"
    )


def prepare(count: int) -> None:
    """Begins to import what workers need, if there will be any, beside all else."""
    if count:
        with _unasked():
            forkserver.ensure_running()


@contextmanager
def rows_of(
    make: grain.transforms.Map, numbers: range, count: int
) -> Iterator[grain.transforms.Map]:
    """Yields `make`; or, of `count` workers that make the rows `numbers` in turn, what receives it.

    Row i is made by worker i mod `count`: the order is that of one process.
    """
    if not count:
        yield make
        return
    started: list[Worker] = []
    end = functools.partial(_end, started)
    # A program that ends without closing its batches would wait for them.
    atexit.register(end)
    try:
        with _unasked():
            started += (_started(make, _share(numbers, each, count)) for each in range(count))
        yield Received(tuple(started))
    finally:
        end()
        atexit.unregister(end)


def _share(numbers: range, each: int, count: int) -> range:
    return numbers[(each - numbers.start) % count :: count]


def _started(make: grain.transforms.Map, numbers: range) -> Worker:
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_work, args=(make, numbers, theirs), daemon=True)
    process.start()
    # Else it would not be noticed when the worker is gone.
    theirs.close()
    return Worker(process, ours)


def _work(make: grain.transforms.Map, numbers: range, rows: Connection) -> None:
    """Sends the rows, each when the one before it was taken; or the error that ended them."""
    try:
        for number in numbers:
            try:
                made = make.map(number)
            except Exception as error:
                error.add_note("".join(traceback.format_exception(error)))
                rows.send((number, error))
                return
            rows.send((number, made))
    except BrokenPipeError:
        return


def _end(workers: Sequence[Worker]) -> None:
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.join()


@contextmanager
def _unasked() -> Iterator[None]:
    """Holds the program's signals back from this thread, and from processes begun in it for good.

    What they would do while a process still imports cannot be said in that process.
    """
    # Its own start lets signals through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, LEFT_TO_THE_PROGRAM)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
