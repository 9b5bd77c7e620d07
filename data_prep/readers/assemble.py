"""Rows of a file, named and spelled as they come, made into a Record of canonical leads.

Every reader ends here, so that all say the same of the same oddity.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from data_prep.readers.names import inverted, lead_names, shown
from data_prep.readers.padding import without_padding
from data_prep.records import LEADS, BadInput, Record, canonical_order, derive_leads

_USUAL_DURATION_S = 10.0
_COARSE_RATE_HZ = 250.0
_NO_VOLTAGE_MV = 1e9  # a million volts


@np.errstate(invalid="ignore")  # a damaged number may be a NaN that complains when it is used
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
    """The Record of S stored leads: ordered, padding gone, limb leads derived, oddities noted.

    Args:
      name: the record's path without suffix.
      spelled: the name of each stored signal as the file spells it; not all need be leads.
      signal_mv: one row a stored signal that is a lead, in the same order, NaN where missing.
      sampling_rate_hz: of every row.
      notes: what the reader already noticed of the record.
      lead_notes: the same by canonical lead.
      calibrated: whether the millivolts can be trusted.
      meta: age, sex, diagnoses, report.

    Raises:
      BadInput: no signal is one of the twelve leads, or two are the same one, or no voltage is as
        high.
    """
    names = lead_names(name, spelled)
    stored = [lead for lead in names if lead]
    if not stored:
        got = ", ".join(shown(text, k) for k, text in enumerate(spelled[:6], 1))
        raise BadInput(
            f"{name}: got {got}{', …' * (len(spelled) > 6)}, expected at least one of "
            f"{', '.join(LEADS)}; name the leads in the header"
        )
    leads = canonical_order(stored)
    signal = np.ascontiguousarray(signal_mv[[stored.index(lead) for lead in leads]], np.float32)
    said = {lead: list((lead_notes or {}).get(lead, ())) for lead in leads}
    for text, lead in zip(spelled, names, strict=True):
        if lead and inverted(text):
            np.negative(signal[leads.index(lead)], out=signal[leads.index(lead)])
            said[lead].append(f"stored inverted, as {text}: turned upright")
    _check_voltage(name, leads, signal)
    signal, padding = without_padding(signal, sampling_rate_hz)
    _note_signals(said, leads, signal, sampling_rate_hz, padding.num_samples)
    duration_s = signal.shape[1] / sampling_rate_hz
    record = derive_leads(
        Record(
            name=name,
            leads=leads,
            signal_mv=signal,
            sampling_rate_hz=sampling_rate_hz,
            notes=(
                *notes,
                *_naming_notes(spelled, names),
                *_timing_notes(duration_s, sampling_rate_hz),
                *padding.notes,
            ),
            lead_notes={lead: tuple(texts) for lead, texts in said.items() if texts},
            stored_leads=tuple(stored),
            calibrated=calibrated,
            meta=dict(meta or {}),
        )
    )
    return _note_missing_leads(record)


def _check_voltage(name: str, leads: Sequence[str], signal: Float[np.ndarray, "L T"]) -> None:
    high = np.fmax(np.fmax.reduce(signal, axis=1), -np.fmin.reduce(signal, axis=1))
    for lead, top in zip(leads, high.tolist(), strict=True):
        if top > _NO_VOLTAGE_MV:
            raise BadInput(
                f"{name}: lead {lead} reaches {top:.0e} mV, expected a voltage; correct its gain "
                "or unit"
            )


def _naming_notes(spelled: Sequence[str], names: Sequence[str | None]) -> list[str]:
    named = [(text.strip(), lead) for text, lead in zip(spelled, names, strict=True)]
    stored = [lead for lead in names if lead]
    notes = [
        f"{shown(text, number)} is none of the twelve leads: left out"
        for number, (text, lead) in enumerate(named, 1)
        if not lead
    ]
    if other := [f"{text} for {lead}" for text, lead in named if lead and text != lead]:
        notes.append(f"leads spelled otherwise: {', '.join(other)}")
    if tuple(stored) != canonical_order(stored):
        notes.append(f"leads stored in another order: {' '.join(stored)}")
    return notes


def _timing_notes(duration_s: float, rate_hz: float) -> list[str]:
    notes = []
    if rate_hz < _COARSE_RATE_HZ:
        notes.append(f"sampled at {rate_hz:g} Hz: times are no finer than {1000 / rate_hz:g} ms")
    if abs(duration_s - _USUAL_DURATION_S) > 0.5:
        notes.append(f"{duration_s:.1f} s long, not the usual {_USUAL_DURATION_S:g} s")
    return notes


def _note_signals(
    said: Mapping[str, list[str]],
    leads: Sequence[str],
    signal: Float[np.ndarray, "L T"],
    rate_hz: float,
    num_padded: int,
) -> None:
    """Adds to each lead's notes whether it is missing, beyond padding, or flat."""
    num_samples = signal.shape[1]
    missing = np.isnan(signal).sum(axis=1).tolist()
    flat = np.fmax.reduce(signal, axis=1) == np.fmin.reduce(signal, axis=1)
    for lead, count, is_flat in zip(leads, missing, flat.tolist(), strict=True):
        if count == num_samples:
            said[lead].append("missing throughout")
            continue
        if count > num_padded:
            lost_s, of_s = (count - num_padded) / rate_hz, (num_samples - num_padded) / rate_hz
            said[lead].append(f"missing for {lost_s:.2f} s of {of_s:.2f} s")
        if is_flat:
            said[lead].append("flat: one value throughout")


def _note_missing_leads(record: Record) -> Record:
    absent = [lead for lead in LEADS if lead not in record.leads]
    if not absent:
        return record
    return dataclasses.replace(record, notes=(*record.notes, f"not recorded: {', '.join(absent)}"))
