"""Accuracy of the delineation on cardiologists' marks, cross-validated, beside neurokit2.

    python -m benchmarks.ludb --ludb LUDB_DATA_DIR [--weights DIR]

Each record is measured with weights that were trained without its fold (experiments/ludb_folds.json
says which); missing weights are trained into DIR first, some minutes a fold. neurokit2 was not
fitted on these marks; its methods run lead by lead on the R peaks that it finds itself.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Float

from benchmarks.ludb_score import WAVES, Score, score
from data_prep.delineate import delineate
from data_prep.intervals import measure_waves
from data_prep.marks import read_marks
from data_prep.measurement import Measurement
from data_prep.network import weights
from data_prep.neurokit import COLUMNS, by_beat
from data_prep.progress import track
from data_prep.records import Record, find, read
from data_prep.waves import Waves, in_order
from experiments import delineator
from experiments.delineator_lessons import folds, p_unmarked

GLOBALS = {"heart_rate_bpm": "bpm", "pr_ms": "ms", "qrs_ms": "ms", "qt_ms": "ms"}
PEERS = ("dwt", "cwt", "prominence")


def main(
    ludb: Path, *, weights: Path = Path("runs/delineator"), peers: tuple[str, ...] = PEERS
) -> None:
    """Print the tables.

    Args:
        ludb: Folder of LUDB's records with their annotations.
        weights: Folder of the folds' weights, fold_0.npz to fold_4.npz.
        peers: Methods of neurokit2.
    """
    records = {path.name: read(path) for path in find([ludb])}
    marked = {name: read_marks(ludb / name) for name in records}
    unmarked = [name for name in records if p_unmarked(ludb / name, marked[name])]
    found = _cross_validated(ludb, weights, records)
    print("method               wave  marks    Se     PPV   onset ms      offset ms    no bound %")
    _print("gem_jax, unseen fold", score(found, marked, unmarked))
    for method in peers:
        theirs = dict(track(_peer(records, method), len(records), method))
        _print(f"neurokit2 {method}", score(theirs, marked, unmarked))
    _print_globals(records, found, marked)


def _cross_validated(ludb: Path, folder: Path, records: Mapping[str, Record]) -> dict[str, Waves]:
    """Returns the waves of each record by the weights of its fold."""
    found = {}
    for number, names in enumerate(folds(ludb)):
        path = folder / f"fold_{number}.npz"
        if not path.is_file():
            print(f"{path} is missing: training without fold {number}", file=sys.stderr)
            delineator.main(ludb, path, fold=number)
        params = weights(path)
        for name in (name for name in names if name in records):
            record = records[name]
            samples = delineate(record.signal_mv, record.sampling_rate_hz, params)
            found[name] = Waves(record.leads, record.sampling_rate_hz, in_order(samples))
    return found


def _peer(records: Mapping[str, Record], method: str):
    """Yields names and waves by a method of neurokit2."""
    for name, record in records.items():
        rows = [_peer_lead(row, record.sampling_rate_hz, method) for row in record.signal_mv]
        samples = np.full((len(rows), max(map(len, rows)), len(COLUMNS)), np.nan)
        for lead, row in enumerate(rows):
            samples[lead, : len(row)] = row
        yield name, Waves(record.leads, record.sampling_rate_hz, samples)


def _peer_lead(
    row: Float[np.ndarray, " T"], rate_hz: float, method: str
) -> Float[np.ndarray, "N 9"]:
    """Returns the marks of one lead; none where neurokit2 gives up."""
    import neurokit2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of empty slices, where it finds no wave
        clean = neurokit2.ecg_clean(row, sampling_rate=int(rate_hz))
        try:
            peaks = neurokit2.ecg_peaks(clean, sampling_rate=int(rate_hz))[1]["ECG_R_Peaks"]
            given = neurokit2.ecg_delineate(
                clean, peaks, sampling_rate=int(rate_hz), method=method
            )[1]
        except (ValueError, IndexError, ZeroDivisionError):
            return np.empty((0, len(COLUMNS)))
    return by_beat(np.asarray(peaks), given)


def _print(method: str, scores: Mapping[str, Score]) -> None:
    for wave in WAVES:
        one = scores[wave]
        bounds = [one.error(bound) for bound in (0, 1)]
        errors = "  ".join(f"{mean:+5.1f} ± {spread:4.1f}" for mean, spread, _ in bounds)
        missing = "/".join(f"{share:.2f}" for _, _, share in bounds)
        print(
            f"{method:20} {wave:4} {one.matched + one.missed:6} {one.sensitivity:6.2f}  "
            f"{one.predictive_value:6.2f}  {errors}  {missing}",
            flush=True,
        )


def _print_globals(
    records: Mapping[str, Record], found: Mapping[str, Waves], marked: Mapping[str, Waves]
) -> None:
    """Prints ours against the same rules applied to the marks."""
    print("\nglobal, ours minus the marks'   mean ± SD      records")
    for key, unit in GLOBALS.items():
        apart = []
        for name, record in records.items():
            pair = [_global(record, waves[name], key) for waves in (found, marked)]
            if None not in pair:
                apart.append(pair[0] - pair[1])
        print(f"{key:29} {np.mean(apart):+6.2f} ± {np.std(apart):5.2f} {unit}  {len(apart)}")


def _global(record: Record, waves: Waves, key: str):
    measured: Measurement = measure_waves(record, waves)
    return measured.summary[key]


if __name__ == "__main__":
    tyro.cli(main)
