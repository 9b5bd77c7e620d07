"""Processes that make rows beside the training program, and end with it."""

import multiprocessing
import os
import signal
import threading

import grain
from absl import flags


def in_processes(rows: grain.IterDataset, count: int, ahead: int) -> grain.IterDataset:
    """Returns the rows, made by `count` processes in turn, `ahead` of them waiting; 0: as it is.

    The order is that of one process: row i is made by process i mod `count`, whose turn it is.
    """
    if not count:
        return rows
    # grain reads absl's flags, which are parsed by absl's own programs alone.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(count, max(1, ahead // count))
    return rows.mp_prefetch(options, worker_init_fn=_begin)


def _begin(index: int, count: int) -> None:
    """Leaves signals to the program, which may save first; ends when it is gone, even by kill."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    program = multiprocessing.parent_process()
    assert program is not None

    def follow() -> None:
        program.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
