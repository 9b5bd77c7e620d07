"""Lead identity: exchanged leads made from real records are told, and true leads are left alone."""

from __future__ import annotations

import dataclasses
import itertools
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.exchanges import NONE, after, chest_exchanges, limb_exchanges, true_leads
from data_prep.identity import lead_identity
from data_prep.limb_relations import FROM_I_AND_II, LIMB, false_gains, outside, true_orders
from data_prep.records import LEADS, Record, read
from data_prep.waves import Waves, find_waves, no_waves

SAMPLE = Path(__file__).parents[1] / "data_prep" / "sample"
AUGMENTED = ("aVR", "aVL", "aVF")


@cache
def samples() -> list[tuple[Record, Waves]]:
    """Returns every eighth record of the sample, as both corpora store them, with its waves."""
    paths = [*sorted(SAMPLE.rglob("ptbxl/*.hea"))[::8], *sorted(SAMPLE.rglob("ludb/*.hea"))[::8]]
    records = [read(path) for path in paths]
    return [(record, find_waves(record)) for record in records]


def holding(record: Record, rows: dict[str, str]) -> Record:
    """Returns the record whose leads (keys) hold other leads (values)."""
    signal = record.signal_mv.copy()
    for lead, true in rows.items():
        sign = -1.0 if true[0] == "-" else 1.0
        signal[LEADS.index(lead)] = sign * record.signal_mv[LEADS.index(true.lstrip("-"))]
    return dataclasses.replace(record, signal_mv=signal)


def told(record: Record, waves: Waves, rows: dict[str, str]) -> bool:
    """Returns whether the exchange is suspected and named for what it is."""
    identity = lead_identity(holding(record, rows), waves)
    right = [rows.get(lead, lead) for lead in record.stored_leads]
    return identity["verdict"] == "suspect" and identity["likely_order"] == right


def test_true_leads_of_real_records_are_ok() -> None:
    verdicts = [lead_identity(*one) for one in samples()]
    assert [v["finding"] for v in verdicts] == [None] * len(verdicts)
    assert {v["verdict"] for v in verdicts} == {"ok"}


@pytest.mark.parametrize("order", list(itertools.permutations(AUGMENTED))[1:])
def test_every_order_of_the_augmented_leads_is_named(order: tuple[str, ...]) -> None:
    rows = {lead: true for lead, true in zip(AUGMENTED, order, strict=True) if lead != true}
    assert all(told(record, waves, rows) for record, waves in samples())


@pytest.mark.parametrize("lead", LIMB)
def test_every_inverted_limb_lead_is_named(lead: str) -> None:
    assert all(told(record, waves, {lead: f"-{lead}"}) for record, waves in samples())


def test_any_order_of_the_six_limb_leads_is_suspected_and_mostly_named() -> None:
    rng = np.random.default_rng(0)
    suspected, named = [], []
    for record, waves in samples():
        order = rng.permutation(6)
        rows = {LIMB[i]: LIMB[k] for i, k in enumerate(order) if i != k}
        suspected.append(lead_identity(holding(record, rows), waves)["verdict"] == "suspect")
        named.append(told(record, waves, rows))
    assert all(suspected)
    assert np.mean(named) > 0.8  # exchanged electrodes give the same relations


@pytest.mark.parametrize(
    ("number", "least"), [(0, 0.95), (1, 0.95), (2, 0.4), (3, 0.95), (4, 0.95)]
)
def test_exchanged_limb_electrodes_are_suspected(number: int, least: float) -> None:
    """LA-LL (number 2) looks like another axis: only the clearest are seen."""
    rows = true_leads(limb_exchanges()[number])
    verdicts = [lead_identity(holding(r, rows), w)["verdict"] for r, w in samples()]
    assert np.mean([verdict == "suspect" for verdict in verdicts]) >= least


@pytest.mark.parametrize(
    ("said", "least"),
    [
        ("V1 and V2 exchanged", 0.75),
        ("V1 and V3 exchanged", 0.85),
        ("V4 and V6 exchanged", 0.7),
        ("V1 to V6 in reverse order", 0.85),
        ("V2 inverted", 0.9),
        ("V5 inverted", 0.9),
    ],
)
def test_exchanged_and_inverted_chest_leads_are_named(said: str, least: float) -> None:
    (exchange,) = (one for one in chest_exchanges() if one.said == said)
    rows = {lead: true for lead, true in true_leads(exchange).items() if lead != true}
    assert np.mean([told(record, waves, rows) for record, waves in samples()]) >= least


@pytest.mark.parametrize(("on_right_leg", "flat"), [("RA", "II"), ("LA", "III")])
def test_an_arm_exchanged_with_the_right_leg_leaves_a_flat_lead(
    on_right_leg: str, flat: str
) -> None:
    seen = []
    for record, waves in samples():
        two = record.signal_mv[1]
        electrodes = {"RA": np.zeros_like(two), "LA": record.signal_mv[0], "LL": two}
        electrodes[on_right_leg] = 0.96 * two  # the right leg's potential is nearly the left one's
        one = electrodes["LA"] - electrodes["RA"]
        limb = FROM_I_AND_II @ np.stack([one, electrodes["LL"] - electrodes["RA"]])
        signal = np.vstack([limb, record.signal_mv[6:]]).astype(np.float32)
        identity = lead_identity(dataclasses.replace(record, signal_mv=signal), waves)
        seen.append(f"{flat} is nearly flat" in (identity["finding"] or ""))
        if seen[-1]:
            assert identity["likely_order"][record.stored_leads.index(flat)] is None
    assert np.mean(seen) > 0.9


def test_false_gains_are_told_from_an_exchange() -> None:
    for record, waves in samples():
        gains = np.ones(12, np.float32)
        gains[:6] = 1.0 / np.ptp(record.signal_mv[:6], axis=1)  # each lead scaled to 1 mV
        false = dataclasses.replace(record, signal_mv=record.signal_mv * gains[:, None])
        identity = lead_identity(false, waves)
        assert identity["verdict"] == "unknown"
        assert "gains are false by" in identity["finding"]
        assert identity["likely_order"] == list(record.stored_leads)
        covariance = np.cov(false.signal_mv[:6].astype(float))
        assert false_gains(covariance, LIMB) == pytest.approx(gains[:6] / gains[:6].min(), rel=0.1)
        assert false_gains(np.cov(record.signal_mv[:6].astype(float)), LIMB) is None
        assert not true_orders(covariance, LIMB)


def test_relations_hold_for_twelve_signed_orders_only() -> None:
    covariance = FROM_I_AND_II @ np.array([[1.0, 0.3], [0.3, 2.0]]) @ FROM_I_AND_II.T
    orders = true_orders(covariance, LIMB)
    assert len(orders) == 12
    assert (tuple(range(6)), (1.0,) * 6) in orders
    assert outside(covariance, LIMB) < 1e-12
    swapped = covariance[np.ix_([1, 0, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5])]
    assert outside(swapped, LIMB) > 0.02


def test_exchanges_undo_themselves() -> None:
    for exchange in limb_exchanges()[:3] + chest_exchanges()[:3]:
        twice = after(exchange, exchange)
        assert (twice.source, twice.sign) == (NONE.source, NONE.sign)


def test_what_cannot_be_judged_is_unknown() -> None:
    record, waves = samples()[0]
    reasons: dict[str, Any] = {
        "gains are false": (dataclasses.replace(record, calibrated=False), waves),
        "not all six": (dataclasses.replace(record, stored_leads=("I", "II", *LEADS[6:])), waves),
        "no QRS": (record, no_waves(LEADS, 500.0)),
        "too few chest leads": (
            dataclasses.replace(
                record, leads=LIMB, signal_mv=record.signal_mv[:6], stored_leads=LIMB
            ),
            waves,
        ),
        "I and II": (
            dataclasses.replace(
                record, leads=LEADS[6:], signal_mv=record.signal_mv[6:], stored_leads=LEADS[6:]
            ),
            waves,
        ),
    }
    for reason, one in reasons.items():
        identity = lead_identity(*one)
        assert identity["verdict"] == "unknown", reason
        assert reason in identity["finding"]
