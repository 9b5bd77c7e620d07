"""The ECG record: named leads in millivolts at one sampling rate, and how it is read and changed.

Axes: L leads, T samples.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
_OF_I_AND_II = {  # each limb lead as a sum of I and II
    "I": (1.0, 0.0),
    "II": (0.0, 1.0),
    "III": (-1.0, 1.0),
    "aVR": (-0.5, -0.5),
    "aVL": (1.0, -0.5),
    "aVF": (-0.5, 1.0),
}
WFDB_SUFFIXES = (".hea", ".dat", ".mat")
MAX_VALUES = 1 << 24  # samples of all leads: 46 minutes of twelve at 500 Hz, a day of one at 128


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


@dataclass(frozen=True)
class Reading:
    """How files are read; rate, leads and unit only count where a file says nothing of them.

    Attributes:
      rate_hz: samples a second of a table or array.
      leads: the names of its columns, in their order.
      unit: of its values: mV, uV, µV, nV or V.
      strict: refuse a file whose own checks (checksum, first sample, length) do not fit it.
    """

    rate_hz: float | None = None
    leads: tuple[str, ...] = ()
    unit: str | None = None
    strict: bool = False


def read(path: str | Path, reading: Reading | None = None) -> Record:
    """The record at a path: with or without suffix, or FILE.hdf5/EXAM_ID.

    Raises:
      BadInput: it is missing, incomplete, of an unknown format or not an ECG.
    """
    from data_prep.readers.locate import read_at

    return read_at(_named(path), reading or Reading())


def check(path: str | Path) -> None:
    """Refuses, with the BadInput of `read`, what is wrong before a sample is read.

    That is a missing or garbled header, and data files that are missing or too short.
    """
    from data_prep.readers.locate import check_at

    check_at(_named(path))


def find(paths: Sequence[str | Path]) -> list[Path]:
    """Paths that `read` takes: those given, those that fit a glob, those below folders, sorted.

    A path that is no folder is passed on even if nothing is there: `read` says what is wrong.

    Raises:
      BadInput: nothing was given, or a folder or glob holds no record.
    """
    if not paths:
        raise BadInput("no record given; expected paths of records or folders")
    from data_prep.readers.locate import records_at

    return list(dict.fromkeys(found for path in paths for found in records_at(_named(path))))


def _named(path: str | Path) -> Path:
    if path == "":  # a Path of it would be the working directory
        raise BadInput("got an empty path, expected the path of a record; is a variable unset?")
    return Path(path)


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
    """The record with those limb leads added that follow from two of the stored ones.

    Einthoven: II = I + III. Goldberger: aVR = -(I + II)/2, aVL = (I - III)/2, aVF = (II + III)/2.
    A sample missing in a source is missing in what is derived from it. A flat lead is no source:
    its electrode was off.
    """
    rows = dict(zip(record.leads, record.signal_mv, strict=True))
    added = tuple(lead for lead in _OF_I_AND_II if lead not in rows)
    limb = [lead for lead in _OF_I_AND_II if lead in rows and _moves(rows[lead])][:2]
    if len(limb) < 2 or not added:
        return record
    sources = np.stack([rows[lead] for lead in limb]).astype(np.float64)
    of_sources = np.linalg.inv(np.array([_OF_I_AND_II[lead] for lead in limb]))
    for lead in added:
        rows[lead] = (np.array(_OF_I_AND_II[lead]) @ of_sources @ sources).astype(np.float32)
    leads = canonical_order(rows)
    return dataclasses.replace(
        record,
        leads=leads,
        signal_mv=np.stack([rows[lead] for lead in leads]),
        derived=canonical_order((*record.derived, *added)),
        notes=(*record.notes, f"{', '.join(added)} derived from {' and '.join(limb)}"),
    )


def _moves(signal_mv: Float[np.ndarray, " T"]) -> bool:
    known = signal_mv[np.isfinite(signal_mv)]
    return bool(known.size) and float(np.ptp(known)) > 0.0


def resample(record: Record, rate_hz: float) -> Record:
    """The record at another sampling rate, by a polyphase filter; missing samples stay missing."""
    if rate_hz == record.sampling_rate_hz:
        return record
    from data_prep.resampling import resample_rows

    return dataclasses.replace(
        record,
        signal_mv=resample_rows(record.signal_mv, record.sampling_rate_hz, rate_hz),
        sampling_rate_hz=float(rate_hz),
    )
