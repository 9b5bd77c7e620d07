"""Quality: what is said of bad signals, and exchanged limb leads told by their relations."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from data_prep.lead_noise import hum, white_noise
from data_prep.measure import measure
from data_prep.records import LEADS, Record
from synthetic import ecg


def stored(**changes: Any) -> Record:
    """Returns a made record that was stored with twelve leads, changed."""
    record, _ = ecg(axis_deg=40.0)
    return dataclasses.replace(record, stored_leads=LEADS, **changes)


def renamed(rows: dict[str, str]) -> dict[str, Any]:
    """Returns the lead identity of a record whose leads (keys) hold other leads (values)."""
    signal = stored().signal_mv
    wrong = signal.copy()
    for lead, true in rows.items():
        sign = -1.0 if true.startswith("-") else 1.0
        wrong[LEADS.index(lead)] = sign * signal[LEADS.index(true.removeprefix("-"))]
    return measure(stored(signal_mv=wrong)).quality["lead_identity"]


def test_a_clean_record_raises_nothing() -> None:
    quality = measure(stored()).quality
    assert quality["reasons"] == []
    assert all(lead["reasons"] == [] for lead in quality["leads"].values())
    assert quality["lead_identity"] == {
        "verdict": "ok",
        "finding": None,
        "likely_order": list(LEADS),
    }


@pytest.mark.parametrize(
    "rows",
    [
        {"I": "II", "II": "I"},
        {"aVR": "-aVR"},
        {"aVL": "aVF", "aVF": "aVL"},
        {"I": "aVR", "aVR": "aVF", "aVF": "I"},
        {"III": "-III"},
    ],
)
def test_exchanged_and_inverted_limb_leads_are_named(rows: dict[str, str]) -> None:
    identity = renamed(rows)
    assert identity["verdict"] == "suspect"
    assert identity["likely_order"] == [rows.get(lead, lead) for lead in LEADS]
    assert all(lead in identity["finding"] for lead in rows)


def test_exchanged_arm_electrodes_are_suspected_by_signs() -> None:
    swap = {"I": "-I", "II": "III", "III": "II", "aVR": "aVL", "aVL": "aVR"}
    identity = renamed(swap)
    assert identity["verdict"] == "suspect"
    assert "arm" in identity["finding"]
    assert identity["likely_order"] == [swap.get(lead, lead) for lead in LEADS]


def test_a_right_axis_alone_is_no_exchange() -> None:
    record, _ = ecg(axis_deg=120.0)
    record = dataclasses.replace(record, stored_leads=LEADS)
    assert measure(record).quality["lead_identity"]["verdict"] == "ok"


def test_what_cannot_be_told_is_unknown() -> None:
    limb_flat = stored().signal_mv.copy()
    limb_flat[2] = 0.0
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(12, 5000)).astype(np.float32)
    for record in (
        stored(calibrated=False),
        stored(signal_mv=limb_flat),
        stored(signal_mv=noise),
        dataclasses.replace(stored(), stored_leads=("I", "II", *LEADS[6:])),
    ):
        identity = measure(record).quality["lead_identity"]
        assert identity["verdict"] == "unknown"
        assert identity["finding"]
        assert identity["likely_order"] == list(record.stored_leads)


def test_bad_leads_say_why() -> None:
    rng = np.random.default_rng(0)
    signal = stored().signal_mv.copy()
    signal[4], signal[6] = 0.3, np.nan
    signal[8] += rng.normal(size=5000) * 0.5
    notes = {"V6": ("half of it is missing",)}
    leads = measure(stored(signal_mv=signal, lead_notes=notes)).quality["leads"]
    assert "flat" in leads["aVL"]["reasons"][0]
    assert "missing" in leads["V1"]["reasons"][0]
    assert "noisy" in leads["V3"]["reasons"][0]
    assert leads["V6"]["reasons"] == ["half of it is missing"]
    assert leads["II"]["reasons"] == []


def test_white_noise_is_measured_beside_the_heart() -> None:
    rng = np.random.default_rng(0)
    rows = stored().signal_mv[1:3]
    assert (white_noise(rows) < 0.005).all()
    noisy = (rows + 0.05 * rng.normal(size=rows.shape)).astype(np.float32)
    assert white_noise(noisy) == pytest.approx(0.05, rel=0.1)


def test_few_beats_and_derived_leads_are_said() -> None:
    record = stored()
    short = dataclasses.replace(record, signal_mv=record.signal_mv[:, :500])
    assert "one QRS" in measure(short).quality["reasons"][0]
    none = dataclasses.replace(record, signal_mv=record.signal_mv[:, :100])
    assert "no QRS" in measure(none).quality["reasons"][0]
    derived = dataclasses.replace(record, derived=("III", "aVR"))
    assert measure(derived).quality["reasons"] == ["III, aVR derived from other leads"]


def reasons_of(lead: str, signal: np.ndarray, **changes: Any) -> str:
    quality = measure(stored(signal_mv=signal.astype(np.float32), **changes)).quality
    others = {other for other, said in quality["leads"].items() if said["reasons"]} - {lead}
    assert not others, "the other leads are as good as before"
    return "; ".join(quality["leads"][lead]["reasons"])


def test_each_fault_of_a_lead_is_said_and_a_milder_one_is_not() -> None:
    time_s = np.arange(5000) / 500
    rng = np.random.default_rng(0)
    v3 = LEADS.index("V3")

    def spoilt(how: str, by: float) -> np.ndarray:
        signal = stored().signal_mv.astype(np.float64)
        row = signal[v3]
        if how == "noisy":
            row += by * rng.normal(size=row.size)
        elif how in ("50 Hz", "60 Hz"):
            row += by * np.sin(2 * np.pi * float(how.split()[0]) * time_s)
        elif how == "wanders":
            row += by * np.sin(2 * np.pi * 0.25 * time_s)
        elif how == "cut off":
            np.minimum(row, by * row.max(), out=row)
        elif how == "flat for":
            row[1000 : 1000 + round(500 * by)] = 0.123
        elif how == "no ECG does":
            row[2000:2010] += by
        return signal

    for how, much, little in (
        ("noisy", 0.15, 0.03),
        ("50 Hz", 0.1, 0.01),
        ("60 Hz", 0.1, 0.01),
        ("wanders", 1.5, 0.3),
        ("cut off", 0.7, 1.0),
        ("flat for", 2.5, 0.4),
        ("no ECG does", 25.0, 1.0),
    ):
        assert how in reasons_of("V3", spoilt(how, much)), how
        assert reasons_of("V3", spoilt(how, little)) == "", how


def test_missing_samples_are_counted() -> None:
    signal = stored().signal_mv.copy()
    signal[2, 700:705] = np.nan
    leads = measure(stored(signal_mv=signal)).quality["leads"]
    assert leads["III"] == {"reasons": [], "missing_samples": 5}
    assert leads["II"]["missing_samples"] == 0


@pytest.mark.parametrize("duration_s", [10, 15, 300])
def test_hum_off_the_nominal_frequency_is_seen_in_records_of_any_length(duration_s: int) -> None:
    time_s = np.arange(duration_s * 500) / 500.0
    noise = np.random.default_rng(0).normal(0.0, 0.02, (2, len(time_s)))
    noise[1] += 0.05 * np.sin(2 * np.pi * 50.02 * time_s)
    clean, humming = hum(noise.astype(np.float32), 500.0)[50.0]
    assert clean < 0.003
    assert humming == pytest.approx(0.05, rel=0.15)
