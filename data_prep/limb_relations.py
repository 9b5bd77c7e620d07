"""What the six limb leads owe to one another: names, signs and gains that fulfil it.

Every limb lead is a fixed sum of I and II (Einthoven, Goldberger), so n of them lie in a plane;
what of their covariance lies outside it tells false names, signs or gains.
Axes: n stored limb leads, L stored leads, K orders or pairs of leads, G patterns of signs.
"""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
from jaxtyping import Float, Int

from data_prep.records import LEADS

LIMB = LEADS[:6]
FROM_I_AND_II = np.array(
    [[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0], [-0.5, -0.5], [1.0, -0.5], [-0.5, 1.0]]
)
# Share of the leads' variance that may lie outside the plane. Of 338 records with true names the
# largest is 0.0001, of their other orders and signs the smallest 0.006.
OUTSIDE_SHARE = 0.002
ALIKE = 0.98  # correlation beyond which a lead is another's multiple: noise of 4 % variance
# Gains leave that much of the best fit where leads are true but for their scale.
GAIN_RESIDUAL = 0.05
GAIN_SPREAD = 1.1  # largest over smallest gain: less is no fault


def outside(covariance: Float[np.ndarray, "n n"], leads: tuple[str, ...]) -> float:
    """Returns the share of variance that breaks the relations between the named leads."""
    return float((_projector(leads) * covariance).sum() / np.trace(covariance))


@cache
def _projector(leads: tuple[str, ...]) -> Float[np.ndarray, "n n"]:
    """Returns the projection onto what the relations forbid."""
    plane, _ = np.linalg.qr(FROM_I_AND_II[[LIMB.index(lead) for lead in leads]])
    return np.eye(len(leads)) - plane @ plane.T


def true_orders(
    covariance: Float[np.ndarray, "n n"], leads: tuple[str, ...]
) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """Returns every (source, sign) that makes stored leads fulfil the relations of their names.

    Lead i is sign[i] times stored lead source[i]. If there is one there are twelve, since exchanged
    electrodes fulfil the relations, and so do all leads inverted.
    """
    orders, signs = _orders(len(leads)), _signs(len(leads))
    moved = covariance[orders[:, :, None], orders[:, None, :]] * _projector(leads)
    pairs = signs[:, :, None] * signs[:, None, :]
    left = moved.reshape(len(orders), -1) @ pairs.reshape(len(signs), -1).T
    fitting = np.argwhere(left < OUTSIDE_SHARE * np.trace(covariance))
    return [(tuple(orders[k].tolist()), tuple(signs[g].tolist())) for k, g in fitting]


@cache
def _orders(count: int) -> Int[np.ndarray, "K n"]:
    return np.array(list(itertools.permutations(range(count))))


@cache
def _signs(count: int) -> Float[np.ndarray, "G n"]:
    return np.array(list(itertools.product((1.0, -1.0), repeat=count)))


def limb_rows(covariance: Float[np.ndarray, "L L"]) -> tuple[int, ...] | None:
    """Returns which of L leads are I, II, III, aVR, aVL and aVF; None if no six of them are.

    Every two leads are taken for I and II; the others are those nearest to what these make. One
    order at most fulfils the relations, since none of their other orders is without inverted leads.
    """
    pairs = np.array(list(itertools.permutations(range(len(covariance)), 2)))
    with_all = FROM_I_AND_II @ covariance[pairs]  # of the leads made: K, 6, L
    of_pair = covariance[pairs[:, :, None], pairs[:, None, :]]
    made = np.einsum("li,kij,lj->kl", FROM_I_AND_II, of_pair, FROM_I_AND_II)
    apart = made[:, :, None] - 2 * with_all + np.diagonal(covariance)
    rows = apart.argmin(axis=2)
    share = apart.min(axis=2).sum(axis=1) / np.maximum(made.sum(axis=1), np.finfo(float).tiny)
    share[(np.diff(np.sort(rows, axis=1)) == 0).any(axis=1)] = np.inf  # one lead in two places
    best = rows[share.argmin()]
    if np.isinf(share.min()) or outside(covariance[np.ix_(best, best)], LIMB) >= OUTSIDE_SHARE:
        return None
    return tuple(best.tolist())


def stranger(covariance: Float[np.ndarray, "n n"], leads: tuple[str, ...]) -> str | None:
    """Returns the one lead without which the others fulfil the relations, None without such.

    A lead that only its gain keeps from fulfilling them is none.
    """
    if len(leads) < 5:
        return None  # three leads of a plane say too little of which does not belong
    for i, lead in enumerate(leads):
        kept = [k for k in range(len(leads)) if k != i]
        names = tuple(leads[k] for k in kept)
        if outside(covariance[np.ix_(kept, kept)], names) < OUTSIDE_SHARE:
            return None if _alike(covariance, leads, i, kept) > ALIKE else lead
    return None


def _alike(
    covariance: Float[np.ndarray, "n n"], leads: tuple[str, ...], i: int, kept: list[int]
) -> float:
    """Returns the correlation of lead i with what the kept ones make of it, without its sign."""
    from_all = FROM_I_AND_II[[LIMB.index(lead) for lead in leads]]
    make = from_all[i] @ np.linalg.pinv(from_all[kept])
    made = make @ covariance[np.ix_(kept, kept)] @ make
    return float(abs(make @ covariance[kept, i]) / max(np.sqrt(made * covariance[i, i]), 1e-12))


def false_gains(
    covariance: Float[np.ndarray, "n n"], leads: tuple[str, ...]
) -> Float[np.ndarray, " n"] | None:
    """Returns the gains, the least of them 1, that each lead seems multiplied by; None without.

    Leads of a plane stay in a plane if each has a gain of its own; the gains follow if the names
    are true, and are all positive.
    """
    if len(leads) < 4:
        return None  # three leads fit some gains always
    _, directions = np.linalg.eigh(covariance)
    plane = directions[:, -2:]
    ways = (_projector(leads)[:, None, :] * plane.T[None]).reshape(-1, len(leads))
    _, left, inverse = np.linalg.svd(ways)
    inverse_gains = inverse[-1] * np.sign(inverse[-1].sum())
    if left[-1] > GAIN_RESIDUAL * left[-2] or (inverse_gains <= 0).any():
        return None
    gains = inverse_gains.max() / inverse_gains
    return gains if gains.max() > GAIN_SPREAD else None
