"""Progress of a long job on stderr: how far, how fast, how long still."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

TERMINAL_PERIOD_S = 0.1
LOG_PERIOD_S = 2.0


def clock(seconds: float) -> str:
    """Returns seconds as minutes and seconds, `3:07`, or with hours, `1:03:07`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def line(label: str, done: int, total: int, elapsed_s: float) -> str:
    """Returns one progress line, such as `render 37/200 12.3/s ETA 0:13`."""
    rate = done / elapsed_s if elapsed_s > 0 else 0.0
    if done >= total:
        return f"{label} {done}/{total} {rate:.1f}/s in {clock(elapsed_s)}"
    eta = clock((total - done) / rate) if rate > 0 else "?"
    return f"{label} {done}/{total} {rate:.1f}/s ETA {eta}"


def track(items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
    """Yields the items unchanged and tells stderr how far the caller has come.

    A terminal sees one line that is rewritten; a log sees a new line every two seconds. A single
    item is soon done and needs no progress.

    Args:
        items: What to go through.
        total: How many items there will be; for the share and the time left.
        label: The name of the step.
    """
    if total < 2:
        yield from items
        return
    live = sys.stderr.isatty()
    period_s = TERMINAL_PERIOD_S if live else LOG_PERIOD_S
    start = shown = time.monotonic()
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if done < total and now - shown >= period_s:
            write_line(line(label, done, total, now - start), live, last=False)
            shown = now
    write_line(line(label, done, total, time.monotonic() - start), live, last=True)


def write_line(text: str, live: bool, last: bool) -> None:
    """Writes a progress line to stderr: over the one before on a terminal (`live`), else anew."""
    if live:
        sys.stderr.write(f"\r\x1b[K{text}" + ("\n" if last else ""))
    else:
        sys.stderr.write(text + "\n")
    sys.stderr.flush()
