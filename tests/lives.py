"""A process that imports all of it once and forks a life of a run for every line of its input.

A line is JSON: `config`, `run_dir`, and when to kill the life, if at all: `at` "file" (before it
opens one of the run's to write, makes a folder or renames), "row" or "save", `count` of them within
this life, `delay_ms` after it. The answer is the life's exit status.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

WRITES = ("open", "os.mkdir", "os.rename")


def main() -> None:
    from multiprocessing import forkserver

    from gem_jax import config, log, resume, row_workers, train

    # Each life would import all of it anew for its workers: they are given copies of one process.
    row_workers.prepare(1)
    private = forkserver._forkserver
    forkserver.ensure_running = private.ensure_running = lambda: None
    places = {
        "row": (log, "append_metrics"),
        "save": (resume, "save"),
    }

    def arm(order: dict[str, Any]) -> None:
        """Has the process killed a while after the `count`th of them."""
        left = order["count"]

        def one() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                kill(order["delay_ms"])

        if order["at"] == "file":
            sys.addaudithook(lambda *event: one() if writes(order["run_dir"], *event) else None)
        else:
            module, name = places[order["at"]]
            setattr(module, name, after(one, getattr(module, name)))

    def live(order: dict[str, Any]) -> int:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if order.get("at"):
            arm(order)
        recipe = config.from_dict(config.Config, order["config"], "order")
        try:
            train.run(recipe, Path(order["run_dir"]))
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 1
        return 0

    for line in sys.stdin:
        life = os.fork()
        if life == 0:
            os._exit(live(json.loads(line)))
        print(os.waitstatus_to_exitcode(os.waitpid(life, 0)[1]), flush=True)


def kill(delay_ms: float) -> None:
    """Kills this process, at once or in a while."""
    if delay_ms:
        threading.Timer(delay_ms / 1000, kill, (0,)).start()
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def after(told: Callable[[], None], function: Callable) -> Callable:
    """Returns the function, which tells that it is called."""

    def called(*args, **options):
        told()
        return function(*args, **options)

    return called


def writes(folder: str, event: str, args: tuple) -> bool:
    """Returns whether an event that Python tells is about to change the folder's files."""
    if event not in WRITES or not str(args[0]).startswith(folder):
        return False
    return event != "open" or bool(args[2] & (os.O_WRONLY | os.O_RDWR))


def begin(errors: Path) -> subprocess.Popen[str]:
    """Returns the process, on one device."""
    with errors.open("w") as stderr:
        return subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=environment(),
        )


def environment() -> dict[str, str]:
    """Returns what a process has to be told that is to train on one device, as the others do."""
    root = Path(__file__).parents[1]
    own = {
        "PYTHONPATH": f"{root}:{root / 'tests'}",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    flags = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "PYTHONWARNINGS": "ignore"}
    return os.environ | own | flags


def live(process: subprocess.Popen[str], **order: Any) -> int:
    """Returns the exit status of a life."""
    assert process.stdin and process.stdout
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()
    return int(process.stdout.readline())


if __name__ == "__main__":
    main()
