"""Ways in which leads get exchanged, each as a signed permutation of the twelve leads.

Correction y of leads x: y[i] = sign[i] · x[source[i]], so that stored lead source[i] really is
lead i. Electrodes on the wrong limb turn limb leads into one another (Einthoven, Goldberger); the
chest leads stay what they are, since their reference is the mean of the three limbs.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np

from data_prep.records import LEADS

ARMS = (("-I", "III", "II", "aVL", "aVR", "aVF"), "arm electrodes exchanged (or dextrocardia)")
LIMBS = {
    "RA-LA": ARMS,
    "RA-LL": (("-III", "-II", "-I", "aVF", "aVL", "aVR"), "right arm and left leg exchanged"),
    "LA-LL": (("II", "I", "-III", "aVR", "aVF", "aVL"), "left arm and left leg exchanged"),
    "RA>LA>LL": (("-II", "-III", "I", "aVF", "aVR", "aVL"), "limb electrodes moved round"),
    "RA>LL>LA": (("III", "-I", "-II", "aVL", "aVF", "aVR"), "limb electrodes moved round"),
}
LIMB_KINDS = {"RA-LA": "limb", "RA-LL": "limb", "LA-LL": "LA-LL"}
NUM_LIMB = 6


@dataclass(frozen=True)
class Exchange:
    """One way in which leads may have been exchanged, as its correction.

    Attributes:
        kind: which evidence it takes; see `identity.MARGIN`.
        said: in words, for people.
        source: of each of the twelve leads, the index of the stored one that it is.
        sign: -1.0 where that one is inverted.
    """

    kind: str
    said: str
    source: tuple[int, ...]
    sign: tuple[float, ...]


NONE = Exchange("none", "", tuple(range(len(LEADS))), (1.0,) * len(LEADS))


@cache
def limb_exchanges() -> tuple[Exchange, ...]:
    """Returns the ways to put three electrodes on the wrong limb, and all limb leads inverted."""
    chest = LEADS[NUM_LIMB:]
    moved = (
        _exchange(LIMB_KINDS.get(name, "round"), said, (*limb, *chest))
        for name, (limb, said) in LIMBS.items()
    )
    return (*moved, _inverted("all limb leads inverted", LEADS[:NUM_LIMB]))


@cache
def all_inverted() -> Exchange:
    """Returns the inversion of all twelve leads."""
    return _inverted("all leads inverted", LEADS)


@cache
def chest_exchanges() -> tuple[Exchange, ...]:
    """Returns two chest leads exchanged, three moved, six in reverse, one or all inverted."""
    limb, chest = LEADS[:NUM_LIMB], LEADS[NUM_LIMB:]
    found = []
    for a, b in itertools.combinations(range(len(chest)), 2):
        kind = "neighbours" if b == a + 1 else "chest"
        found.append((kind, f"{chest[a]} and {chest[b]} exchanged", {a: b, b: a}))
    found.append(("reverse", "V1 to V6 in reverse order", {i: 5 - i for i in range(6)}))
    for a, b, c in itertools.combinations(range(len(chest)), 3):
        said = f"{chest[a]}, {chest[b]} and {chest[c]} moved round"
        found += [("three", said, {a: b, b: c, c: a}), ("three", said, {a: c, c: b, b: a})]
    moved = [
        _exchange(kind, said, (*limb, *(chest[source.get(i, i)] for i in range(6))))
        for kind, said, source in found
    ]
    inverted = [_inverted(f"{lead} inverted", (lead,), "inverted") for lead in chest]
    return (*moved, *inverted, _inverted("all chest leads inverted", chest))


def _inverted(said: str, leads: tuple[str, ...], kind: str = "all inverted") -> Exchange:
    return _exchange(kind, said, tuple("-" + lead if lead in leads else lead for lead in LEADS))


def _exchange(kind: str, said: str, order: tuple[str, ...]) -> Exchange:
    source = tuple(LEADS.index(lead.removeprefix("-")) for lead in order)
    return Exchange(kind, said, source, tuple(-1.0 if lead[0] == "-" else 1.0 for lead in order))


def after(second: Exchange, first: Exchange) -> Exchange:
    """Returns the correction that makes `first` and then `second`."""
    source = tuple(first.source[i] for i in second.source)
    sign = tuple(s * first.sign[i] for s, i in zip(second.sign, second.source, strict=True))
    said = " and ".join(one.said for one in (first, second) if one.said)
    return Exchange(second.kind, said, source, sign)


def true_leads(exchange: Exchange) -> dict[str, str]:
    """Returns for each of the twelve leads as stored the lead it really is."""
    return {
        LEADS[source]: ("-" if sign < 0 else "") + LEADS[i]
        for i, (source, sign) in enumerate(zip(exchange.source, exchange.sign, strict=True))
    }


def arrays(exchanges: tuple[Exchange, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Returns sources and signs of K exchanges, each (K, 12)."""
    return np.array([e.source for e in exchanges]), np.array([e.sign for e in exchanges])
