"""Which names make the limb leads fulfil their relations, and how sure that is.

False names, inverted leads, chest leads among the limb leads: the relations tell them. Of several
ways to fulfil the relations, the one that changes little and whose waves look right is taken.

Axes: L leads (n of them limb leads), M = 9 leads (I, II, III, V1 … V6), T samples, F features.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from data_prep.exchanges import NONE, Exchange, true_leads
from data_prep.lead_shapes import NINE, scores, shapes_of
from data_prep.limb_relations import (
    LIMB,
    OUTSIDE_SHARE,
    false_gains,
    limb_rows,
    outside,
    stranger,
    true_orders,
)
from data_prep.records import LEADS, Record
from data_prep.waves import Waves

MOVE_COST = 2.0  # log odds against each further lead that would have been moved or inverted
PLANE_HZ = 125.0  # as many samples show the relations as well as all
RELATIONS = "I + III = II and its like"


class Names(NamedTuple):
    """What the relations say of the limb leads' names.

    Attributes:
        correction: of the names; None if the leads cannot be compared.
        doubt: what keeps the correction from being certain.
        stranger: the lead that is none of the twelve by the others' relations.
    """

    correction: Exchange | None
    doubt: str | None = None
    stranger: str | None = None


def true_names(
    record: Record, waves: Waves, weights: Float[np.ndarray, " F"] | None = None
) -> Names:
    """Returns the correction of the names of stored leads that makes limb leads fit together.

    Args:
        record: the leads as stored.
        waves: whose shapes choose between corrections that fulfil the relations alike.
        weights: of the shapes, if not those kept.
    """
    limb = tuple(lead for lead in LIMB if lead in record.stored_leads)
    if not {"I", "II"} <= set(record.leads):
        return Names(None, "leads cannot be compared: I and II are not both there")
    if len(limb) < 3:
        if _flat(_samples(record, ("I", "II"))).any():
            return Names(None, "leads cannot be compared: I or II is flat or missing")
        return Names(NONE, "limb leads cannot be compared: not all six are stored")
    x = _samples(record, limb)
    flat = _flat(x)
    if flat.sum() > 1:
        return Names(None, "limb leads cannot be compared: they are flat or missing")
    covariance = np.cov(x)
    if outside(covariance, limb) < OUTSIDE_SHARE:
        return Names(NONE)
    if flat.any():
        return Names(None, "limb leads cannot be compared: one is flat")
    fitting = [_renamed(limb, *order) for order in true_orders(covariance, limb)]
    fitting = fitting or _among_all_twelve(record)
    if fitting:
        return Names(_best(record, waves, fitting, weights))
    return _without_names(covariance, limb)


def _samples(record: Record, leads: Sequence[str]) -> Float[np.ndarray, "L T"]:
    """Returns as many samples of leads as are needed, where none of the leads lacks one."""
    rows = [record.leads.index(lead) for lead in leads]
    x = record.signal_mv[rows, :: max(1, int(record.sampling_rate_hz / PLANE_HZ))]
    return x[:, np.isfinite(x).all(axis=0)].astype(np.float64)


def _flat(x: Float[np.ndarray, "L T"]) -> Bool[np.ndarray, " L"]:
    """Returns which leads are constant: all, if there is no sample or a single one."""
    return np.ptp(x, axis=1) == 0 if x.shape[1] else np.ones(len(x), bool)


def _renamed(limb: tuple[str, ...], source: tuple[int, ...], sign: tuple[float, ...]) -> Exchange:
    """Returns a correction of the stored limb leads as one of all twelve."""
    sources, signs = list(NONE.source), list(NONE.sign)
    for lead, k, s in zip(limb, source, sign, strict=True):
        sources[LEADS.index(lead)], signs[LEADS.index(lead)] = LEADS.index(limb[k]), s
    return _as_said(tuple(sources), tuple(signs))


def _as_said(source: tuple[int, ...], sign: tuple[float, ...]) -> Exchange:
    bare = Exchange("names", "", source, sign)
    wrong = ", ".join(f"{lead} is {is_}" for lead, is_ in true_leads(bare).items() if lead != is_)
    return Exchange("names", f"limb leads fulfil {RELATIONS} if {wrong}", source, sign)


def _among_all_twelve(record: Record) -> list[Exchange]:
    """Returns the corrections that find limb leads among the chest leads, none if they are not.

    The relations place the six limb leads; the other six may be the chest leads in any order.
    """
    if set(record.stored_leads) != set(LEADS):
        return []
    x = _samples(record, LEADS)
    rows = limb_rows(np.cov(x)) if x.shape[1] > 1 else None
    if rows is None:
        return []
    chest = [row for row in range(len(LEADS)) if row not in rows]
    return [_as_said((*rows, *order), NONE.sign) for order in itertools.permutations(chest)]


def _best(
    record: Record,
    waves: Waves,
    fitting: Sequence[Exchange],
    weights: Float[np.ndarray, " F"] | None,
) -> Exchange:
    """Returns of all names that fulfil the relations those that change little and look right."""
    cost = np.array([MOVE_COST * _changes(one) for one in fitting])
    if set(LIMB) <= set(record.stored_leads):
        first = fitting[int(cost.argmin())]
        shapes = shapes_of(nine_leads(record, first), waves)
        if shapes is not None:
            cost -= scores(shapes, [_between(first, one) for one in fitting], weights)
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


def _without_names(covariance: Float[np.ndarray, "n n"], limb: tuple[str, ...]) -> Names:
    """Returns what else keeps limb leads from fulfilling the relations: a strange lead, gains."""
    if (strange := stranger(covariance, limb)) is not None:
        said = f"limb leads fulfil {RELATIONS} but for {strange}: it is another lead, or noise"
        return Names(None, said, strange)
    if (gains := false_gains(covariance, limb)) is not None:
        factors = ", ".join(f"{lead} ×{gain:.2f}" for lead, gain in zip(limb, gains, strict=True))
        said = f"limb leads fulfil {RELATIONS} only if their gains are false by"
        return Names(None, f"{said} {factors}: their amplitudes and the axis are not to be trusted")
    return Names(None, f"limb leads do not fulfil {RELATIONS}, nor does any exchange of them")


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
