"""Voltage indices of left ventricular hypertrophy.

None where a lead or its QRS is missing. Thresholds belong to the criteria, not here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool, Float

from data_prep.records import LEADS

# Each over the typical R and S, and where it was proposed:
INDICES: dict[str, Callable[[Mapping[str, float], Mapping[str, float]], float]] = {
    # Sokolow and Lyon, Am Heart J 37 (1949) 161
    "sokolow_lyon_mv": lambda r, s: s["V1"] + max(r["V5"], r["V6"]),
    # Casale et al., Circulation 75 (1987) 565
    "cornell_mv": lambda r, s: r["aVL"] + s["V3"],
    # Lewis, Heart 5 (1914) 367
    "lewis_mv": lambda r, s: r["I"] + s["III"] - r["III"] - s["I"],
    # Gubner and Ungerleider, Arch Intern Med 72 (1943) 196
    "gubner_mv": lambda r, s: r["I"] + s["III"],
    # Peguero et al., J Am Coll Cardiol 69 (2017) 1694
    "peguero_mv": lambda r, s: max(s[lead] for lead in LEADS) + s["V4"],
}


def voltage_indices(
    leads: tuple[str, ...],
    beats: Mapping[str, Float[np.ndarray, "L N"]],
    usual: Bool[np.ndarray, " N"],
    qrs_ms: float | None,
) -> dict[str, float | None]:
    """Returns the indices in mV, and Cornell's product in mV·ms.

    R and S are medians over the usual beats; S is the depth of the QRS below its baseline, also of
    a complex that is a Q alone. The product is Cornell's voltage times the QRS duration, without
    what some add to it for women (Molloy et al., J Am Coll Cardiol 20 (1992) 1180).

    Args:
        leads: names of the L leads.
        beats: amplitudes, null where unknown.
        usual: which beats count.
        qrs_ms: of the record.
    """
    r = _typical(leads, beats["r_amp_mv"][:, usual], beats, usual)
    depth = np.fmin(beats["s_amp_mv"], beats["q_amp_mv"])[:, usual]
    s = _typical(leads, -depth, beats, usual)
    found: dict[str, float | None] = {}
    for name, index in INDICES.items():
        try:
            found[name] = index(r, s)
        except KeyError:  # a lead that has no QRS to measure
            found[name] = None
    cornell = found["cornell_mv"]
    product = None if cornell is None or qrs_ms is None else cornell * qrs_ms
    return found | {"cornell_product_mv_ms": product}


def _typical(
    leads: tuple[str, ...],
    sizes: Float[np.ndarray, "L M"],
    beats: Mapping[str, Float[np.ndarray, "L N"]],
    usual: Bool[np.ndarray, " N"],
) -> dict[str, float]:
    """Returns the median size in each lead with a measured QRS; a wave that is not there is 0."""
    known = np.isfinite(beats["qrs_area_mv_ms"][:, usual])
    ordered = np.sort(np.where(known, np.nan_to_num(sizes), np.inf), axis=1)
    return {
        lead: float(row[(count - 1) // 2] + row[count // 2]) / 2
        for lead, row, count in zip(leads, ordered, known.sum(axis=1).tolist(), strict=True)
        if count
    }
