"""Starts N processes of one command on this machine, as one run: local.py N COMMAND …

    python experiments/launch/local.py 2 gem-jax train experiments/demo.py:align --run-dir RUN

Each gets JAX's coordinator and its own number in the environment (`gem_jax.processes`). Ctrl-C,
SIGTERM and SIGUSR1 go on to all of them. Where one dies the others are ended, because they would
wait for it, and the last line names it. The exit status is the first that was not 0.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

HOST = "127.0.0.1"
POLL_S = 0.2
# A process that waits for a dead one cannot save: it gets this long to end by itself.
GRACE_S = 10.0
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def main(args: Sequence[str]) -> int:
    """Returns the exit status of the run."""
    if len(args) < 2 or not args[0].isdecimal() or int(args[0]) < 1:
        print("usage: local.py N COMMAND …, with N processes, 1 or more", file=sys.stderr)
        return 2
    started = start(int(args[0]), args[1:])
    for number in FORWARDED:
        signal.signal(number, lambda number, frame: send(started, number))
    while all(one.poll() in (None, 0) for one in started) and any(map(alive, started)):
        time.sleep(POLL_S)
    lost = next((index for index, one in enumerate(started) if one.poll()), None)
    if lost is None:
        return 0
    return end(started, lost)


def start(count: int, command: Sequence[str]) -> list[subprocess.Popen]:
    """Returns the processes, the coordinator first."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        address = f"{HOST}:{free.getsockname()[1]}"
    shared = os.environ | {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)}
    return [
        subprocess.Popen(
            command, env=shared | {"JAX_PROCESS_ID": str(index)}, start_new_session=True
        )
        for index in range(count)
    ]


def end(started: list[subprocess.Popen], lost: int) -> int:
    """Returns the exit status of the lost process, after the others have ended and it is named."""
    status = started[lost].returncode
    asked = status in (130, 143)  # all of them were told to end, and end one after the other
    if not asked:
        send(started, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while any(map(alive, started)) and (asked or time.monotonic() < deadline):
        time.sleep(POLL_S)
    send(started, signal.SIGKILL)
    for one in started:
        one.wait()
    if not asked:
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        told = f"process {lost} of {len(started)} (pid {started[lost].pid}) was lost {how}"
        print(f"local.py: {told}; the others were ended", file=sys.stderr, flush=True)
    return status if status > 0 else 128 - status


def send(started: list[subprocess.Popen], number: int) -> None:
    """Sends a signal to every process that lives."""
    for one in started:
        if alive(one):
            one.send_signal(number)


def alive(one: subprocess.Popen) -> bool:
    """Returns whether the process has not ended."""
    return one.poll() is None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
