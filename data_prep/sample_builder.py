"""Builds data_prep/sample from the public downloads of LUDB and PTB-XL, always the same files.

    python -m data_prep.sample_builder --ludb LUDB_FOLDER --ptbxl PTBXL_FOLDER [--out FOLDER]

What is changed: signals go losslessly into FLAC (WFDB format 516), leads get their usual spelling,
and LUDB's gains become 1000 per mV (its own scale every lead to 1 mV peak to peak).
Axes: N beats, T samples.
"""

import ast
import csv
import json
import random
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from data_prep.marks import read_marks
from data_prep.readers.names import lead_name
from data_prep.records import LEADS, Record, read
from data_prep.sample_index import MANIFEST, SAMPLE, sha256
from data_prep.waves import FIDUCIALS

NUM_PTBXL = 80
NUM_TEST = 36
NUM_DRAWS = 4000
ADU_PER_MV = 1000.0
LICENCES = {"ludb": "ODC-By-1.0", "ptbxl": "CC-BY-4.0"}
# Diagnoses that a small sample must not miss: SCP-ECG codes of PTB-XL, and how many of each.
WANTED = {
    **dict.fromkeys(("AFIB", "AFLT", "STACH", "SBRAD", "SARRH", "PACE", "PVC", "PAC"), 4),
    **dict.fromkeys(("CLBBB", "CRBBB", "ILBBB", "IRBBB", "LAFB", "LPFB", "IVCD", "1AVB"), 4),
    **dict.fromkeys(("LVH", "IMI", "AMI", "ASMI", "LMI", "ISC_", "STD_", "INVT", "LNGQT"), 3),
}


@dataclass(frozen=True)
class Traits:
    """What a record is chosen by."""

    rate_bpm: float
    axis_deg: float
    group: str  # rhythm


def main(ludb: Path, ptbxl: Path, out: Path = SAMPLE) -> int:
    """Write the sample's records and manifest.

    Args:
      ludb: folder of LUDB 1.0.1: data/ and LICENSE.txt.
      ptbxl: folder of PTB-XL: records500/, ptbxl_database.csv and LICENSE.txt.
      out: the sample's folder; its README is kept, its records are replaced.
    """
    for corpus, source in (("ludb", ludb), ("ptbxl", ptbxl)):
        shutil.rmtree(out / corpus, ignore_errors=True)
        (out / corpus).mkdir(parents=True)
        shutil.copyfile(source / "LICENSE.txt", out / corpus / "LICENSE.txt")
    ludb_ids = _write_ludb(ludb / "data", out / "ludb")
    test = _choose_test({name: _ludb_traits(out / "ludb" / name) for name in ludb_ids})
    ptbxl_ids = _write_ptbxl(ptbxl, out / "ptbxl")
    entries = [_entry(out, "ludb", name, "test" if name in test else "train") for name in ludb_ids]
    entries += [_entry(out, "ptbxl", name, "train") for name in ptbxl_ids]
    text = json.dumps({"version": 1, "records": entries}, indent=1) + "\n"
    (out / MANIFEST).write_text(text, encoding="utf-8")
    print(f"{len(entries)} records, {len(test)} held out, in {out}", file=sys.stderr)
    return 0


def _entry(out: Path, corpus: str, name: str, split: str) -> dict:
    files = sorted(
        path for path in (out / corpus).iterdir() if path.stem in (name, f"{name}_1", f"{name}_2")
    )
    return {
        "id": f"{corpus}/{name}",
        "path": f"{corpus}/{name}",
        "corpus": corpus,
        "split": split,
        "licence": LICENCES[corpus],
        "sha256": {path.relative_to(out).as_posix(): sha256(path) for path in files},
    }


def _write_ludb(source: Path, out: Path) -> list[str]:
    """Names of the records written, with their annotation files beside them."""
    import wfdb

    names = sorted((path.stem for path in source.glob("*.hea")), key=int)
    for name in names:
        comments = wfdb.rdheader(str(source / name)).comments
        _write(source / name, out, name, ADU_PER_MV, comments)
        for lead in LEADS:
            shutil.copyfile(source / f"{name}.{lead.lower()}", out / f"{name}.{lead.lower()}")
    return names


def _write(source: Path, out: Path, name: str, gain: float, comments: Sequence[str]) -> None:
    """Write a record as FLAC and prove that its digital samples are the same."""
    import wfdb

    record = wfdb.rdrecord(str(source), physical=False)
    num_leads = len(record.sig_name)
    wfdb.wrsamp(
        name,
        fs=record.fs,
        units=["mV"] * num_leads,
        sig_name=[lead_name(spelled) for spelled in record.sig_name],
        d_signal=record.d_signal,
        fmt=["516"] * num_leads,
        adc_gain=[gain] * num_leads,
        baseline=[0] * num_leads,
        comments=[" ".join(comment.split()) for comment in comments],
        write_dir=str(out),
    )
    copy = wfdb.rdrecord(str(out / name), physical=False)
    if not np.array_equal(copy.d_signal, record.d_signal):
        raise RuntimeError(
            f"{out / name}: samples differ from {source} after FLAC, expected the same"
        )


def _ludb_traits(path: Path, leads: Sequence[str] = LEADS) -> Traits:
    record, waves = read(path), read_marks(path, leads)
    onset = np.nanmedian(waves.samples[:, :, FIDUCIALS.index("qrs_onset")], axis=0)
    offset = np.nanmedian(waves.samples[:, :, FIDUCIALS.index("qrs_offset")], axis=0)
    marked = ~np.isnan(onset + offset)
    rhythm = next(text for text in record.meta["diagnoses"] if text.startswith("Rhythm"))
    return _traits(record, onset[marked].astype(int), offset[marked].astype(int), rhythm)


def _traits(
    record: Record, onset: Int[np.ndarray, "N"], offset: Int[np.ndarray, "N"], group: str
) -> Traits:
    """Rate of the median RR, axis of the median net QRS areas above the level before the QRS."""
    rr_s = np.median(np.diff(onset)) / record.sampling_rate_hz
    one, foot = (
        _net_area(record.signal_mv[LEADS.index(lead)], onset, offset) for lead in ("I", "aVF")
    )
    return Traits(60 / rr_s, float(np.degrees(np.arctan2(2 * foot, np.sqrt(3) * one))), group)


def _net_area(
    signal: Float[np.ndarray, "T"], onset: Int[np.ndarray, "N"], offset: Int[np.ndarray, "N"]
) -> float:
    areas = [
        float(np.sum(signal[a:b] - np.mean(signal[max(a - 8, 0) : a + 1])))
        for a, b in zip(onset, offset, strict=True)
    ]
    return float(np.median(areas))


def _choose_test(traits: Mapping[str, Traits], num_draws: int = NUM_DRAWS) -> set[str]:
    """The held-out records: of many draws by rhythm, the one most like the rest."""
    strata = _strata(traits)
    rng = random.Random(0)
    draws = (_draw(strata, rng, NUM_TEST) for _ in range(num_draws))
    return min(draws, key=lambda test: _unlikeness(traits, test))


def _strata(traits: Mapping[str, Traits]) -> list[list[str]]:
    """Names by rhythm; rhythms of fewer than three records together."""
    counts = Counter(trait.group for trait in traits.values())
    strata = defaultdict(list)
    for name, trait in traits.items():
        strata[trait.group if counts[trait.group] >= 3 else "rare"].append(name)
    return [strata[group] for group in sorted(strata)]


def _draw(strata: Sequence[Sequence[str]], rng: random.Random, size: int) -> set[str]:
    """`size` names, from each stratum its share (largest remainders rounded up)."""
    total = sum(map(len, strata))
    shares = [len(stratum) * size / total for stratum in strata]
    quota = [int(share) for share in shares]
    for index in sorted(range(len(strata)), key=lambda i: quota[i] - shares[i])[
        : size - sum(quota)
    ]:
        quota[index] += 1
    return {
        name
        for stratum, count in zip(strata, quota, strict=True)
        for name in rng.sample(sorted(stratum), count)
    }


def _unlikeness(traits: Mapping[str, Traits], test: set[str]) -> float:
    """How far the two splits differ in rate or axis, whichever differs more."""
    return max(
        _quantile_gap(
            [getattr(trait, what) for name, trait in traits.items() if name in test],
            [getattr(trait, what) for name, trait in traits.items() if name not in test],
        )
        for what in ("rate_bpm", "axis_deg")
    )


def _quantile_gap(first: Sequence[float], second: Sequence[float]) -> float:
    """Mean distance of the quantiles from least to greatest, in standard deviations."""
    levels = np.linspace(0, 1, 21)
    gaps = np.abs(np.quantile(first, levels) - np.quantile(second, levels))
    return float(gaps.mean() / np.std([*first, *second]))


def _write_ptbxl(source: Path, out: Path) -> list[str]:
    """Names of the PTB-XL records written: one a patient, spread over diagnoses, rates and axes."""
    with (source / "ptbxl_database.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["ecg_id"].zfill(5): row for row in csv.DictReader(file)}
    rows = _one_a_patient(
        {name: row for name, row in rows.items() if not row["electrodes_problems"]}
    )
    traits = {}
    for name, row in rows.items():
        if (trait := _ptbxl_traits(source / row["filename_hr"])) is not None:
            traits[name] = trait
    chosen = _spread({name: rows[name] for name in traits}, traits)
    for name in chosen:
        _write(
            source / rows[name]["filename_hr"], out, name, ADU_PER_MV, _ptbxl_comments(rows[name])
        )
    return chosen


def _one_a_patient(rows: Mapping[str, dict]) -> dict[str, dict]:
    first: dict[str, str] = {}
    for name, row in rows.items():
        first.setdefault(row["patient_id"], name)
    return {name: rows[name] for name in first.values()}


def _ptbxl_traits(path: Path) -> Traits | None:
    """Rate and axis by R peaks found in lead II, or None where fewer than three are found."""
    import neurokit2

    record = read(path)
    rate_hz = record.sampling_rate_hz
    clean = neurokit2.ecg_clean(record.signal_mv[LEADS.index("II")], sampling_rate=int(rate_hz))
    peaks = neurokit2.ecg_peaks(clean, sampling_rate=int(rate_hz))[1]["ECG_R_Peaks"]
    half = int(0.05 * rate_hz)
    peaks = peaks[(peaks > 2 * half) & (peaks < len(clean) - half)]
    return _traits(record, peaks - half, peaks + half, "") if len(peaks) >= 3 else None


def _spread(rows: Mapping[str, dict], traits: Mapping[str, Traits]) -> list[str]:
    """Records of the wanted diagnoses, then those farthest in rate and axis from all chosen."""
    chosen: list[str] = []
    held: Counter[str] = Counter()
    for code, count in WANTED.items():
        for name, row in rows.items():
            codes = ast.literal_eval(row["scp_codes"])
            if held[code] < count and code in codes and name not in chosen:
                chosen.append(name)
                held.update(list(codes))
    position = {name: _position(trait) for name, trait in traits.items()}
    while len(chosen) < NUM_PTBXL:
        rest = [name for name in position if name not in chosen]
        chosen.append(max(rest, key=lambda name: _distance(position, name, chosen)))
    return sorted(chosen[:NUM_PTBXL])


def _position(trait: Traits) -> Float[np.ndarray, "3"]:
    angle = np.radians(trait.axis_deg)
    return np.array([4 * np.log2(trait.rate_bpm / 70), 2 * np.cos(angle), 2 * np.sin(angle)])


def _distance(
    position: Mapping[str, Float[np.ndarray, "3"]], name: str, chosen: Sequence[str]
) -> float:
    return min(float(np.linalg.norm(position[name] - position[other])) for other in chosen)


def _ptbxl_comments(row: Mapping[str, str]) -> list[str]:
    codes = ast.literal_eval(row["scp_codes"])
    return [
        f"age: {float(row['age']):g}" if row["age"] else "age: unknown",
        f"sex: {'MF'[int(row['sex'])]}",
        f"scp codes: {', '.join(f'{code} {likelihood:g}' for code, likelihood in codes.items())}",
        f"fold: {row['strat_fold']}",
        f"report: {row['report']}",
    ]


if __name__ == "__main__":
    import tyro

    sys.exit(tyro.cli(main))
