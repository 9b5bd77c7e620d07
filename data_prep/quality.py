"""What to beware of in a record: of the whole, of each lead, and whether leads are what they say.

Axes: L leads, T samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from data_prep.identity import lead_identity
from data_prep.lead_noise import cut_off, hum, longest_flat, wander, white_noise
from data_prep.measurement import Measurement
from data_prep.records import Record

# Of a lead's range; of 4,056 leads at hand 0.1 %, none and 2 % have more.
NOISE_SHARE, HUM_SHARE, WANDER_SHARE = 0.04, 0.02, 0.5
WANDER_MV = 0.3  # less harms no ST level
FLAT_S = 1.0
CUT_S, MIN_CUTS = 0.008, 3  # at the greatest or least value: so long, so often
MAX_LEAD_RANGE_MV = 20.0  # twice the tallest QRS complexes with their wander
MAX_RANGE_MV = 50.0  # ten times what the tallest QRS complexes span


def assess(record: Record, measured: Measurement) -> dict[str, Any]:
    """Returns the `quality` of a measurement: reasons of record and leads, lead identity.

    `missing_samples` of a lead are bridged by straight lines where waves are sought, and nowhere
    else: what would be measured on one is null.
    """
    reasons = _lead_reasons(record)
    missing = np.isnan(record.signal_mv).sum(axis=1).tolist()
    return {
        "reasons": _reasons(record, measured),
        "leads": {
            lead: {"reasons": reasons[lead], "missing_samples": count}
            for lead, count in zip(record.leads, missing, strict=True)
        },
        "lead_identity": lead_identity(record, measured.waves, measured.paced),
    }


def _reasons(record: Record, measured: Measurement) -> list[str]:
    reasons = list(record.notes)
    if record.derived and not any("derived" in note for note in reasons):
        reasons.append(f"{', '.join(record.derived)} derived from other leads")
    if not record.calibrated and not any("amplitudes" in note for note in record.notes):
        reasons.append("not calibrated: amplitudes, areas and axis are null")
    if record.calibrated and (widest_mv := float(np.fmax.reduce(_range(record)))) > MAX_RANGE_MV:
        reasons.append(f"spans {widest_mv:.0f} mV, no ECG does: unit or gain of the file is false")
    num_beats = measured.summary["n_beats"]
    if not num_beats:
        reasons.append("no QRS found: nothing to measure")
    elif num_beats < 2:
        reasons.append("one QRS found: no rate, no rhythm")
    return reasons


def _range(record: Record) -> Float[np.ndarray, " L"]:
    return np.fmax.reduce(record.signal_mv, axis=1) - np.fmin.reduce(record.signal_mv, axis=1)


def _lead_reasons(record: Record) -> dict[str, list[str]]:
    """Returns for each lead what the reader noticed, and what its signal shows."""
    x, rate_hz = record.signal_mv, record.sampling_rate_hz
    extent = _range(record)
    noise, baseline = white_noise(x), wander(x, rate_hz)
    mains = hum(x, rate_hz)
    flat_s = longest_flat(x, max(2, round(FLAT_S * rate_hz))) / rate_hz
    cuts = cut_off(x, max(3, round(CUT_S * rate_hz)))
    least_wander = WANDER_MV if record.calibrated else 0.0
    told = {}
    for i, lead in enumerate(record.leads):
        reasons = told[lead] = list(record.lead_notes.get(lead, ()))
        if not extent[i] > 0:  # or nothing is there
            dead = "missing throughout" if np.isnan(extent[i]) else "flat: one value throughout"
            told[lead] = reasons or [dead]
            continue
        if flat_s[i]:
            reasons.append(f"flat for {flat_s[i]:.1f} s")
        if noise[i] > NOISE_SHARE * extent[i]:
            reasons.append(f"noisy: {noise[i] / extent[i]:.0%} of its range from sample to sample")
        reasons += [
            f"mains hum of {mains_hz:g} Hz: {size[i] / extent[i]:.0%} of its range"
            for mains_hz, size in mains.items()
            if size[i] > HUM_SHARE * extent[i]
        ]
        if baseline[i] > max(WANDER_SHARE * extent[i], least_wander):
            reasons.append(f"baseline wanders over {baseline[i] / extent[i]:.0%} of its range")
        if cuts[i] >= MIN_CUTS:
            reasons.append(f"cut off: stays {cuts[i]} times at its greatest or least value")
        if record.calibrated and extent[i] > MAX_LEAD_RANGE_MV:
            reasons.append(f"spans {extent[i]:.0f} mV, no ECG does")
    return told
