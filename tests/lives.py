"""A process that imports all of it once and forks a life of a run for every line of its input.

A line is JSON: `config`, `run_dir`, and when to kill the life, if at all: `at` "frozen", "row" or
"save", `count` of them within this life, `delay_ms` after it. The answer is the life's exit status.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any


def main() -> None:
    from gem_jax import config, frozen_folder, log, resume, train

    places = {
        "frozen": (frozen_folder, "write"),
        "row": (log, "append_metrics"),
        "save": (resume, "save"),
    }

    def arm(order: dict[str, Any]) -> None:
        """Has the process killed a while after the `count`th of them has begun."""
        left = order["count"]

        def after(function):
            def called(*args, **options):
                nonlocal left
                left -= 1
                if left == 0:
                    kill = (os.getpid(), signal.SIGKILL)
                    threading.Timer(order["delay_ms"] / 1000, os.kill, kill).start()
                return function(*args, **options)

            return called

        module, name = places[order["at"]]
        setattr(module, name, after(getattr(module, name)))

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


def begin(errors: Path) -> subprocess.Popen[str]:
    """Returns the process, on one device."""
    root = Path(__file__).parents[1]
    own = {
        "PYTHONPATH": f"{root}:{root / 'tests'}",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    flags = {"XLA_FLAGS": "--xla_backend_optimization_level=0", "PYTHONWARNINGS": "ignore"}
    with errors.open("w") as stderr:
        return subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=os.environ | own | flags,
        )


def live(process: subprocess.Popen[str], **order: Any) -> int:
    """Returns the exit status of a life."""
    assert process.stdin and process.stdout
    process.stdin.write(json.dumps(order) + "\n")
    process.stdin.flush()
    return int(process.stdout.readline())


if __name__ == "__main__":
    main()
