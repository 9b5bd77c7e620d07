"""Claims of a text: found with their place, and judged against the measurement."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.claims import TOLERANCES, Claim, check, parse
from data_prep.criteria import CHEST, LIMB
from data_prep.intervals import measure_waves
from data_prep.measurement import Measurement
from data_prep.teachers import template_answer
from synthetic import ecg

AT_LEAST = {"full": 30, "brief": 8}


def measured(**kinds) -> Measurement:
    return measure_waves(*ecg(**kinds))


def summary(text: str) -> list[tuple]:
    return [(c.quantity, c.value, c.leads, c.negated) for c in parse(text)]


def verdicts(text: str, m: Measurement) -> list[str]:
    return [v.verdict for v in check(parse(text), m)]


NUMBERS = [
    ("Heart rate of 75 bpm.", "heart_rate_bpm", 75),
    ("The ventricular rate is about 75 beats per minute", "heart_rate_bpm", 75),
    ("Sinus rhythm at 75/min", "heart_rate_bpm", 75),
    ("Rate: 75", "heart_rate_bpm", 75),
    ("PR 160 ms", "pr_ms", 160),
    ("PR interval: 0.16 s", "pr_ms", 160),
    ("the PR interval is prolonged at 220 msec", "pr_ms", 220),
    ("QRS duration of 92 ms", "qrs_ms", 92),
    ("QRS is narrow (92 ms)", "qrs_ms", 92),
    ("QT interval 380 milliseconds", "qt_ms", 380),
    ("QTc 440 ms", "qtc_bazett_ms", 440),
    ("QTc (Bazett) = 440 ms", "qtc_bazett_ms", 440),
    ("QTc Fridericia 430 ms", "qtc_fridericia_ms", 430),
    ("QTcF 430 ms", "qtc_fridericia_ms", 430),
    ("axis -30°", "axis_deg", -30),
    ("axis of −30 degrees", "axis_deg", -30),
    ("Axis normal, 45 degrees.", "axis_deg", 45),
    ("Left axis deviation at -45°.", "axis_deg", -45),
]


@pytest.mark.parametrize(("text", "quantity", "value"), NUMBERS)
def test_numbers_are_found(text: str, quantity: str, value: float) -> None:
    found = [claim for claim in parse(text) if claim.quantity == quantity]
    assert [claim.value for claim in found] == [pytest.approx(value)]
    assert re.search(r"\d", text[found[0].start : found[0].end])


WORDS = [
    ("normal axis", [("axis_category", "normal", (), False)]),
    ("left axis deviation", [("axis_category", "left", (), False)]),
    ("No right axis deviation.", [("axis_category", "right", (), True)]),
    ("The axis is deviated to the right", [("axis_category", "right", (), False)]),
    ("QRS is narrow", [("qrs_wide", False, (), False)]),
    ("wide QRS complexes", [("qrs_wide", True, (), False)]),
    ("QRS is not widened", [("qrs_wide", True, (), True)]),
    ("No ST elevation.", [("st_elevation", True, (), True)]),
    ("ST depression in V5-V6", [("st_depression", True, ("V5", "V6"), False)]),
    (
        "T inverted in V1 and aVR",
        [("t_polarity", "inverted", ("V1",), False), ("t_polarity", "inverted", ("aVR",), False)],
    ),
    (
        "T upright in inferior leads, flat in lead III",
        [
            ("t_polarity", "upright", ("II", "III", "aVF"), False),
            ("t_polarity", "flat", ("III",), False),
        ],
    ),
    ("No T-wave inversion in V4.", [("t_polarity", "inverted", ("V4",), True)]),
    ("regular rhythm", [("rhythm_regular", True, (), False)]),
    ("The rhythm is irregularly irregular", [("rhythm_regular", False, (), False)]),
    ("sinus tachycardia", [("rhythm", "sinus tachycardia", (), False)]),
    ("no atrial fibrillation", [("rhythm", "atrial fibrillation", (), True)]),
    ("Transition zone in V4", [("transition_lead", "V4", (), False)]),
    ("no P waves", [("p_present", True, (), True)]),
    ("R wave of 1.40 mV in V5", [("r_amp_mv", 1.4, ("V5",), False)]),
    ("R wave amplitude in V5 is 1.4 mV", [("r_amp_mv", 1.4, ("V5",), False)]),
    (
        "T wave inversions are seen in V2 through V3",
        [("t_polarity", "inverted", ("V2",), False), ("t_polarity", "inverted", ("V3",), False)],
    ),
    ("The heart rate is not 75 bpm.", [("heart_rate_bpm", 75.0, (), True)]),
    ("The rate is over 100 per minute.", []),
    ("The axis is 45 and QRS 90 ms", [("axis_deg", 45.0, (), False), ("qrs_ms", 90.0, (), False)]),
    ("First-degree AV block", [("pr_prolonged", True, (), False)]),
    ("The patient is 60 years old, seen in 2021.", []),
]


@pytest.mark.parametrize(("text", "expected"), WORDS)
def test_words_are_found(text: str, expected: list) -> None:
    assert summary(text) == expected


def test_leads_can_be_left_out() -> None:
    claims = parse("The T waves are upright in all leads except aVR.")
    assert [claim.leads for claim in claims] == [(k,) for k in LIMB + CHEST if k != "aVR"]
    assert {claim.value for claim in claims} == {"upright"}


def test_claims_know_their_place() -> None:
    text = "Regular. Heart rate 72 bpm; axis 45°."
    for claim in parse(text):
        assert text[claim.start : claim.end] == claim.text
    assert [claim.start for claim in parse(text)] == sorted(c.start for c in parse(text))


RECORDS = st.fixed_dictionaries(
    {
        "rate_bpm": st.integers(45, 140),
        "axis_deg": st.integers(-179, 180),
        "t_mv": st.sampled_from([-0.3, -0.1, 0.02, 0.1, 0.3]),
        "with_p": st.booleans(),
        "jitter_ms": st.sampled_from([0.0, 20.0, 150.0]),
        "seed": st.integers(0, 5),
    }
)


@settings(max_examples=20, deadline=None)
@given(kinds=RECORDS, style=st.sampled_from(["full", "brief"]), name=st.integers(0, 99))
def test_every_teacher_text_is_supported(kinds: dict, style: str, name: int) -> None:
    m = measured(**kinds)
    text = template_answer(m, str(name), style)
    judged = check(parse(text), m)
    assert [v for v in judged if v.verdict != "supported"] == [], text
    assert len(judged) >= AT_LEAST[style], text


@pytest.mark.parametrize(("style", "name"), [("full", 0), *(("brief", k) for k in range(4))])
def test_each_number_of_the_teacher_corrupted_is_contradicted(style: str, name: int) -> None:
    m = measured()
    text = template_answer(m, str(name), style)
    numbers = [c for c in parse(text) if c.unit in ("bpm", "ms", "deg", "mV")]
    assert {"heart_rate_bpm", "axis_deg"} <= {claim.quantity for claim in numbers}
    for claim in [*numbers[:5], *numbers[5::5]]:
        digits = list(re.finditer(r"\d+(?:\.\d+)?", claim.text))[-1]
        worse = f"{float(digits.group()) * 2 + 60:.0f}"
        at = claim.start + digits.start()
        corrupted = text[:at] + worse + text[claim.start + digits.end() :]
        wrong = [v.claim.quantity for v in check(parse(corrupted), m) if v.verdict != "supported"]
        assert wrong == [claim.quantity], (claim.text, corrupted)


@pytest.mark.parametrize("style", ["full", "brief"])
def test_another_patients_measurement_contradicts(style: str) -> None:
    text = template_answer(measured(), "a", style)
    other = measured(rate_bpm=110, axis_deg=-70, t_mv=-0.3)
    wrong = {v.claim.quantity for v in check(parse(text), other) if v.verdict == "contradicted"}
    assert {"heart_rate_bpm", "axis_deg", "axis_category", "t_polarity"} <= wrong


def test_tolerances_are_kept_at_both_ends() -> None:
    m = measured()
    assert m.summary["heart_rate_bpm"] == pytest.approx(72, abs=0.5)
    assert verdicts("Rate 75 bpm.", m) == ["supported"]
    assert verdicts("Rate 80 bpm.", m) == ["contradicted"]
    assert verdicts("Axis 55°.", m) == ["supported"]
    assert verdicts("Axis 65°.", m) == ["contradicted"]
    around = dataclasses.replace(m, summary={**m.summary, "axis_deg": 178.0})
    assert verdicts("Axis -175°.", around) == ["supported"]
    assert verdicts("Extreme axis.", around) == ["supported"]
    assert verdicts("Left axis deviation.", around) == ["contradicted"]


def test_negation_turns_the_verdict() -> None:
    m = measured()
    assert verdicts("No ST elevation.", m) == ["supported"]
    assert verdicts("ST elevation in V2 and V3.", m) == ["contradicted"]
    assert verdicts("No T wave inversion in V4.", m) == ["supported"]
    assert verdicts("T wave inversion in V4.", m) == ["contradicted"]
    assert verdicts("QRS not widened.", m) == ["supported"]
    assert verdicts("No P waves.", m) == ["contradicted"]


EDGES = [  # a word, and values where it is denied rightly, at the edge, and wrongly
    ("left axis deviation", "axis_deg", (-10.0, -27.0, -33.0, -50.0)),
    ("sinus bradycardia", "heart_rate_bpm", (70.0, 63.0, 57.0, 50.0)),
    ("sinus tachycardia", "heart_rate_bpm", (80.0, 97.0, 103.0, 120.0)),
    ("wide QRS", "qrs_ms", (90.0, 115.0, 125.0, 150.0)),
    ("prolonged PR", "pr_ms", (160.0, 195.0, 205.0, 240.0)),
]


@pytest.mark.parametrize(("word", "quantity", "values"), EDGES)
def test_a_value_at_the_edge_supports_word_and_denial(word: str, quantity: str, values) -> None:
    m = measured()
    said, denied = [], []
    for value in values:
        near = dataclasses.replace(m, summary={**m.summary, quantity: value})
        said += verdicts(f"There is {word}.", near)
        denied += verdicts(f"There is no {word}.", near)
    assert said == ["contradicted", "supported", "supported", "supported"]
    assert denied == ["supported", "supported", "supported", "contradicted"]


@pytest.mark.parametrize(
    ("t_mv", "verdict"), [(0.3, "supported"), (-0.08, "supported"), (-0.3, "contradicted")]
)
def test_a_denied_t_wave_inversion_is_eased_towards_the_denial(t_mv: float, verdict: str) -> None:
    assert verdicts("No T wave inversion in V4.", measured(t_mv=t_mv)) == [verdict]


def test_what_was_not_measured_is_unverifiable() -> None:
    m = measured()
    nothing = dataclasses.replace(m, summary={**m.summary, "axis_deg": None})
    assert verdicts("Normal axis at 45°.", nothing) == ["unverifiable"] * 2
    strange = Claim("u_amp_mv", 0.1, "mV", 0, 1, ("V2",), "x")
    assert check([strange], m)[0].verdict == "unverifiable"


def test_every_tolerance_has_its_reason() -> None:
    assert all(bound.reason for bound in TOLERANCES.values())
    assert set(TOLERANCES) >= {"heart_rate_bpm", "axis_deg", "pr_ms", "qrs_ms", "qt_ms"}


def test_a_claim_in_words_comes_with_the_number_that_decides_it() -> None:
    m = measured(rate_bpm=72.0, axis_deg=45.0)
    told = {v.claim.quantity: v.evidence for v in check(parse("QRS narrow. Normal axis."), m)}
    assert told["qrs_wide"] == f"QRS duration {m.summary['qrs_ms']:.0f} ms"
    assert told["axis_category"] == f"QRS axis {m.summary['axis_deg']:.0f}°"
    (number,) = check(parse("Heart rate 72 bpm."), m)
    assert number.evidence == ""
