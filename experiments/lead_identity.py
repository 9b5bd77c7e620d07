"""Fits the weights of data_prep/lead_shapes.npz, and says how well they tell exchanged leads.

    python -m experiments.lead_identity RECORDS... [--out data_prep/lead_shapes.npz]

Every record counts as one with true leads; the weights make those likelier than each exchange of
them (conditional logit, L2). Figures are five-fold cross-validated by record, the folds drawn with
seed 0. Axes: R records, K exchanges (the first is none), F features.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import minimize

from data_prep.exchanges import NONE, Exchange, chest_exchanges, limb_exchanges
from data_prep.identity import MARGIN, nine_leads
from data_prep.lead_shapes import NINE, Shapes, features, shapes_of
from data_prep.records import LEADS, BadInput, find, read
from data_prep.waves import find_waves
from gem_jax import usage

L2 = 10.0
FOLDS = 5
OUT = Path(__file__).parents[1] / "data_prep" / "lead_shapes.npz"
EXCHANGES: tuple[Exchange, ...] = (NONE, *limb_exchanges(), *chest_exchanges())


def main(records: tuple[Path, ...], *, out: Path = OUT) -> int:
    """Fit on records, print the cross-validated table, write the weights.

    Args:
        records: Records and folders; those with false gains or without twelve leads are left out.
        out: Where the weights go.
    """
    shapes = _read(records)
    rng = np.random.default_rng(0)
    fold = rng.permutation(len(shapes)) % FOLDS
    x = np.stack([features(one, EXCHANGES) for one in shapes])
    likelihood = np.zeros(x.shape[:2])
    for held in range(FOLDS):
        weights = fit([one for one, f in zip(shapes, fold, strict=True) if f != held])
        likelihood[fold == held] = x[fold == held] @ weights
    tell(likelihood - likelihood[:, :1], np.stack([possible(one) for one in shapes]))
    said = {"records": len(shapes), "l2": L2, "seed": 0, "from": [str(p.name) for p in records]}
    np.savez(out, weights=fit(shapes).astype(np.float32), note=json.dumps(said))
    return 0


def _read(paths: Sequence[Path]) -> list[Shapes]:
    shapes = []
    for path in find(paths):
        try:
            record = read(path)
        except BadInput as bad:
            print(f"left out: {bad}")
            continue
        if record.calibrated and set(record.stored_leads) == set(LEADS):
            one = shapes_of(nine_leads(record, NONE), find_waves(record))
            shapes += [one] if one is not None else []
    return shapes


def possible(shapes: Shapes) -> Bool[np.ndarray, " K"]:
    """Returns which exchanges move no lead that carries nothing."""
    dead = [place for place, alive in zip(NINE, shapes.alive, strict=True) if not alive]
    return np.array([all(e.source[i] == i and e.sign[i] > 0 for i in dead) for e in EXCHANGES])


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
        return value, np.einsum("rk,rkf->f", odds / total, apart) + L2 * w

    found = minimize(loss, np.zeros(x.shape[-1]), jac=True, method="L-BFGS-B")
    return found.x / scale


def tell(gain: Float[np.ndarray, "R K"], tried: Bool[np.ndarray, "R K"]) -> None:
    """Prints for each kind of exchange the false alarms, for each exchange the share told.

    A record with exchange k made holds, for the score, what k's correction gains, negated.
    """
    gain = np.where(tried, gain, -np.inf)
    margins = np.array([0.0] + [MARGIN[e.kind] for e in EXCHANGES[1:]])
    over = gain - margins
    alarmed = over[:, 1:].max(axis=1) > 0
    print(f"{len(gain)} records, false alarms {alarmed.sum()} ({alarmed.mean():.2%})")
    for kind, margin in MARGIN.items():
        of_kind = [i for i, e in enumerate(EXCHANGES) if e.kind == kind]
        top = np.sort(gain[:, of_kind].max(axis=1))[::-1][:4].round(1)
        print(f"  {kind}: margin {margin}, largest gains of true leads {top.tolist()}")
    for i, e in enumerate(EXCHANGES[1:], 1):
        seen = tried[:, i]
        print(f"  {(-gain[seen, i] > margins[i]).mean():6.1%} told: {e.said}")


if __name__ == "__main__":
    raise SystemExit(usage.bind(main, sys.argv[1:], "python -m experiments.lead_identity")())
