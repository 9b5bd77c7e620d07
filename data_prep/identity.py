"""Whether the leads are what they are called, and what they are else.

First the relations between stored limb leads: they tell false names, inverted leads and gains that
differ. Exchanged electrodes fulfil them, as chest leads fulfil any order; these are told by
the shapes of the waves, where those leave little doubt. Left arm and left leg exchanged look
like a heart that lies a little otherwise: only the clearest are seen. An electrode exchanged with
the right leg's leaves a limb lead nearly flat, unless it is the left leg's: that is never seen.

Axes: M = 9 leads (I, II, III, V1 … V6), T samples, N beats, F features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from data_prep.exchanges import (
    NONE,
    Exchange,
    after,
    all_inverted,
    chest_exchanges,
    limb_exchanges,
    true_leads,
)
from data_prep.lead_names import nine_leads, true_names
from data_prep.lead_shapes import CHEST, NINE, Shapes, scores, shapes_of
from data_prep.limb_relations import LIMB
from data_prep.records import LEADS, Record
from data_prep.waves import QRS_PEAK, Waves

# By how much an exchange must explain the shapes better (in log odds), for each kind of exchange:
# above what records with true leads reach when cross-validated by patient (three times five folds),
# by more where more are tried. One of 335 goes beyond: a QRS that points to the upper right in all
# leads but I and V1 looks inverted.
MARGIN = {
    "limb": 1.2,
    "round": 1.6,
    "LA-LL": 3.6,
    "neighbours": 2.5,
    "chest": 5.0,
    "three": 6.0,
    "reverse": 5.6,
    "inverted": 2.0,
    "all inverted": 3.5,
}
RARE = {"round": 2.0, "three": 2.0}  # log odds against what takes two exchanges, beside one
FLAT_SHARE = np.array([0.16, 0.25, 0.16])  # of QRS and T of the largest of I, II and III
ENOUGH_CHEST = 4  # with fewer chest leads, shapes say too little of the electrodes
NO_QRS = "no QRS but of paced beats shows whether electrodes are exchanged"
# The limb lead that is nearly flat: whose electrodes are exchanged, and what is left of the leads.
RIGHT_LEG: dict[str, tuple[str, dict[str, str | None]]] = {
    "I": ("both arms and both legs", {"II": "II", "III": "III"}),
    "II": ("right arm and right leg", {"I": "-III", "III": "III"}),
    "III": ("left arm and right leg", {"I": "II", "II": "II", "aVR": "-II"}),
}


def lead_identity(
    record: Record,
    waves: Waves,
    paced: Float[np.ndarray, " N"] | None = None,
    weights: Float[np.ndarray, " F"] | None = None,
) -> dict[str, Any]:
    """Returns `verdict` (ok, suspect, unknown), `finding` and `likely_order` of the stored leads.

    `likely_order` names for each stored lead the one that it really is, `-` before an inverted
    one, None for what no lead of the twelve is.

    Args:
        record: the leads as stored.
        waves: marks of the record, in any leads.
        paced: 1 for a paced beat, whose shape says where the pacemaker's electrode is.
        weights: of the shapes, if not those of lead_shapes.npz.
    """
    stored = record.stored_leads
    if not record.calibrated:
        return _verdict("unknown", "leads cannot be compared: gains are false", stored)
    waves = waves if paced is None else of_own_beats(waves, paced)
    names, doubt, strange = true_names(record, waves, weights)
    if strange:
        return _verdict("suspect", doubt, stored, {strange: None})
    if names is None:
        return _verdict("unknown", doubt, stored)
    shapes = shapes_of(_with_qrs(nine_leads(record, names), waves, names), waves)
    if shapes is None:
        return _told(record, names, doubt or NO_QRS)
    if names is NONE and (lead := _flat_limb_lead(shapes)):
        whose, left = RIGHT_LEG[lead]
        said = f"{lead} is nearly flat: electrodes of {whose} exchanged"
        lost: dict[str, str | None] = dict.fromkeys(LIMB)
        return _verdict("suspect", said, stored, lost | left)
    if shapes.alive[CHEST].sum() < ENOUGH_CHEST:
        return _told(
            record, names, doubt or "too few chest leads show whether electrodes are right"
        )
    limb = limb_exchanges() if names is NONE else ()  # else the names were chosen with the shapes
    first = _likeliest(shapes, (*limb, *chest_exchanges(), all_inverted()), NONE, weights)
    others = chest_exchanges() if first in limb else limb
    second = _likeliest(shapes, others, first, weights) if first is not NONE else NONE
    return _told(record, after(second, after(first, names)), doubt)


def _told(record: Record, exchange: Exchange, doubt: str | None) -> dict[str, Any]:
    """Returns the verdict on leads that an exchange corrects."""
    true: Mapping[str, str | None] = true_leads(exchange)
    if exchange.said:
        return _verdict("suspect", exchange.said, record.stored_leads, true)
    return _verdict("unknown" if doubt else "ok", doubt, record.stored_leads)


def _verdict(
    verdict: str,
    finding: str | None,
    stored: Sequence[str],
    true: Mapping[str, str | None] | None = None,
) -> dict[str, Any]:
    likely = [(true or {}).get(lead, lead) for lead in stored]
    return {"verdict": verdict, "finding": finding, "likely_order": likely}


def of_own_beats(waves: Waves, paced: Float[np.ndarray, " N"]) -> Waves:
    """Returns the waves without those of paced beats, without any if most beats are paced.

    Beside paced beats, one without a spike may be one whose spike was not seen.
    """
    lost = paced == 1
    if not lost.any():
        return waves
    lost |= 2 * lost.sum() > np.isfinite(paced).sum()
    return dataclasses.replace(waves, samples=np.where(lost[:, None], np.nan, waves.samples))


def _with_qrs(
    nine: Float[np.ndarray, "M T"], waves: Waves, names: Exchange
) -> Float[np.ndarray, "M T"]:
    """Returns the leads with zeros for chest leads of noise, that show QRS in few of the beats."""
    shown = dict(zip(waves.leads, np.isfinite(waves.samples[..., QRS_PEAK]), strict=True))
    beats = np.any(list(shown.values()), axis=0).sum()
    chest = [LEADS[names.source[i]] for i in NINE[3:]]
    few = [lead in shown and 2 * shown[lead].sum() < beats for lead in chest]
    return np.where(np.array([False] * 3 + few)[:, None], np.float32(0), nine)


def _flat_limb_lead(shapes: Shapes) -> str | None:
    """Returns I, II or III if its QRS and T are next to nothing beside the others'."""
    size = np.sqrt(np.diagonal(shapes.energy, axis1=1, axis2=2)[:2, :3])
    share = (size / np.maximum(size.max(axis=1, keepdims=True), 1e-9)).max(axis=0) / FLAT_SHARE
    return ("I", "II", "III")[int(share.argmin())] if share.min() < 1.0 else None


def _likeliest(
    shapes: Shapes,
    tried: Sequence[Exchange],
    known: Exchange,
    weights: Float[np.ndarray, " F"] | None,
) -> Exchange:
    """Returns the exchange, beyond a known one, that explains the shapes best by its margin.

    NONE if no exchange does. A lead that carries nothing is never moved.
    """
    dead = [place for place, alive in zip(NINE, shapes.alive, strict=True) if not alive]
    tried = [one for one in tried if all(one.source[place] == place for place in dead)]
    corrected = tried if known is NONE else [after(one, known) for one in tried]
    gained = scores(shapes, [known, *corrected], weights)
    gained = gained[1:] - gained[0]
    sure = gained > [MARGIN[one.kind] for one in tried]
    gained -= [RARE.get(one.kind, 0.0) for one in tried]
    return tried[int(np.where(sure, gained, -np.inf).argmax())] if sure.any() else NONE
