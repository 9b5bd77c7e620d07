"""Time and peak memory of `gem-jax import` and `gem-jax export` on one official folder.

    python -m benchmarks.import_export_memory OFFICIAL_DIR WORK_DIR

WORK_DIR is new and holds the checkpoint and the export; they stay there for a look.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.make_7b import require_disk
from gem_jax.weights.files import WeightsError, open_folder, require_free

COPIES = 2.2  # The checkpoint, the export, and some room.


def main(official: Path, work: Path) -> None:
    """Prints one line a verb, and whether each tensor came back byte for byte."""
    require_free(work)
    require_disk(work, COPIES * sum(path.stat().st_size for path in official.rglob("*.*")))
    work.mkdir(parents=True, exist_ok=True)
    checkpoint, exported = work / "checkpoint", work / "exported"
    measure("import", official, checkpoint)
    measure("export", checkpoint, exported)
    ours, theirs = open_folder(exported), open_folder(official)
    differing = ours.entries.keys() ^ theirs.entries.keys()
    for name in theirs.entries.keys() - differing:
        if ours.read(name).tobytes() != theirs.read(name).tobytes():
            differing.add(name)
    if differing:
        raise WeightsError(f"{exported}: {len(differing)} tensors differ, expected none")
    print(f"{len(theirs.entries)} tensors came back byte for byte")


def measure(verb: str, source: Path, dest: Path) -> None:
    """Runs the verb and prints its time and peak; WeightsError if it fails."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "gem_jax.cli", verb, str(source), str(dest)]
    process = subprocess.Popen(command)
    # wait4 tells of this child; RUSAGE_CHILDREN would tell of the largest so far.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise WeightsError(f"gem-jax {verb} ended with {process.returncode}")
    seconds = time.perf_counter() - started
    # Linux counts in KiB, macOS in bytes.
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{verb}: {seconds:.1f} s, peak {peak / 1e9:.2f} GB of resident memory", flush=True)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except WeightsError as error:
        sys.exit(str(error))
