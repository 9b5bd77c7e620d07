"""The ECG record: named leads in millivolts at one sampling rate, and how it is read and changed.

Axes: L leads, T samples.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
WFDB_SUFFIXES = (".hea", ".dat", ".mat")


class BadInput(ValueError):
    """A file or field that cannot be used; the message is one line for the user."""


@dataclass(frozen=True)
class Record:
    """One ECG.

    Attributes:
      name: the path as given, or as found below a given folder, without suffix.
      leads: canonical names in canonical order: those stored or derived.
      signal_mv: float32, NaN where a sample is missing.
      sampling_rate_hz: samples a second of every lead.
      derived: leads computed from the limb leads that were stored.
      notes: what reading noticed about the record.
      lead_notes: the same for single leads.
      stored_leads: canonical names in the order of the file.
      calibrated: False if the millivolts are not to be trusted: amplitudes and axis are unknown.
      meta: age, sex, diagnoses, report; never anything that identifies a patient.
    """

    name: str
    leads: tuple[str, ...]
    signal_mv: Float[np.ndarray, "L T"]
    sampling_rate_hz: float
    derived: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    lead_notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stored_leads: tuple[str, ...] = ()
    calibrated: bool = True
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.leads or self.leads != canonical_order(self.leads):
            raise ValueError(
                f"{self.name}: leads {self.leads}: expected names of {LEADS}, each at most "
                "once and in this order; see data_prep.readers.assemble"
            )
        if self.signal_mv.dtype != np.float32:
            raise ValueError(f"{self.name}: signal_mv is {self.signal_mv.dtype}, expected float32")
        if self.signal_mv.ndim != 2 or len(self.signal_mv) != len(self.leads):
            raise ValueError(
                f"{self.name}: signal_mv has shape {self.signal_mv.shape}, "
                f"expected ({len(self.leads)}, samples): one row a lead"
            )
        if not self.signal_mv.shape[1]:
            raise ValueError(f"{self.name}: signal_mv holds no sample, expected at least one")
        if not (math.isfinite(self.sampling_rate_hz) and self.sampling_rate_hz > 0):
            raise ValueError(
                f"{self.name}: sampling_rate_hz is {self.sampling_rate_hz}, "
                "expected a positive number"
            )

    @property
    def duration_s(self) -> float:
        """Seconds from the first sample to the end of the last."""
        return self.signal_mv.shape[1] / self.sampling_rate_hz


def canonical_order(leads: Iterable[str]) -> tuple[str, ...]:
    """Those of the twelve leads that are named, once each, in the order of LEADS."""
    named = set(leads)
    return tuple(lead for lead in LEADS if lead in named)


def read(path: str | Path) -> Record:
    """The record at a path, given with or without its suffix (.hea, .dat, .mat).

    Raises:
      BadInput: it is missing, incomplete, of an unknown format or not an ECG.
    """
    from data_prep.readers import wfdb

    return wfdb.read(_stem(Path(path)))


def check(path: str | Path) -> None:
    """Refuses, with the BadInput of `read`, what is wrong before a sample is read.

    That is a missing or garbled header, and data files that are missing or too short.
    """
    from data_prep.readers import wfdb

    wfdb.promised(_stem(Path(path)))


def _stem(path: Path) -> Path:
    stem = without_suffix(path)
    if path.is_dir() and not _header(stem).is_file():
        raise BadInput(f"{path}: is a folder, expected one record; name a record in it")
    if stem == path and path.is_file() and not _header(path).is_file():
        raise BadInput(
            f"{path}: format {path.suffix or '(no suffix)'} is unknown, expected a WFDB record "
            f"({', '.join(WFDB_SUFFIXES)}); convert it, or name its .hea"
        )
    return stem


def find(paths: Sequence[str | Path]) -> list[Path]:
    """Record paths without suffix: those given, and those below the given folders, sorted there.

    A path that is no folder is passed on even if nothing is there: `read` says what is wrong.

    Raises:
      BadInput: nothing was given, or a folder holds no record.
    """
    if not paths:
        raise BadInput("no record given; expected paths of records or folders")
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        stem = without_suffix(path)
        if path.is_dir() and not _header(stem).is_file():
            found.update(dict.fromkeys(_below(path)))
        else:
            found[stem] = None
    return list(found)


def without_suffix(path: Path) -> Path:
    """The path without a suffix of WFDB; other dots belong to the record's name."""
    return path.with_suffix("") if path.suffix.lower() in WFDB_SUFFIXES else path


def select_leads(record: Record, leads: Iterable[str]) -> Record:
    """The record with only these leads.

    Raises:
      BadInput: the record lacks one of them.
    """
    wanted = tuple(leads)
    if missing := [lead for lead in wanted if lead not in record.leads]:
        raise BadInput(
            f"{record.name}: lead {', '.join(missing)} is missing, got {', '.join(record.leads)}; "
            "choose among these"
        )
    kept = canonical_order(wanted)
    return dataclasses.replace(
        record,
        leads=kept,
        signal_mv=record.signal_mv[[record.leads.index(lead) for lead in kept]],
        derived=tuple(lead for lead in record.derived if lead in kept),
        lead_notes={lead: notes for lead, notes in record.lead_notes.items() if lead in kept},
    )


def derive_leads(record: Record) -> Record:
    """The record with those limb leads added that follow from two of I, II and III.

    Einthoven: II = I + III. Goldberger: aVR = -(I + II)/2, aVL = (I - III)/2, aVF = (II + III)/2.
    A sample missing in a source is missing in what is derived from it. A flat lead is no source:
    its electrode was off.
    """
    rows = dict(zip(record.leads, record.signal_mv, strict=True))
    limb = {lead: rows[lead] for lead in ("I", "II", "III") if lead in rows and _moves(rows[lead])}
    if len(limb) < 2:
        return record
    one = limb["I"] if "I" in limb else limb["II"] - limb["III"]
    two = limb["II"] if "II" in limb else limb["I"] + limb["III"]
    three = limb["III"] if "III" in limb else two - one
    full = {
        "I": one,
        "II": two,
        "III": three,
        "aVR": -(one + two) / 2,
        "aVL": (one - three) / 2,
        "aVF": (two + three) / 2,
    }
    added = tuple(lead for lead in full if lead not in rows)
    if not added:
        return record
    rows |= {lead: full[lead] for lead in added}
    leads = canonical_order(rows)
    return dataclasses.replace(
        record,
        leads=leads,
        signal_mv=np.stack([rows[lead] for lead in leads]).astype(np.float32),
        derived=canonical_order((*record.derived, *added)),
        notes=(*record.notes, f"{', '.join(added)} derived from {' and '.join(list(limb)[:2])}"),
    )


def _moves(signal_mv: Float[np.ndarray, " T"]) -> bool:
    known = signal_mv[np.isfinite(signal_mv)]
    return bool(known.size) and float(np.ptp(known)) > 0.0


def resample(record: Record, rate_hz: float) -> Record:
    """The record at another sampling rate, by a polyphase filter; missing samples stay missing."""
    if rate_hz == record.sampling_rate_hz:
        return record
    from scipy.signal import resample_poly

    ratio = Fraction(rate_hz / record.sampling_rate_hz).limit_denominator(1000)
    missing = np.isnan(record.signal_mv)
    signal = resample_poly(
        _bridge(record.signal_mv, missing),
        ratio.numerator,
        ratio.denominator,
        axis=1,
        padtype="edge",
    )
    signal[_resample_mask(missing, signal.shape[1], ratio)] = np.nan
    return dataclasses.replace(
        record, signal_mv=signal.astype(np.float32), sampling_rate_hz=float(rate_hz)
    )


def _header(stem: Path) -> Path:
    return Path(f"{stem}.hea")  # `.` has no name to put a suffix to


def _below(folder: Path) -> list[Path]:
    headers = sorted(path for path in folder.rglob("*.hea") if path.is_file())
    if not headers:
        raise BadInput(
            f"{folder}: holds no record (no .hea below it); expected a folder of WFDB records"
        )
    return [header.with_suffix("") for header in headers]


def _bridge(
    signal: Float[np.ndarray, "L T"], missing: Bool[np.ndarray, "L T"]
) -> Float[np.ndarray, "L T"]:
    """The signal with straight lines over gaps, so that the filter does not spread NaN."""
    bridged = signal.astype(np.float64)
    for row, gap in zip(bridged, missing, strict=True):
        if gap.all():
            row[:] = 0
        elif gap.any():
            row[gap] = np.interp(np.flatnonzero(gap), np.flatnonzero(~gap), row[~gap])
    return bridged


def _resample_mask(
    missing: Bool[np.ndarray, "L T"], num_samples: int, ratio: Fraction
) -> Bool[np.ndarray, "L T2"]:
    """True where a new sample lies beside a missing one."""
    last = missing.shape[1] - 1
    position = np.arange(num_samples) / float(ratio)
    before = np.minimum(np.floor(position + 1e-9).astype(int), last)
    after = np.minimum(np.ceil(position - 1e-9).astype(int), last)
    return missing[:, before] | missing[:, after]
