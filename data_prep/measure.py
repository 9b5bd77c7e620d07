"""Measurements of ECG records: every beat in every lead, the record as a whole, its quality."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from data_prep.files import write_whole
from data_prep.intervals import measure_waves
from data_prep.lines_file import open_lines
from data_prep.measurement import Measurement, Number
from data_prep.progress import track
from data_prep.quality import assess
from data_prep.readers.stated import names_in
from data_prep.records import BadInput, Reading, Record, find, read
from data_prep.waves import Method, find_waves

if TYPE_CHECKING:
    from concurrent.futures import Future

Result = TypeVar("Result")
CHUNK, AHEAD = 4, 8  # records a process takes at once; such chunks begun ahead for each process
LEAD_COLUMNS = {  # heading: quantity
    "P mV": "p_amp_mv",
    "Q mV": "q_amp_mv",
    "R mV": "r_amp_mv",
    "S mV": "s_amp_mv",
    "ST mV": "st_mv",
    "T mV": "t_amp_mv",
    "area mV·ms": "qrs_area_mv_ms",
}


def measure(record: Record, method: Method = "trained") -> Measurement:
    """Returns the measurement of a record: its waves found, measured, its quality assessed."""
    measured = measure_waves(record, find_waves(record, method))
    return dataclasses.replace(measured, quality=assess(record, measured))


def measure_files(
    paths: Sequence[str | Path],
    processes: int = 2,
    cache_dir: Path | None = None,
    method: Method = "trained",
    reading: Reading | None = None,
) -> Iterator[Measurement | BadInput]:
    """Yields for each path, in order, its measurement or why the record cannot be used.

    Args:
        paths: records, as `records.find` returns them.
        processes: how many measure at a time; one record or one process needs no other.
        cache_dir: where measurements are kept, so that a second run only reads them.
        method: see `find_waves`.
        reading: how files are read, see `records.read`.
    """
    work = partial(_measure_file, cache_dir=cache_dir, method=method, reading=reading)
    yield from _in_order(work, paths, processes)


def _in_order(
    work: Callable[[str | Path], Result], paths: Sequence[str | Path], processes: int
) -> Iterator[Result]:
    """Yields the work's result for each path in order, made by several processes.

    Only so much is begun ahead as keeps them busy: a corpus may hold a million records.
    """
    if processes < 2 or len(paths) < 2:
        yield from map(work, paths)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    pool = ProcessPoolExecutor(
        min(processes, len(paths)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_belong_to_parent,
    )
    begun: deque[Future[list[Result]]] = deque()
    try:
        for first in range(0, len(paths), CHUNK):
            begun.append(pool.submit(_each, work, paths[first : first + CHUNK]))
            if len(begun) > AHEAD * processes:
                yield from begun.popleft().result()
        while begun:
            yield from begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _each(work: Callable[[str | Path], Result], paths: Sequence[str | Path]) -> list[Result]:
    return [work(path) for path in paths]


def _belong_to_parent() -> None:
    """Leaves Ctrl-C to the parent, and ends this process when the parent is gone, killed say."""
    import multiprocessing
    import threading

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end_with_it() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()


def _measure_file(
    path: str | Path, cache_dir: Path | None, method: Method, reading: Reading | None
) -> Measurement | BadInput:
    try:
        record = read(path, reading)
    except BadInput as bad:
        return bad
    if cache_dir is None:
        return measure(record, method)
    kept = cache_dir / f"{_fingerprint(record, method)}.json"
    if kept.is_file():
        return Measurement.from_json(json.loads(kept.read_text()))
    measured = measure(record, method)
    write_whole(kept, json.dumps(measured.to_json()).encode())
    return measured


def _fingerprint(record: Record, method: Method) -> str:
    """Returns a name of everything that a measurement depends on: the record and this package."""
    said = hashlib.sha256(record.signal_mv.tobytes())
    rest = (record.name, record.leads, record.sampling_rate_hz, record.derived, record.notes)
    quality = (sorted(record.lead_notes.items()), record.stored_leads, record.calibrated, method)
    said.update(repr((rest, quality)).encode())
    said.update(_package())
    return said.hexdigest()[:32]


@cache
def _package() -> bytes:
    """Returns a digest of this package's source and weights, read once for all records."""
    folder = Path(__file__).parent
    sources = sorted([*folder.glob("*.py"), *folder.glob("readers/*.py"), *folder.glob("*.npz")])
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).digest()


def table(measured: Measurement) -> str:
    """Returns the measurement as lines for people: the record, its leads, what to beware of."""
    summary = measured.to_json()["global"]
    numbers = [f"{key} {_shown(value)}" for key, value in summary.items()]
    lines = [f"{measured.record}: {measured.duration_s:g} s at {measured.sampling_rate_hz:g} Hz"]
    lines += ["  " + ", ".join(numbers[i : i + 4]) for i in range(0, len(numbers), 4)]
    lines += ["  lead" + "".join(f"{heading:>11}" for heading in LEAD_COLUMNS)]
    for i, lead in enumerate(measured.leads):
        values = (_middle(measured.beats[key][i]) for key in LEAD_COLUMNS.values())
        cells = "".join(f"{_shown(value):>11}" for value in values)
        lines.append(f"  {lead:<4}{cells}{'  derived' if lead in measured.derived else ''}")
    return "\n".join(lines + [f"  ! {reason}" for reason in _warnings(measured.quality)])


def _warnings(quality: Any) -> list[str]:
    leads = [f"{lead}: {r}" for lead, said in quality["leads"].items() for r in said["reasons"]]
    finding = quality["lead_identity"]["finding"]
    return [*quality["reasons"], *leads, *([finding] if finding else [])]


def _middle(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else None


def _shown(value: Number) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if abs(value) < 10 and not isinstance(value, int) else f"{value:.0f}"


def main(
    records: tuple[Path, ...],
    *,
    json: bool = False,
    out: Path | None = None,
    processes: int = 2,
    method: Method = "trained",
    rate: float | None = None,
    unit: str | None = None,
    leads: str = "",
    strict: bool = False,
) -> int:
    """Measure every beat in every lead of records: intervals, amplitudes, axis, rhythm, quality.

    Args:
        records: Records (with or without suffix, FILE.hdf5/EXAM), globs, and folders, which are
            searched to their depths.
        json: Print one JSON object a record instead of tables.
        out: Write the JSON objects to this file instead, one a line; it is there when it is whole,
            and an interrupted run of the same records goes on where it was.
        processes: Work on so many records at a time.
        method: How waves are found: by our trained delineator, or by neurokit2 on the same beats.
        rate: Samples a second of tables and arrays (.csv, .npy) that do not state it.
        unit: The unit of those that do not state it: mV, uV, nV or V.
        leads: The names of the columns of those that do not state them, in one word: I,II,V1.
        strict: Refuse files whose own checksums, first samples or lengths do not fit.
    """
    paths, bad = _paths(records)
    reading = Reading(rate, names_in(leads), unit, strict)
    work = partial(_told, json_lines=json or out is not None, method=method, reading=reading)
    try:
        if out is None:
            results = _in_order(work, paths, processes)
            if not sys.stdout.isatty():
                results = track(results, len(paths), "measure")
            for text in _good(results, bad):
                print(text)
        else:
            _write(out, work, paths, processes, repr((method, reading)), bad)
    finally:
        for one in bad:
            print(f"gem-jax measure: {one}", file=sys.stderr)
    return 2 if bad else 0


def _told(path: str | Path, json_lines: bool, method: Method, reading: Reading) -> str | BadInput:
    """Returns the measurement of a record as text, or why there is none."""
    measured = _measure_file(path, None, method, reading)
    if isinstance(measured, BadInput):
        return measured
    if json_lines:
        return json.dumps(measured.to_json(), allow_nan=False)
    return table(measured) + "\n"


def _good(results: Iterator[str | BadInput], bad: list[BadInput]) -> Iterator[str]:
    """Yields the texts among the results and puts the others into `bad`."""
    for result in results:
        if isinstance(result, BadInput):
            bad.append(result)
        else:
            yield result


def _write(
    out: Path,
    work: Callable[[str | Path], str | BadInput],
    paths: Sequence[Path],
    processes: int,
    settings: str,
    bad: list[BadInput],
) -> None:
    """Writes the measurements of all paths, but those that an earlier run has written."""
    said = hashlib.sha256(_package() + settings.encode())
    for path in paths:
        said.update(f"{path}\n".encode())
    with open_lines(out, said.hexdigest()) as lines:
        left = [path for path in paths if str(path) not in lines.done]
        if lines.done:
            print(f"measure: {len(lines.done)} are there already", file=sys.stderr)
        results = track(_in_order(work, left, processes), len(left), "measure")
        for line in _good(results, bad):
            lines.write(line)
        lines.finish()


def _paths(given: Sequence[Path]) -> tuple[list[Path], list[BadInput]]:
    """Returns the records of what was given, and what is wrong with the rest of it."""
    if not given:
        raise BadInput("no record given; expected paths of records or folders")
    paths: dict[Path, None] = {}
    bad = []
    for path in given:
        try:
            paths.update(dict.fromkeys(find([path])))
        except BadInput as one:
            bad.append(one)
    return list(paths), bad
