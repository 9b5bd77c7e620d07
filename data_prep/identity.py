"""Whether the leads are what they are called, and what they are else.

First the relations between stored limb leads: they tell false names, inverted leads and gains that
differ. Exchanged electrodes fulfil them, as chest leads fulfil any order; these are told by
the shapes of the waves, where those leave little doubt. Left arm and left leg exchanged look
like a heart that lies a little otherwise: only the clearest are seen. An electrode exchanged with
the right leg's leaves a limb lead nearly flat, unless it is the left leg's: that is never seen.

Axes: n stored limb leads, M = 9 leads (I, II, III, V1 … V6), T samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from data_prep.exchanges import NONE, Exchange, after, chest_exchanges, limb_exchanges, true_leads
from data_prep.lead_shapes import CHEST, NINE, Shapes, scores, shapes_of
from data_prep.limb_relations import LIMB, OUTSIDE_SHARE, false_gains, outside, true_orders
from data_prep.records import LEADS, Record
from data_prep.waves import QRS_PEAK, Waves

# By how much an exchange must explain the shapes better (in log odds), for each kind of exchange:
# above what records with true leads reach when cross-validated, by more where more are tried.
MARGIN = {
    "limb": 1.2,
    "round": 1.2,
    "LA-LL": 3.1,
    "neighbours": 2.1,
    "chest": 5.0,
    "three": 5.0,
    "reverse": 5.6,
    "inverted": 2.0,
}
RARE = {"round": 2.0, "three": 2.0}  # log odds against what takes two exchanges, beside one
MOVE_COST = 2.0  # log odds against each further lead that would have been moved or inverted
FLAT_SHARE = np.array([0.16, 0.25, 0.16])  # of QRS and T of the largest of I, II and III
PLANE_HZ = 125.0  # as many samples show the relations as well as all
ENOUGH_CHEST = 4  # with fewer chest leads, shapes say too little of the electrodes
# The limb lead that is nearly flat: whose electrodes are exchanged, and what is left of the leads.
RIGHT_LEG: dict[str, tuple[str, dict[str, str | None]]] = {
    "I": ("both arms and both legs", {"II": "II", "III": "III"}),
    "II": ("right arm and right leg", {"I": "-III", "III": "III"}),
    "III": ("left arm and right leg", {"I": "II", "II": "II", "aVR": "-II"}),
}


def lead_identity(record: Record, waves: Waves) -> dict[str, Any]:
    """Returns `verdict` (ok, suspect, unknown), `finding` and `likely_order` of the stored leads.

    `likely_order` names for each stored lead the one that it really is, `-` before an inverted
    one, None for what no lead of the twelve is.
    """
    stored = record.stored_leads
    if not record.calibrated:
        return _verdict("unknown", "leads cannot be compared: gains are false", stored)
    names, doubt = _true_names(record, waves)
    if names is None:
        return _verdict("unknown", doubt, stored)
    shapes = shapes_of(_with_qrs(nine_leads(record, names), waves), waves)
    if shapes is None:
        return _told(record, names, doubt or "no QRS shows whether electrodes are exchanged")
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
    first = _likeliest(shapes, (*limb, *chest_exchanges()), NONE)
    others = chest_exchanges() if first in limb else limb
    second = _likeliest(shapes, others, first) if first is not NONE else NONE
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


def _true_names(record: Record, waves: Waves) -> tuple[Exchange | None, str | None]:
    """Returns the correction of limb leads' names, and what keeps it from being certain.

    None as the correction: the leads cannot be compared at all.
    """
    limb = tuple(lead for lead in LIMB if lead in record.stored_leads)
    if not {"I", "II"} <= set(record.leads):
        return None, "leads cannot be compared: I and II are not both there"
    if len(limb) < 3:
        return NONE, "limb leads cannot be compared: not all six are stored"
    x = record.signal_mv[
        [record.leads.index(lead) for lead in limb],
        :: max(1, int(record.sampling_rate_hz / PLANE_HZ)),
    ].astype(np.float64)
    x = x[:, np.isfinite(x).all(axis=0)]
    if x.shape[1] < 2 or (x.std(axis=1) == 0).sum() > 1:
        return None, "limb leads cannot be compared: they are flat or missing"
    covariance = np.cov(x)
    if outside(covariance, limb) < OUTSIDE_SHARE:
        return NONE, None
    if (x.std(axis=1) == 0).any():
        return None, "limb leads cannot be compared: one is flat"
    fitting = [_renamed(limb, *order) for order in true_orders(covariance, limb)]
    if fitting:
        return _best_name(record, waves, fitting), None
    if (gains := false_gains(covariance, limb)) is not None:
        factors = ", ".join(f"{lead} ×{gain:.2f}" for lead, gain in zip(limb, gains, strict=True))
        said = "limb leads fulfil I + III = II and its like only if their gains are false by"
        return None, f"{said} {factors}: their amplitudes and the axis are not to be trusted"
    return None, "limb leads do not fulfil I + III = II and its like, nor does any exchange of them"


def _renamed(limb: tuple[str, ...], source: tuple[int, ...], sign: tuple[float, ...]) -> Exchange:
    """Returns a correction of the stored limb leads as one of all twelve."""
    sources, signs = list(NONE.source), list(NONE.sign)
    for lead, k, s in zip(limb, source, sign, strict=True):
        sources[LEADS.index(lead)], signs[LEADS.index(lead)] = LEADS.index(limb[k]), s
    bare = Exchange("names", "", tuple(sources), tuple(signs))
    wrong = ", ".join(f"{lead} is {is_}" for lead, is_ in true_leads(bare).items() if lead != is_)
    said = f"limb leads fulfil I + III = II and its like if {wrong}"
    return Exchange("names", said, bare.source, bare.sign)


def _best_name(record: Record, waves: Waves, fitting: Sequence[Exchange]) -> Exchange:
    """Returns of all names that fulfil the relations those that change little and look right."""
    cost = np.array([MOVE_COST * _changes(one) for one in fitting])
    if set(LIMB) <= set(record.stored_leads):
        first = fitting[int(cost.argmin())]
        shapes = shapes_of(nine_leads(record, first), waves)
        if shapes is not None:
            cost -= scores(shapes, [_between(first, one) for one in fitting])
    return fitting[int(cost.argmin())]


def _changes(exchange: Exchange) -> int:
    moved = sum(source != i for i, source in enumerate(exchange.source))
    return moved + exchange.sign.count(-1.0)


def _between(first: Exchange, second: Exchange) -> Exchange:
    """Returns the correction that leads from the leads that `first` makes to those of `second`."""
    place = {source: i for i, source in enumerate(first.source)}
    source = tuple(place[k] for k in second.source)
    sign = tuple(s * first.sign[i] for s, i in zip(second.sign, source, strict=True))
    return Exchange("names", "", source, sign)


def nine_leads(record: Record, names: Exchange) -> Float[np.ndarray, "M T"]:
    """Returns I, II, III and V1 … V6 under their corrected names; zeros for what is not there."""
    signal = np.zeros((len(LEADS), record.signal_mv.shape[1]), np.float32)
    rows = [LEADS.index(lead) for lead in record.leads]
    missing = np.isnan(record.signal_mv).all(axis=1, keepdims=True)
    signal[rows] = (
        np.where(missing, np.float32(0), record.signal_mv) if missing.any() else record.signal_mv
    )
    if names is not NONE:
        signal = signal[list(names.source)] * np.array(names.sign, np.float32)[:, None]
    signal[2] = signal[1] - signal[0]
    return signal[list(NINE)]


def _with_qrs(nine: Float[np.ndarray, "M T"], waves: Waves) -> Float[np.ndarray, "M T"]:
    """Returns the leads with zeros for chest leads of noise, that show QRS in few of the beats."""
    shown = dict(zip(waves.leads, np.isfinite(waves.samples[..., QRS_PEAK]), strict=True))
    beats = np.any(list(shown.values()), axis=0).sum()
    chest = [LEADS[i] for i in NINE[3:]]
    few = [lead in shown and 2 * shown[lead].sum() < beats for lead in chest]
    return np.where(np.array([False] * 3 + few)[:, None], np.float32(0), nine)


def _flat_limb_lead(shapes: Shapes) -> str | None:
    """Returns I, II or III if its QRS and T are next to nothing beside the others'."""
    size = np.sqrt(np.diagonal(shapes.energy, axis1=1, axis2=2)[:2, :3])
    share = (size / np.maximum(size.max(axis=1, keepdims=True), 1e-9)).max(axis=0) / FLAT_SHARE
    return ("I", "II", "III")[int(share.argmin())] if share.min() < 1.0 else None


def _likeliest(shapes: Shapes, tried: Sequence[Exchange], known: Exchange) -> Exchange:
    """Returns the exchange, beyond a known one, that explains the shapes best by its margin.

    NONE if no exchange does. A lead that carries nothing is never moved.
    """
    dead = [place for place, alive in zip(NINE, shapes.alive, strict=True) if not alive]
    tried = [one for one in tried if all(_stays(one, place) for place in dead)]
    corrected = tried if known is NONE else [after(one, known) for one in tried]
    gained = scores(shapes, [known, *corrected])
    gained = gained[1:] - gained[0]
    sure = gained > [MARGIN[one.kind] for one in tried]
    gained -= [RARE.get(one.kind, 0.0) for one in tried]
    return tried[int(np.where(sure, gained, -np.inf).argmax())] if sure.any() else NONE


def _stays(exchange: Exchange, place: int) -> bool:
    return exchange.source[place] == place and exchange.sign[place] > 0
