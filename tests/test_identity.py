"""Lead identity: exchanged leads made from real records are told, and true leads are left alone."""

from __future__ import annotations

import dataclasses
import itertools
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.exchanges import (
    NONE,
    Exchange,
    after,
    all_inverted,
    chest_exchanges,
    limb_exchanges,
    true_leads,
)
from data_prep.identity import lead_identity, of_own_beats
from data_prep.limb_relations import (
    FROM_I_AND_II,
    LIMB,
    false_gains,
    limb_rows,
    outside,
    stranger,
    true_orders,
)
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
    ("number", "least"), [(0, 0.95), (1, 0.95), (2, 0.25), (3, 0.95), (4, 0.95)]
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
        ("V4 and V6 exchanged", 0.65),
        ("V1 to V6 in reverse order", 0.85),
        ("V2 inverted", 0.9),
        ("V5 inverted", 0.9),
    ],
)
def test_exchanged_and_inverted_chest_leads_are_named(said: str, least: float) -> None:
    (exchange,) = (one for one in chest_exchanges() if one.said == said)
    rows = {lead: true for lead, true in true_leads(exchange).items() if lead != true}
    assert np.mean([told(record, waves, rows) for record, waves in samples()]) >= least


@pytest.mark.parametrize(
    ("exchange", "least"),
    [(all_inverted(), 0.95), (limb_exchanges()[-1], 0.8), (chest_exchanges()[-1], 0.95)],
)
def test_all_leads_inverted_is_suspected_and_mostly_named(exchange: Exchange, least: float) -> None:
    """Limb leads inverted are much like right arm and left leg exchanged."""
    rows = {lead: true for lead, true in true_leads(exchange).items() if lead != true}
    verdicts = [lead_identity(holding(r, rows), w)["verdict"] for r, w in samples()]
    assert set(verdicts) == {"suspect"}
    assert np.mean([told(record, waves, rows) for record, waves in samples()]) >= least


def test_every_limb_lead_exchanged_with_a_chest_lead_is_named() -> None:
    """The untouched records are ok by the first test of this file."""
    pairs = list(itertools.product(LIMB, LEADS[6:]))
    seen = [
        told(*one, {limb: chest, chest: limb})
        for one, (limb, chest) in zip(itertools.cycle(samples()), pairs, strict=False)
    ]
    assert len(seen) == len(pairs)
    assert all(seen)


def test_of_twelve_leads_in_any_order_the_limb_leads_are_named() -> None:
    rng = np.random.default_rng(0)
    named = []
    for record, waves in samples():
        order = [LEADS[k] for k in rng.permutation(12)]
        identity = lead_identity(holding(record, dict(zip(LEADS, order, strict=True))), waves)
        assert identity["verdict"] == "suspect"
        likely = identity["likely_order"]
        assert [lead for lead in likely if lead in LIMB] == [lead for lead in order if lead in LIMB]
        named.append(likely == order)
    assert np.mean(named) > 0.5  # chest leads fulfil any order: shapes tell them


def test_a_limb_lead_of_another_patient_is_none_of_the_twelve() -> None:
    (record, waves), (other, _) = samples()[:2]
    for lead in LIMB:
        signal = record.signal_mv.copy()
        signal[LEADS.index(lead)] = other.signal_mv[LEADS.index(lead)]
        identity = lead_identity(dataclasses.replace(record, signal_mv=signal), waves)
        assert identity["verdict"] == "suspect"
        assert f"but for {lead}:" in identity["finding"]
        assert identity["likely_order"] == [None if one == lead else one for one in LEADS]


def test_shapes_of_paced_beats_are_not_judged() -> None:
    record, waves = samples()[0]
    swapped = holding(record, {"I": "-I", "II": "III", "III": "II", "aVR": "aVL", "aVL": "aVR"})
    paced = np.zeros(waves.num_beats)
    assert lead_identity(swapped, waves, paced)["verdict"] == "suspect"  # the control
    paced[: waves.num_beats // 2 + 1] = 1.0
    identity = lead_identity(swapped, waves, paced)
    assert identity["verdict"] == "unknown"
    assert "paced" in identity["finding"]
    assert lead_identity(holding(record, {"I": "II", "II": "I"}), waves, paced)["verdict"] == (
        "suspect"  # by the relations
    )
    paced[:] = [1.0] + [0.0] * (waves.num_beats - 1)
    own = np.isfinite(of_own_beats(waves, paced).samples).any(axis=(0, 2))
    assert not own[0]
    assert own[1:].any()


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


def test_limb_leads_are_found_among_other_leads_in_one_way_only() -> None:
    heart = np.random.default_rng(0).normal(size=(8, 1000))  # I, II, and six chest leads
    x = np.vstack([FROM_I_AND_II @ heart[:2], heart[2:]])
    orders = true_orders(np.cov(x[:6]), LIMB)
    assert [source for source, sign in orders if min(sign) > 0] == [tuple(range(6))]
    order = np.random.default_rng(1).permutation(12)
    rows = limb_rows(np.cov(x[order]))
    assert rows is not None
    assert order[list(rows)].tolist() == list(range(6))
    assert limb_rows(np.cov(x[2:])) is None  # I and II are not there
    assert limb_rows(np.cov(heart)) is None


def test_a_stranger_among_limb_leads_is_found() -> None:
    heart = np.random.default_rng(0).normal(size=(3, 1000))
    x = FROM_I_AND_II @ heart[:2]
    x[4] = heart[2]
    assert stranger(np.cov(x), LIMB) == "aVL"
    x[4] = 2 * (FROM_I_AND_II[4] @ heart[:2])
    assert stranger(np.cov(x), LIMB) is None  # its gain
    x[4], x[3] = heart[2], heart[2] + heart[1]
    assert stranger(np.cov(x), LIMB) is None  # two strangers
    assert stranger(np.cov(x[:4]), LIMB[:4]) is None


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
