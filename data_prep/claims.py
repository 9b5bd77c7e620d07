"""Claims of a text against what was measured: supported, contradicted or unverifiable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from data_prep import findings
from data_prep.criteria import CHEST, contiguous, holds
from data_prep.findings import number
from data_prep.phrases import Claim, Value, parse

if TYPE_CHECKING:
    from data_prep.measurement import Measurement

__all__ = ["TOLERANCES", "Claim", "Tolerance", "Verdict", "check", "parse"]

Judgement = Literal["supported", "contradicted", "unverifiable"]


@dataclass(frozen=True)
class Tolerance:
    """How far a claim may be from the measurement: the larger of the two bounds counts."""

    absolute: float
    relative: float
    unit: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What the measurement says about a claim; `tolerance` is in the claim's own terms.

    `evidence` is the number that decides a claim made in words, such as `QRS duration 96 ms`.
    """

    claim: Claim
    verdict: Judgement
    measured: Value | None
    tolerance: float
    reason: str
    evidence: str = ""


_INTERVAL = "half a small square of the paper, the spread between careful readers"
_QT = "the end of T is read with more spread than the QRS"
_VOLTAGE = "one small square of the paper; large waves vary with breathing"
_EDGE = "a value this near the threshold may be called either way"

TOLERANCES = {
    "heart_rate_bpm": Tolerance(5.0, 0.05, "bpm", "a rate counted from 10 s of paper"),
    "axis_deg": Tolerance(15.0, 0.0, "deg", "half the angle between two limb leads"),
    "axis_category": Tolerance(5.0, 0.0, "deg", _EDGE),
    "pr_ms": Tolerance(20.0, 0.0, "ms", _INTERVAL),
    "qrs_ms": Tolerance(20.0, 0.0, "ms", _INTERVAL),
    "p_ms": Tolerance(20.0, 0.0, "ms", _INTERVAL),
    "qt_ms": Tolerance(30.0, 0.0, "ms", _QT),
    "qtc_bazett_ms": Tolerance(30.0, 0.0, "ms", _QT),
    "qtc_fridericia_ms": Tolerance(30.0, 0.0, "ms", _QT),
    "qtc_framingham_ms": Tolerance(30.0, 0.0, "ms", _QT),
    "qtc_hodges_ms": Tolerance(30.0, 0.0, "ms", _QT),
    "qrs_wide": Tolerance(10.0, 0.0, "ms", _EDGE),
    "pr_prolonged": Tolerance(10.0, 0.0, "ms", _EDGE),
    "pr_short": Tolerance(10.0, 0.0, "ms", _EDGE),
    "qtc_prolonged": Tolerance(10.0, 0.0, "ms", _EDGE),
    "rhythm": Tolerance(5.0, 0.0, "bpm", _EDGE),
    "rhythm_regular": Tolerance(0.0, 0.0, "", "the measurement decides"),
    "p_present": Tolerance(0.0, 0.0, "", "the measurement decides"),
    "t_polarity": Tolerance(0.05, 0.0, "mV", _EDGE),
    "transition_lead": Tolerance(0.0, 0.15, "", "R and S this near each other may be called equal"),
    "p_amp_mv": Tolerance(0.1, 0.15, "mV", _VOLTAGE),
    "q_amp_mv": Tolerance(0.1, 0.15, "mV", _VOLTAGE),
    "r_amp_mv": Tolerance(0.1, 0.15, "mV", _VOLTAGE),
    "s_amp_mv": Tolerance(0.1, 0.15, "mV", _VOLTAGE),
    "t_amp_mv": Tolerance(0.1, 0.15, "mV", _VOLTAGE),
    "st_mv": Tolerance(0.05, 0.15, "mV", "half a small square of the paper"),
    "st_elevation": Tolerance(0.03, 0.0, "mV", _EDGE),
    "st_depression": Tolerance(0.03, 0.0, "mV", _EDGE),
    "st_deviation": Tolerance(0.03, 0.0, "mV", _EDGE),
}

# A claim in words → what decides it: its name, its quantity, its unit.
DECIDED_BY = {
    "axis_category": ("QRS axis", "axis_deg", "°"),
    "qrs_wide": ("QRS duration", "qrs_ms", " ms"),
    "pr_prolonged": ("PR interval", "pr_ms", " ms"),
    "pr_short": ("PR interval", "pr_ms", " ms"),
    "qtc_prolonged": ("QTc (Bazett)", "qtc_bazett_ms", " ms"),
    "rhythm": ("heart rate", "heart_rate_bpm", " bpm"),
}
_T_LEADS = ("I", "II", *CHEST[1:])

# The measured value (None: not measured) and whether the claim, not negated, agrees with it.
Comparison = tuple[Value | None, bool]


def check(claims: Iterable[Claim], m: Measurement) -> list[Verdict]:
    """Returns a verdict for each claim, in the same order."""
    return [_judge(claim, m) for claim in claims]


def _judge(claim: Claim, m: Measurement) -> Verdict:
    bound = TOLERANCES.get(claim.quantity)
    if bound is None:
        return Verdict(claim, "unverifiable", None, 0.0, f"{claim.quantity} is not measured")
    missing = [lead for lead in claim.leads if lead not in m.leads]
    if missing:
        return Verdict(claim, "unverifiable", None, 0.0, f"the record has no lead {missing[0]}")
    measured, agrees = _comparison(claim.quantity)(claim, m, bound)
    tolerance = bound.absolute or bound.relative
    if isinstance(measured, float) and not isinstance(claim.value, (bool, str)):
        tolerance = _width(measured, bound)
    if measured is None:
        return Verdict(claim, "unverifiable", None, tolerance, "not measurable in this record")
    verdict: Judgement = "supported" if agrees != claim.negated else "contradicted"
    return Verdict(claim, verdict, measured, tolerance, bound.reason, _evidence(claim, m))


def _evidence(claim: Claim, m: Measurement) -> str:
    """Returns the number behind a claim made in words, empty where there is none."""
    if claim.quantity == "t_polarity":
        t_mv = findings.group_median(m, "t_amp_mv", claim.leads or _T_LEADS)
        return "" if t_mv is None else f"T wave {t_mv:+.2f} mV"
    if claim.quantity not in DECIDED_BY:
        return ""
    words, key, unit = DECIDED_BY[claim.quantity]
    value = number(m, key)
    return "" if value is None else f"{words} {value:.0f}{unit}"


def _comparison(quantity: str) -> Callable[[Claim, Measurement, Tolerance], Comparison]:
    if quantity.endswith("_amp_mv") or quantity == "st_mv":
        return _amplitude
    named: dict[str, Callable[[Claim, Measurement, Tolerance], Comparison]] = {
        "axis_deg": _axis_deg,
        "axis_category": _axis_category,
        "qrs_wide": _threshold("wide QRS", "qrs_ms"),
        "pr_prolonged": _threshold("prolonged PR", "pr_ms"),
        "pr_short": _threshold("short PR", "pr_ms"),
        "qtc_prolonged": _threshold("prolonged QTc", "qtc_bazett_ms"),
        "rhythm": _rhythm,
        "rhythm_regular": _rhythm_regular,
        "p_present": _p_present,
        "t_polarity": _t_polarity,
        "transition_lead": _transition,
        "st_elevation": _st,
        "st_depression": _st,
        "st_deviation": _st,
    }
    return named.get(quantity, _number)


def _width(measured: float, bound: Tolerance) -> float:
    return max(bound.absolute, bound.relative * abs(measured))


def _number(claim: Claim, m: Measurement, bound: Tolerance) -> Comparison:
    measured = number(m, claim.quantity)
    if measured is None:
        return None, False
    return measured, abs(float(claim.value) - measured) <= _width(measured, bound)


def _axis_deg(claim: Claim, m: Measurement, bound: Tolerance) -> Comparison:
    measured = number(m, "axis_deg")
    if measured is None:
        return None, False
    apart = abs((float(claim.value) - measured + 180.0) % 360.0 - 180.0)
    return measured, apart <= bound.absolute


def _axis_category(claim: Claim, m: Measurement, bound: Tolerance) -> Comparison:
    axis_deg = number(m, "axis_deg")
    if axis_deg is None:
        return None, False
    near = (axis_deg, axis_deg - bound.absolute, axis_deg + bound.absolute)
    readings = {findings.axis_category(angle) for angle in near}
    return findings.axis_category(axis_deg), _is_among(claim, readings)


def _is_among(claim: Claim, readings: Set[Value | None]) -> bool:
    """Returns whether the claim's word is one of the possible readings; if denied, the only one."""
    return readings == {claim.value} if claim.negated else claim.value in readings


def _threshold(finding: str, key: str) -> Callable[[Claim, Measurement, Tolerance], Comparison]:
    """Returns the comparison of a yes-or-no claim with the criterion of a finding."""

    def compare(claim: Claim, m: Measurement, bound: Tolerance) -> Comparison:
        measured = number(m, key)
        if measured is None:
            return None, False
        stated = bool(claim.value) != claim.negated
        slack = bound.absolute if stated else -bound.absolute
        # The caller turns a negated claim around; here only the stated side is eased.
        return holds(finding, measured), holds(finding, measured, slack=slack) == bool(claim.value)

    return compare


def _rhythm(claim: Claim, m: Measurement, bound: Tolerance) -> Comparison:
    rate_bpm, share = number(m, "heart_rate_bpm"), findings.p_share(m)
    regular, measured = m.summary.get("rhythm_regular"), findings.rhythm(m)
    if rate_bpm is None or share is None or measured is None:
        return None, False
    # A denied claim is eased the other way, so that a rate on the threshold supports both.
    slack = -bound.absolute if claim.negated else bound.absolute
    sinus = holds("p waves", share)
    slow = holds("bradycardia", rate_bpm, slack=slack)
    fast = holds("tachycardia", rate_bpm, slack=slack)
    usual = not holds("bradycardia", rate_bpm, slack=-slack)
    usual = usual and not holds("tachycardia", rate_bpm, slack=-slack)
    agrees = {
        "sinus rhythm": sinus,
        "normal sinus rhythm": sinus and usual,
        "sinus bradycardia": sinus and slow,
        "sinus tachycardia": sinus and fast,
        "sinus arrhythmia": sinus and not regular,
        "atrial fibrillation": not sinus and not regular,
        "bradycardia": slow,
        "tachycardia": fast,
    }
    return measured, agrees[str(claim.value)]


def _rhythm_regular(claim: Claim, m: Measurement, bound: Tolerance) -> Comparison:
    measured = m.summary.get("rhythm_regular")
    return (None, False) if measured is None else (bool(measured), measured == claim.value)


def _p_present(claim: Claim, m: Measurement, bound: Tolerance) -> Comparison:
    share = findings.p_share(m)
    if share is None:
        return None, False
    return holds("p waves", share), holds("p waves", share) == claim.value


def _amplitude(claim: Claim, m: Measurement, bound: Tolerance) -> Comparison:
    if not claim.leads:
        return None, False
    measured = findings.lead_median(m, claim.quantity, claim.leads[0])
    if claim.quantity in ("r_amp_mv", "s_amp_mv"):
        measured = findings.r_and_s(m, claim.leads[0])[claim.quantity == "s_amp_mv"]
    if measured is None:
        return None, False
    claimed = float(claim.value)
    # S and Q are written as sizes or as negative amplitudes: both are read.
    if claim.quantity in ("q_amp_mv", "s_amp_mv"):
        claimed, measured = abs(claimed), abs(measured)
    return measured, abs(claimed - measured) <= _width(measured, bound)


def _t_polarity(claim: Claim, m: Measurement, bound: Tolerance) -> Comparison:
    leads = claim.leads or _T_LEADS
    t_mv = findings.group_median(m, "t_amp_mv", leads)
    if t_mv is None:
        return None, False
    near = (-bound.absolute, 0.0, bound.absolute)
    readings = {findings.t_polarity(t_mv, slack_mv=slack) for slack in near}
    return findings.t_polarity(t_mv), _is_among(claim, readings)


def _transition(claim: Claim, m: Measurement, bound: Tolerance) -> Comparison:
    measured = findings.transition(m)
    eases = (1.0 - bound.relative, 1.0, 1.0 + bound.relative)
    return measured, _is_among(claim, {findings.transition(m, ease) for ease in eases})


def _st(claim: Claim, m: Measurement, bound: Tolerance) -> Comparison:
    """Compares an ST finding: in the named leads, or in two contiguous leads where none is named.

    A negated claim is eased the other way, so that a level on the threshold supports both.
    """
    kind = claim.quantity.removeprefix("st_")
    kinds = ("elevation", "depression") if kind == "deviation" else (kind,)
    levels = {lead: findings.lead_median(m, "st_mv", lead) for lead in claim.leads or m.leads}
    known = {lead: level for lead, level in levels.items() if level is not None}
    if not known or (claim.leads and len(known) < len(levels)):
        return None, False
    slack = -bound.absolute if claim.negated else bound.absolute

    def shown(kind: str, by: float) -> bool:
        leads = {lead for lead, st_mv in known.items() if holds(f"ST {kind}", st_mv, lead, by)}
        if claim.leads:
            return bool(leads) if claim.negated else leads == set(claim.leads)
        return bool(contiguous(leads))

    return any(shown(kind, 0.0) for kind in kinds), any(shown(kind, slack) for kind in kinds)
