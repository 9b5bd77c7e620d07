"""Fits the weights of data_prep/lead_shapes.npz, and says how well exchanged leads are told.

    python -m experiments.lead_identity RECORDS... [--out data_prep/lead_shapes.npz]

Every record counts as one with true leads; the weights make those likelier than each exchange of
them (conditional logit, L2). Figures are five-fold cross-validated by record: leads are exchanged
in records that the weights were not fitted on. Folds and exchanges are drawn with seed 0, waves are
those of the true leads. Axes: R records, K exchanges (the first is none), F features, N beats.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import minimize

from data_prep.exchanges import (
    NONE,
    Exchange,
    all_inverted,
    chest_exchanges,
    limb_exchanges,
    true_leads,
)
from data_prep.identity import lead_identity, of_own_beats
from data_prep.intervals import measure_waves
from data_prep.lead_names import nine_leads
from data_prep.lead_shapes import NINE, Shapes, features, shapes_of
from data_prep.records import LEADS, BadInput, Record, find, read
from data_prep.waves import Waves, find_waves
from gem_jax import usage

L2 = 10.0
FOLDS = 5
OUT = Path(__file__).parents[1] / "data_prep" / "lead_shapes.npz"
EXCHANGES: tuple[Exchange, ...] = (
    NONE,
    *limb_exchanges(),
    *chest_exchanges(),
    all_inverted(),
)
LIMB, AUGMENTED, CHEST = range(6), range(3, 6), range(6, 12)


class Sample(NamedTuple):
    """A record with true leads; its shapes are None if all beats are paced."""

    record: Record
    waves: Waves
    paced: Float[np.ndarray, " N"] | None
    shapes: Shapes | None


def main(records: tuple[Path, ...], *, out: Path = OUT) -> int:
    """Fit on records, print the cross-validated table, write the weights.

    Args:
        records: Records and folders; those with false gains or without twelve leads are left out.
        out: Where the weights go.
    """
    samples = _read(records)
    fold = np.random.default_rng(0).permutation(len(samples)) % FOLDS
    weights = [
        fit([one.shapes for one, f in zip(samples, fold, strict=True) if f != held and one.shapes])
        for held in range(FOLDS)
    ]
    tell(samples, [weights[held] for held in fold])
    shapes = [one.shapes for one in samples if one.shapes]
    said = {"records": len(shapes), "l2": L2, "seed": 0, "from": [str(p.name) for p in records]}
    np.savez(out, weights=fit(shapes).astype(np.float32), note=json.dumps(said))
    return 0


def _read(paths: Sequence[Path]) -> list[Sample]:
    samples = []
    for path in find(paths):
        try:
            record = read(path)
        except BadInput as bad:
            print(f"left out: {bad}")
            continue
        if record.calibrated and set(record.stored_leads) == set(LEADS):
            waves = find_waves(record)
            paced = measure_waves(record, waves).paced
            own = waves if paced is None else of_own_beats(waves, paced)
            samples.append(Sample(record, waves, paced, shapes_of(nine_leads(record, NONE), own)))
    return samples


def possible(shapes: Shapes) -> Bool[np.ndarray, " K"]:
    """Returns which exchanges move no lead that carries nothing."""
    dead = [place for place, alive in zip(NINE, shapes.alive, strict=True) if not alive]
    return np.array([all(e.source[i] == i for i in dead) for e in EXCHANGES])


def fit(shapes: Sequence[Shapes]) -> Float[np.ndarray, " F"]:
    """Returns the weights under which true leads are likeliest."""
    x = np.stack([features(one, EXCHANGES) for one in shapes])
    tried = np.stack([possible(one) for one in shapes])
    apart = x - x[:, :1]
    scale = apart[:, 1:].reshape(-1, x.shape[-1]).std(axis=0) + 1e-6
    apart /= scale

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        z = np.where(tried, apart @ w, -np.inf)
        top = z.max(axis=1, keepdims=True)
        odds = np.exp(z - top)
        total = odds.sum(axis=1, keepdims=True)
        value = float((np.log(total) + top).sum() + L2 * (w @ w) / 2)
        return value, np.tensordot(odds / total, apart, 2) + L2 * w

    found = minimize(loss, np.zeros(x.shape[-1]), jac=True, method="L-BFGS-B")
    return found.x / scale


def tell(samples: Sequence[Sample], weights: Sequence[Float[np.ndarray, " F"]]) -> None:
    """Prints the false alarms, and for each kind of exchange how many are told and named right.

    Args:
        samples: the records.
        weights: for each record those that were fitted without it.
    """
    rng = np.random.default_rng(0)
    for said, ways in ({"none: false alarms": [tuple(LEADS)]} | _kinds(rng)).items():
        told, right = [], []
        for one, held in zip(samples, weights, strict=True):
            stored = ways[rng.integers(len(ways))]
            altered = _stored_as(one.record, stored)
            found = lead_identity(altered, one.waves, one.paced, held)
            told.append(found["verdict"] == "suspect")
            right.append(found["likely_order"] == list(stored))
        print(f"{said:<48} n {len(told)}  told {np.mean(told):6.1%}  right {np.mean(right):6.1%}")


def _kinds(rng: np.random.Generator) -> Mapping[str, list[tuple[str, ...]]]:
    """Returns for each kind of exchange the ways in which it stores the twelve leads."""
    kinds = {
        "aVR, aVL, aVF in another order": [
            _moved(dict(zip(AUGMENTED, order, strict=True)))
            for order in list(itertools.permutations(AUGMENTED))[1:]
        ],
        "one limb lead inverted": [
            tuple("-" + lead if i == k else lead for i, lead in enumerate(LEADS)) for k in LIMB
        ],
        "limb lead and chest lead exchanged": [_moved({a: b, b: a}) for a in LIMB for b in CHEST],
        "all twelve in any order": [tuple(map(str, rng.permutation(LEADS))) for _ in range(500)],
        "all twelve in reverse order": [tuple(reversed(LEADS))],
    }
    for one in EXCHANGES[1:]:
        shared = one.kind in ("neighbours", "chest", "three", "inverted")
        held = true_leads(one)
        kinds.setdefault(f"chest leads: {one.kind}" if shared else one.said, []).append(
            tuple(held[lead] for lead in LEADS)
        )
    return kinds


def _moved(source: Mapping[int, int]) -> tuple[str, ...]:
    return tuple(LEADS[source.get(i, i)] for i in range(len(LEADS)))


def _stored_as(record: Record, stored: Sequence[str]) -> Record:
    """Returns the record whose leads hold what is named, `-` before an inverted one."""
    rows = [record.leads.index(lead.removeprefix("-")) for lead in stored]
    sign = np.array([-1.0 if lead[0] == "-" else 1.0 for lead in stored], np.float32)
    own = [LEADS.index(lead) for lead in record.leads]
    changed = record.signal_mv[rows] * sign[:, None]
    return dataclasses.replace(record, signal_mv=changed[own])


if __name__ == "__main__":
    raise SystemExit(usage.bind(main, sys.argv[1:], "python -m experiments.lead_identity")())
