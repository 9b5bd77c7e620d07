"""False gains: limb leads that fit together as they were sampled and not in millivolts.

Einthoven's and Goldberger's relations hold for any one scale of the leads. If the raw samples obey
them to rounding and the millivolts do not, the header's gains were not the recorder's. Leads under
each other's names disobey the relations both ways, so this is no exchange of leads. K leads.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from data_prep.readers.wfdb_samples import missing

# Each sums to zero: Einthoven's law and Goldberger's leads.
_LIMB_RELATIONS = {
    "II = I + III": {"I": 1, "III": 1, "II": -1},
    "aVR = -(I + II)/2": {"I": 1, "II": 1, "aVR": 2},
    "aVL = (I - III)/2": {"I": 1, "III": -1, "aVL": -2},
    "aVF = (II + III)/2": {"II": 1, "III": 1, "aVF": -2},
}
Raw = tuple[float, str, Int[np.ndarray, " T"]]


def false_gains(raw: Mapping[str, Raw]) -> list[str]:
    """A note if the gains are false, of leads as (mV a step, WFDB format, samples)."""
    for relation, weights in _LIMB_RELATIONS.items():
        if not all(lead in raw for lead in weights):
            continue
        scales, forms, rows = zip(*(raw[lead] for lead in weights), strict=True)
        if len(set(scales)) == 1 or len({row.size for row in rows}) > 1:
            continue
        weight = np.array(list(weights.values()))
        kept = np.stack(rows).astype(np.float64)
        lost = [missing(form, row) for form, row in zip(forms, rows, strict=True)]
        if np.any(lost):
            kept = kept[:, ~np.any(lost, axis=0)]
        if _holds(weight, kept) and not _nearly_holds(weight, kept * np.array(scales)[:, None]):
            return [
                f"{relation} holds in the raw samples and not in mV: the header's gains are false, "
                "amplitudes and axis are unknown"
            ]
    return []


def _holds(weight: Int[np.ndarray, " K"], raw: Float[np.ndarray, "K T"]) -> bool:
    """Whether the weighted sum of raw samples is constant to rounding, in leads that do move."""
    if raw.size == 0 or np.ptp(raw, axis=1).min() < 20:
        return False
    return bool(np.ptp(weight @ raw) <= 2 * np.abs(weight).sum())


def _nearly_holds(weight: Int[np.ndarray, " K"], signal_mv: Float[np.ndarray, "K T"]) -> bool:
    """Whether the weighted sum in mV varies by less than 2 % of the leads."""
    return bool(np.ptp(weight @ signal_mv) < 0.02 * np.ptp(signal_mv, axis=1).max())
