"""How far an import or an export is, how fast, how long still: bytes, told on stderr."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping

import jax
import numpy as np

LOG_PERIOD_S = 2.0


def line(label: str, done: int, total: int, elapsed_s: float) -> str:
    """Returns one progress line, such as `import 5.8/14.3 GB 212 MB/s ETA 0:40`."""
    rate = done / elapsed_s if elapsed_s > 0 else 0.0
    told = f"{label} {done / 1e9:.1f}/{total / 1e9:.1f} GB {rate / 1e6:.0f} MB/s"
    if done >= total:
        return f"{told} in {_clock(elapsed_s)}"
    return f"{told} ETA {_clock((total - done) / rate) if rate > 0 else '?'}"


def nbytes(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> int:
    """Returns the bytes of parameters of these shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in shapes.values())


def track(
    leaves: Iterable[tuple[str, np.ndarray]], total_bytes: int, label: str
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the parameters unchanged and tells stderr how far the caller has come.

    A terminal sees one line that is rewritten; a log sees a new line every two seconds.
    """
    live = sys.stderr.isatty()
    begun = shown = time.monotonic()
    done = 0
    for path, array in leaves:
        done += array.nbytes
        yield path, array
        del array  # It is not kept while the next one is read.
        now = time.monotonic()
        if done < total_bytes and (live or now - shown >= LOG_PERIOD_S):
            _write(line(label, done, total_bytes, now - begun), live, last=False)
            shown = now
    _write(line(label, done, total_bytes, time.monotonic() - begun), live, last=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _write(text: str, live: bool, last: bool) -> None:
    start, end = ("\r\x1b[K", "\n" if last else "") if live else ("", "\n")
    sys.stderr.write(start + text + end)
    sys.stderr.flush()
