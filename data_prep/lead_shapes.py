"""How much the waves of a record look like those of leads with their true names.

A linear score of the shapes of P, QRS and T over I, II, III and V1 … V6: which lead has how much of
each, the way it points, how alike two leads are, how R grows and S shrinks across the chest. Its
weights (lead_shapes.npz) make true leads likelier than any exchange of them, by
`experiments/lead_identity.py` on LUDB, PTB-XL and Challenge records.

Axes: M = 9 leads, T samples, W samples of a wave, K exchanges, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from data_prep.amplitudes import PQ_MS
from data_prep.exchanges import Exchange, arrays
from data_prep.intervals import global_bounds
from data_prep.records import LEADS
from data_prep.waves import Waves

NINE = tuple(LEADS.index(lead) for lead in ("I", "II", "III", *LEADS[6:]))
CHEST = slice(3, 9)
MAX_BEATS = 8
SEPTAL_MS = 30.0  # of the QRS, in which the septum points from left to right
ST_MS = 60.0
DEAD_SHARE = 1e-5  # of all QRS energy: a lead below it carries nothing
_PAIRS = np.triu_indices(len(NINE), 1)
_EPS = 1e-9


@dataclass(frozen=True)
class Shapes:
    """The typical beat's waves in nine leads, so condensed that an exchange only reorders them.

    Attributes:
        energy: of QRS, T and P: the products of each two leads, summed over the wave.
        area: net areas of QRS, T, P, the QRS's begin and the QRS's second half.
        above: the largest height of the QRS.
        below: its greatest depth.
    """

    energy: Float[np.ndarray, "3 M M"]
    area: Float[np.ndarray, "5 M"]
    above: Float[np.ndarray, " M"]
    below: Float[np.ndarray, " M"]

    @property
    def alive(self) -> Bool[np.ndarray, " M"]:
        """Which leads carry a QRS."""
        qrs = np.diagonal(self.energy[0])
        return qrs > DEAD_SHARE * max(qrs.sum(), _EPS)


def shapes_of(signal: Float[np.ndarray, "M T"], waves: Waves) -> Shapes | None:
    """Returns the shapes of the usual beats, None if no QRS can be looked at.

    Args:
        signal: the nine leads in mV, zeros for one that is not there.
        waves: marks of the record, in any leads.
    """
    rate_hz = waves.sampling_rate_hz
    onset, offset = global_bounds(waves)
    beats = np.flatnonzero(np.isfinite(onset[1]) & np.isfinite(offset[1]))
    if len(beats) > MAX_BEATS:
        beats = beats[np.linspace(0, len(beats) - 1, MAX_BEATS).astype(int)]
    bounds = np.stack([onset, offset])[:, :, beats]
    seen = [_beat(signal, one, rate_hz) for one in np.moveaxis(bounds, 2, 0)]
    whole = [one for one in seen if one is not None]
    if not whole:
        return None
    middle = [_middle([one[i] for one in whole]) for i in range(4)]
    return Shapes(*middle)


def _middle(values: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the median over the beats that have the wave, zeros if none has."""
    stack = np.array(values)
    known = np.isfinite(stack)
    ordered = np.sort(stack, axis=0)  # NaN last
    count = known.sum(axis=0)
    low = np.take_along_axis(ordered, np.maximum(count - 1, 0)[None] // 2, axis=0)[0]
    high = np.take_along_axis(ordered, np.minimum(count, len(stack) - 1)[None] // 2, axis=0)[0]
    return np.where(count > 0, (low + np.where(count % 2, low, high)) / 2, 0.0)


def _beat(
    signal: Float[np.ndarray, "M T"], bounds: Float[np.ndarray, "2 3"], rate_hz: float
) -> tuple[np.ndarray, ...] | None:
    """Returns energy, area, height and depth of one beat; NaN for a P or T that is not there."""
    pq = max(1, round(PQ_MS * rate_hz / 1000))
    first, last = bounds[:, 1].astype(int).tolist()
    if first < pq or last >= signal.shape[1] or last <= first:
        return None
    level = signal[:, first - pq : first].mean(axis=1, keepdims=True)
    qrs = signal[:, first : last + 1] - level
    if not np.isfinite(qrs).all():
        return None
    t = _wave(signal, last + ST_MS * rate_hz / 1000, float(bounds[1, 2])) - level
    p = _wave(signal, float(bounds[0, 0]), float(bounds[1, 0]))
    p = p - (p[:, :1] + p[:, -1:]) / 2
    begin = qrs[:, : max(2, round(SEPTAL_MS * rate_hz / 1000))]
    waves = (qrs, t, p, begin, qrs[:, qrs.shape[1] // 2 :])
    energy = np.stack([wave @ wave.T for wave in waves[:3]]) / rate_hz
    area = np.stack([wave.sum(axis=1) for wave in waves]) / rate_hz
    return energy, area, np.maximum(qrs.max(axis=1), 0), np.maximum(-qrs.min(axis=1), 0)


def _wave(signal: Float[np.ndarray, "M T"], first: float, last: float) -> np.ndarray:
    """Returns the samples of a wave, one NaN a lead if it is not wholly in the record."""
    if not (first >= 0 and last < signal.shape[1] and last - first > 4):
        return np.full((len(signal), 1), np.nan)
    return signal[:, int(first) : int(last) + 1]


def scores(
    shapes: Shapes,
    exchanges: Sequence[Exchange],
    weights: Float[np.ndarray, " F"] | None = None,
) -> Float[np.ndarray, " K"]:
    """Returns the score of the leads as each exchange corrects them: more is likelier.

    Args:
        shapes: of the leads as stored.
        exchanges: the corrections.
        weights: other ones than those of lead_shapes.npz.
    """
    return features(shapes, exchanges) @ (_weights() if weights is None else weights)


@cache
def _weights() -> Float[np.ndarray, " F"]:
    with np.load(Path(__file__).with_name("lead_shapes.npz")) as kept:
        return kept["weights"].astype(np.float64)


def features(shapes: Shapes, exchanges: Sequence[Exchange]) -> Float[np.ndarray, "K F"]:
    """Returns the features of the leads as each exchange corrects them."""
    sources, signs = arrays(tuple(exchanges))
    place = np.full(len(LEADS), -1)
    place[list(NINE)] = np.arange(len(NINE))
    source, sign = place[sources[:, NINE]], signs[:, NINE]
    alive = shapes.alive[source]
    both = alive[:, 4:] & alive[:, 3:-1]  # of two chest leads side by side
    typical = float(np.sqrt(np.trace(shapes.energy[0]) / len(NINE))) + _EPS
    floors = (1e-3 * typical, 1e-3 * typical, 1e-2 * typical)
    parts = []
    for energy, floor in zip(shapes.energy, floors, strict=True):
        parts += _sizes(energy, floor, source, sign, alive, both)
    for area in shapes.area:
        parts.append(area[source] * sign / (np.sqrt((area**2).mean()) + 1e-6))
    parts += _upright(shapes, source, sign, both, typical)
    return np.concatenate(parts, axis=1)


def _sizes(
    energy: Float[np.ndarray, "M M"],
    floor: float,
    source: Int[np.ndarray, "K M"],
    sign: Float[np.ndarray, "K M"],
    alive: Bool[np.ndarray, "K M"],
    both: Bool[np.ndarray, "K 5"],
) -> list[np.ndarray]:
    """Returns how alike each two leads are in one wave, and how large it is in each."""
    moved = energy[source[:, :, None], source[:, None, :]] * sign[:, :, None] * sign[:, None, :]
    size = np.sqrt(np.diagonal(energy))[source]
    alike = moved / (size + floor)[:, :, None] / (size + floor)[:, None, :]
    share = np.log(size / (size.mean(axis=1, keepdims=True) + _EPS) + 0.1) * alive
    return [alike[:, _PAIRS[0], _PAIRS[1]], share, _step(share) ** 2 * both]


def _upright(
    shapes: Shapes,
    source: Int[np.ndarray, "K M"],
    sign: Float[np.ndarray, "K M"],
    both: Bool[np.ndarray, "K 5"],
    typical: float,
) -> list[np.ndarray]:
    """Returns how upright the QRS is in each lead, by area and by R against S, across the chest."""
    size = np.sqrt(np.diagonal(shapes.energy[0]))[source]
    net = shapes.area[0][source] * sign / (size + 1e-2 * typical)
    above = np.where(sign > 0, shapes.above[source], shapes.below[source])
    below = np.where(sign > 0, shapes.below[source], shapes.above[source])
    r_share = above / (above + below + 0.02)
    falls = np.maximum(-_step(r_share), 0.0)
    steps = [_step(net) ** 2, _step(r_share) ** 2, falls]
    return [net, r_share, *(step * both for step in steps)]


def _step(across: Float[np.ndarray, "K M"]) -> Float[np.ndarray, "K 5"]:
    chest = across[:, CHEST]
    return chest[:, 1:] - chest[:, :-1]
