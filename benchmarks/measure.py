"""Measuring beside neurokit2: records per second and core, from file to JSON, by stage.

    python -m benchmarks.measure                    40 records of the sample, 3 of them by the peer
    python -m benchmarks.measure FOLDER --limit 200 --peer 5

One process with one thread. Seconds are those of the processor (wall beside them), so that other
work on the machine counts little. The peer is `neurokit2.ecg_process`, which measures a lead at a
time, on the twelve leads of the first records, in the same run. The last figure is the command
`gem-jax measure RECORD --json` from start to end.
"""

# ruff: noqa: E402
from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # before numpy is imported

import dataclasses
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from data_prep.intervals import measure_waves
from data_prep.quality import assess
from data_prep.records import Record, find, read
from data_prep.waves import find_waves
from gem_jax import usage

SAMPLE = Path(__file__).parents[1] / "data_prep" / "sample"
STAGES = ("read", "waves", "measure", "quality", "JSON")
Made = TypeVar("Made")


class Clock:
    """Seconds of processor and wall by stage."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = {}
        self.wall_s: dict[str, float] = {}

    def time(self, stage: str, work: Callable[[], Made]) -> Made:
        """Returns what the work makes and adds its time to the stage."""
        cpu, wall = time.process_time(), time.perf_counter()
        made = work()
        self.cpu_s[stage] = self.cpu_s.get(stage, 0.0) + time.process_time() - cpu
        self.wall_s[stage] = self.wall_s.get(stage, 0.0) + time.perf_counter() - wall
        return made


def main(records: tuple[Path, ...] = (SAMPLE,), *, limit: int = 40, peer: int = 3) -> int:
    """Print seconds a record by stage, the peer's, their ratio, and the command's.

    Args:
        records: Records and folders.
        limit: How many are measured, spread evenly.
        peer: How many of these neurokit2 measures too.
    """
    found = find(records)
    paths = found[:: max(1, len(found) // limit)][:limit]
    measure_all(paths[:2])  # imports and caches
    ours = measure_all(paths)
    whole = sum(ours.cpu_s.values()) / len(paths)
    print(f"{len(paths)} records of {found[0].parent.parent}")
    print("stage      ms processor   ms wall, a record")
    for stage in STAGES:
        cpu, wall = (1000 * t[stage] / len(paths) for t in (ours.cpu_s, ours.wall_s))
        print(f"{stage:<10}{cpu:>12.2f}{wall:>12.2f}")
    print(f"file to JSON: {1 / whole:.1f} records per second and core")
    if peer:
        theirs = by_peer([read(path) for path in paths[:peer]])
        print(f"neurokit2.ecg_process: {theirs:.2f} s a record, {theirs / whole:.0f} times ours")
    print(f"gem-jax measure of one record: {min(command_s(paths[0]) for _ in range(3)):.2f} s wall")
    return 0


def measure_all(paths: Sequence[Path]) -> Clock:
    """Returns the time that each stage took over all records."""
    clock = Clock()
    for path in paths:
        record = clock.time("read", lambda path=path: read(path))
        waves = clock.time("waves", lambda record=record: find_waves(record))
        bare = clock.time("measure", lambda r=record, w=waves: measure_waves(r, w))
        quality = clock.time("quality", lambda r=record, m=bare: assess(r, m))
        whole = dataclasses.replace(bare, quality=quality)
        clock.time("JSON", lambda m=whole: json.dumps(m.to_json(), allow_nan=False))
    return clock


def by_peer(records: Sequence[Record]) -> float:
    """Returns the seconds that neurokit2 takes for all leads of a record, failures included."""
    import neurokit2

    rate_hz = int(records[0].sampling_rate_hz)
    warnings.simplefilter("ignore")
    neurokit2.ecg_process(records[0].signal_mv[1], sampling_rate=rate_hz)  # imports
    begin, failed = time.process_time(), 0
    for record in records:
        for lead in record.signal_mv:
            try:
                neurokit2.ecg_process(lead, sampling_rate=int(record.sampling_rate_hz))
            except (ValueError, IndexError, ZeroDivisionError):
                failed += 1
    if failed:
        print(f"neurokit2 gave up on {failed} of {sum(len(r.leads) for r in records)} leads")
    return (time.process_time() - begin) / len(records)


def command_s(path: Path) -> float:
    """Returns the seconds of `gem-jax measure` from command to JSON."""
    command = [sys.executable, "-m", "gem_jax.cli", "measure", str(path), "--json"]
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(usage.bind(main, sys.argv[1:], "python -m benchmarks.measure")())
