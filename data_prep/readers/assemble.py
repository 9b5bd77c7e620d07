"""Rows of a file, named and spelled as they come, made into a Record of canonical leads.

Every reader ends here, so that all say the same of the same oddity.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from data_prep.records import LEADS, BadInput, Record, canonical_order, derive_leads

_CANONICAL = {lead.lower(): lead for lead in LEADS}
_USUAL_DURATION_S = 10.0
_COARSE_RATE_HZ = 250.0


def lead_name(spelled: str) -> str | None:
    """The canonical name of a lead (of `avr`, `Lead II`, `V1+`), or None if there is none."""
    bare = re.sub(r"^lead[ _-]*|\+$", "", spelled.strip().lower())
    return _CANONICAL.get(bare)


def assemble(
    name: str,
    spelled: Sequence[str],
    signal_mv: Float[np.ndarray, "S T"],
    sampling_rate_hz: float,
    *,
    notes: Sequence[str] = (),
    lead_notes: Mapping[str, Sequence[str]] | None = None,
    calibrated: bool = True,
    meta: Mapping[str, Any] | None = None,
) -> Record:
    """The Record of S stored signals: leads ordered, derivable limb leads added, oddities noted.

    Args:
      name: the record's path without suffix.
      spelled: the name of each stored signal as the file spells it.
      signal_mv: one row a stored signal, NaN where missing.
      sampling_rate_hz: of every row.
      notes: what the reader already noticed of the record.
      lead_notes: the same by canonical lead.
      calibrated: whether the millivolts can be trusted.
      meta: age, sex, diagnoses, report.

    Raises:
      BadInput: no signal is one of the twelve leads, or two are the same one.
    """
    rows = _rows_by_lead(name, spelled)
    leads = canonical_order(rows)
    signal = np.ascontiguousarray(signal_mv[[rows[lead] for lead in leads]], dtype=np.float32)
    record = derive_leads(
        Record(
            name=name,
            leads=leads,
            signal_mv=signal,
            sampling_rate_hz=sampling_rate_hz,
            notes=(
                *notes,
                *_naming_notes(spelled),
                *_timing_notes(signal.shape[1], sampling_rate_hz),
            ),
            lead_notes=_signal_notes(leads, signal, sampling_rate_hz, lead_notes or {}),
            stored_leads=tuple(rows),
            calibrated=calibrated,
            meta=dict(meta or {}),
        )
    )
    return _note_missing_leads(record)


def _rows_by_lead(name: str, spelled: Sequence[str]) -> dict[str, int]:
    rows: dict[str, int] = {}
    for row, text in enumerate(spelled):
        lead = lead_name(text)
        if lead in rows:
            raise BadInput(
                f"{name}: lead {lead} is there twice ({spelled[rows[lead]]!r} and {text!r}), "
                "expected each lead once; rename or remove one"
            )
        if lead:
            rows[lead] = row
    if not rows:
        raise BadInput(
            f"{name}: got signals {', '.join(map(repr, spelled))[:80]}, expected at least one of "
            f"{', '.join(LEADS)}; name the leads in the header"
        )
    return rows


def _naming_notes(spelled: Sequence[str]) -> list[str]:
    named = [(text, lead_name(text)) for text in spelled]
    stored = [lead for _, lead in named if lead]
    notes = [
        f"signal {text!r} is none of the twelve leads: left out" for text, lead in named if not lead
    ]
    if other := [f"{text} for {lead}" for text, lead in named if lead and text != lead]:
        notes.append(f"leads spelled otherwise: {', '.join(other)}")
    if tuple(stored) != canonical_order(stored):
        notes.append(f"leads stored in another order: {' '.join(stored)}")
    return notes


def _timing_notes(num_samples: int, rate_hz: float) -> list[str]:
    duration_s = num_samples / rate_hz
    notes = []
    if rate_hz < _COARSE_RATE_HZ:
        notes.append(f"sampled at {rate_hz:g} Hz: times are no finer than {1000 / rate_hz:g} ms")
    if abs(duration_s - _USUAL_DURATION_S) > 0.5:
        notes.append(f"{duration_s:.1f} s long, not the usual {_USUAL_DURATION_S:g} s")
    return notes


def _signal_notes(
    leads: tuple[str, ...],
    signal: Float[np.ndarray, "L T"],
    rate_hz: float,
    given: Mapping[str, Sequence[str]],
) -> dict[str, tuple[str, ...]]:
    """What the given notes say of each lead, and whether it is missing in part or flat."""
    notes = {lead: list(given.get(lead, ())) for lead in leads}
    missing = np.isnan(signal).sum(axis=1)
    for lead, row, count in zip(leads, signal, missing, strict=True):
        if count == row.size:
            notes[lead].append("missing throughout")
            continue
        if count:
            notes[lead].append(f"missing for {count / rate_hz:.2f} s of {row.size / rate_hz:.2f} s")
        if np.nanmin(row) == np.nanmax(row):
            notes[lead].append("flat: one value throughout")
    return {lead: tuple(said) for lead, said in notes.items() if said}


def _note_missing_leads(record: Record) -> Record:
    absent = [lead for lead in LEADS if lead not in record.leads]
    if not absent:
        return record
    return dataclasses.replace(record, notes=(*record.notes, f"not recorded: {', '.join(absent)}"))
