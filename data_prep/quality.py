"""What to beware of in a record: notes, noise, and whether limb leads are what they are called.

Axes: L leads, T samples, N beats.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from data_prep.measurement import Measurement
from data_prep.records import LEADS, Record

LIMB = LEADS[:6]
# Einthoven and Goldberger: each row, weights of the limb leads, sums to nothing.
RELATIONS = np.array(
    [
        [1.0, -1.0, 1.0, 0.0, 0.0, 0.0],  # I + III = II
        [0.5, 0.5, 0.0, 1.0, 0.0, 0.0],  # aVR = -(I + II) / 2
        [0.5, 0.0, -0.5, 0.0, -1.0, 0.0],  # aVL = (I - III) / 2
        [0.0, 0.5, 0.5, 0.0, 0.0, -1.0],  # aVF = (II + III) / 2
    ]
)
RESIDUAL_SHARE = 0.1  # of the limb leads' deviation that may break a relation
NOISE_SHARE = 0.1  # of a lead's range that may be white noise
MAX_RANGE_MV = 50.0  # ten times what the tallest QRS complexes span
ARM_SWAP = {"I": "-I", "II": "III", "III": "II", "aVR": "aVL", "aVL": "aVR"}


def assess(record: Record, measured: Measurement) -> dict[str, Any]:
    """Returns the `quality` of a measurement: reasons of record and leads, lead identity."""
    return {
        "reasons": _reasons(record, measured),
        "leads": {lead: {"reasons": _lead_reasons(record, lead)} for lead in record.leads},
        "lead_identity": lead_identity(record, measured.beats),
    }


def _reasons(record: Record, measured: Measurement) -> list[str]:
    reasons = list(record.notes)
    if record.derived and not any("derived" in note for note in reasons):
        reasons.append(f"{', '.join(record.derived)} derived from other leads")
    if not record.calibrated and not any("amplitudes" in note for note in record.notes):
        reasons.append("not calibrated: amplitudes, areas and axis are null")
    range_mv = np.fmax.reduce(record.signal_mv, axis=1) - np.fmin.reduce(record.signal_mv, axis=1)
    if (widest_mv := float(np.fmax.reduce(range_mv))) > MAX_RANGE_MV:
        reasons.append(f"spans {widest_mv:.0f} mV, no ECG does: unit or gain of the file is false")
    num_beats = measured.summary["n_beats"]
    if not num_beats:
        reasons.append("no QRS found: nothing to measure")
    elif num_beats < 2:
        reasons.append("one QRS found: no rate, no rhythm")
    return reasons


def _lead_reasons(record: Record, lead: str) -> list[str]:
    reasons = list(record.lead_notes.get(lead, ()))
    row = record.signal_mv[record.leads.index(lead)]
    row = row[np.isfinite(row)]
    if not row.size:
        return reasons or ["missing throughout"]
    noise, extent = white_noise(row), float(np.ptp(row))
    if extent == 0:
        return reasons or ["flat: one value throughout"]
    if noise > NOISE_SHARE * extent:
        reasons.append(f"noisy: {noise / extent:.0%} of its range from sample to sample")
    return reasons


def white_noise(row: Float[np.ndarray, " T"]) -> float:
    """Returns the standard deviation of white noise in a lead, by its median third difference."""
    rough = np.abs(np.diff(row.astype(np.float64), n=3))
    return float(np.median(rough)) / 0.6745 / np.sqrt(20.0) if rough.size else 0.0


def lead_identity(record: Record, beats: Mapping[str, Float[np.ndarray, "L N"]]) -> dict[str, Any]:
    """Returns whether the six stored limb leads are what they are called, and what they are else.

    The relations between limb leads tell exchanged names and inverted leads; exchanged electrodes
    fulfil them and are told by the signs of the waves, of which the arms' are looked at.
    """
    stored = record.stored_leads
    if not set(LIMB) <= set(stored) or not record.calibrated:
        why = "gains are false" if not record.calibrated else "not all six are stored"
        return _verdict("unknown", f"limb leads cannot be compared: {why}", stored)
    x = record.signal_mv[[record.leads.index(lead) for lead in LIMB]].astype(np.float64)
    x = x[:, np.isfinite(x).all(axis=0)]
    if x.shape[1] < 2 or (x.std(axis=1) == 0).any():
        return _verdict("unknown", "limb leads cannot be compared: one is flat or missing", stored)
    covariance = np.cov(x)
    if _fits(covariance, RELATIONS[None])[0]:
        return _electrodes(record, beats)
    found = _true_names(covariance)
    if found is None:
        said = "limb leads do not fulfil I + III = II and its like, nor does any exchange of them"
        return _verdict("unknown", said, stored)
    wrong = ", ".join(f"{lead} is {is_}" for lead, is_ in found.items() if lead != is_)
    return _verdict(
        "suspect", f"limb leads fulfil I + III = II and its like if {wrong}", stored, found
    )


def _electrodes(record: Record, beats: Mapping[str, Float[np.ndarray, "L N"]]) -> dict[str, Any]:
    """Returns the verdict on leads whose relations hold: arm electrodes exchanged or not."""
    one, avr = record.leads.index("I"), record.leads.index("aVR")
    p_one, p_avr, area_one = (
        _median(beats[key][lead])
        for key, lead in (("p_amp_mv", one), ("p_amp_mv", avr), ("qrs_area_mv_ms", one))
    )
    if p_one < 0 < p_avr and area_one < 0:
        said = (
            "P and QRS are negative in I and P is upright in aVR: arm electrodes exchanged "
            "(or dextrocardia)"
        )
        return _verdict("suspect", said, record.stored_leads, ARM_SWAP)
    return _verdict("ok", None, record.stored_leads)


def _true_names(covariance: Float[np.ndarray, "6 6"]) -> dict[str, str] | None:
    """Returns for each limb lead the lead it really is, `-` before an inverted one, or None.

    Of all exchanges and inversions that fulfil the relations, if any, the one that changes least.
    """
    orders = np.array(list(itertools.permutations(range(6))))
    moved = (orders != np.arange(6)).sum(axis=1)
    # Stored lead orders[:, j] stands for limb lead j.
    exchanged = np.zeros((len(orders), 4, 6))
    np.put_along_axis(
        exchanged, np.broadcast_to(orders[:, None], exchanged.shape), RELATIONS[None], axis=2
    )
    fitting = []
    for signs in itertools.product((1.0, -1.0), repeat=6):
        for i in np.flatnonzero(_fits(covariance, exchanged * np.array(signs))):
            fitting.append((moved[i] + signs.count(-1.0), tuple(orders[i]), signs))
    if not fitting:
        return None
    _, order, signs = min(fitting)
    return {
        LIMB[stored]: ("-" if signs[stored] < 0 else "") + LIMB[true]
        for true, stored in enumerate(order)
    }


def _fits(covariance: Float[np.ndarray, "6 6"], weights: Float[np.ndarray, "K 4 6"]) -> np.ndarray:
    """Returns which sets of weights leave only a small deviation in all four sums."""
    variance = ((weights @ covariance) * weights).sum(axis=-1)
    return (variance < RESIDUAL_SHARE**2 * np.trace(covariance) / 6).all(axis=-1)


def _verdict(
    verdict: str,
    finding: str | None,
    stored: tuple[str, ...],
    true: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    likely = [(true or {}).get(lead, lead) for lead in stored]
    return {"verdict": verdict, "finding": finding, "likely_order": likely}


def _median(values: Float[np.ndarray, " N"]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")
