"""A checked answer as HTML: its claims marked in the text, a card for each, and the legend."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape as _escape
from typing import Any

from data_prep.claims import Verdict

VERDICTS = {"supported": "✓", "contradicted": "✗", "unverifiable": "?"}
# Of claims that share words the gravest verdict colours them.
_GRAVITY = ("supported", "unverifiable", "contradicted")

_QUANTITIES = {
    "axis_deg": "QRS axis",
    "axis_category": "QRS axis in words",
    "heart_rate_bpm": "heart rate",
    "pr_ms": "PR interval",
    "p_ms": "P duration",
    "qrs_ms": "QRS duration",
    "qt_ms": "QT interval",
    "qtc_bazett_ms": "QTc (Bazett)",
    "qtc_fridericia_ms": "QTc (Fridericia)",
    "qtc_framingham_ms": "QTc (Framingham)",
    "qtc_hodges_ms": "QTc (Hodges)",
    "p_amp_mv": "P amplitude",
    "p_present": "P waves present",
    "pr_prolonged": "PR prolonged",
    "pr_short": "PR short",
    "q_amp_mv": "Q amplitude",
    "qrs_wide": "wide QRS",
    "qtc_prolonged": "QTc prolonged",
    "r_amp_mv": "R amplitude",
    "rhythm_regular": "regular rhythm",
    "rr_sd_ms": "RR standard deviation",
    "s_amp_mv": "S amplitude",
    "st_depression": "ST depression",
    "st_deviation": "ST deviation",
    "st_elevation": "ST elevation",
    "st_mv": "ST level",
    "t_amp_mv": "T amplitude",
    "t_polarity": "T polarity",
    "transition_lead": "R/S transition lead",
}
# The tolerance of a claim without a unit of its own lies around the threshold of a measurement.
_THRESHOLD_UNITS = {
    "axis_category": "deg",
    "pr_prolonged": "ms",
    "pr_short": "ms",
    "qrs_wide": "ms",
    "qtc_prolonged": "ms",
    "rhythm": "bpm",
    "st_depression": "mV",
    "st_deviation": "mV",
    "st_elevation": "mV",
    "t_polarity": "mV",
}
_UNITS = {"deg": "°", "ms": " ms", "bpm": " bpm", "mV": " mV", "mv": " mV"}


def text(words: str) -> str:
    """The words, safe inside HTML and inside an attribute."""
    return _escape(words, quote=True)


def in_order(verdicts: Sequence[Verdict]) -> list[list[Verdict]]:
    """Verdicts in the order of the text; claims that share words are together."""
    groups: list[list[Verdict]] = []
    end = -1
    for verdict in sorted(verdicts, key=lambda v: (v.claim.start, -v.claim.end)):
        if verdict.claim.start < end:
            groups[-1].append(verdict)
        else:
            groups.append([verdict])
        end = max(end, verdict.claim.end)
    return groups


def _gravest(group: Sequence[Verdict]) -> str:
    return max((str(v.verdict) for v in group), key=_GRAVITY.index)


def marked_answer(
    answer: str, groups: Sequence[Sequence[Verdict]], panels: Sequence[str], key: str
) -> str:
    """The answer with each group of claims as something to hover, focus or tap."""
    parts, at = [], 0
    for number, group in enumerate(groups):
        start, end = group[0].claim.start, max(v.claim.end for v in group)
        kind = _gravest(group)
        lit = text(" ".join(_panels(group, panels)))
        parts.append(
            f'{text(answer[at:start])}<span class="claim {kind}" role="button" tabindex="0"'
            f' aria-describedby="claim-{key}-{number}" data-verdict="{kind}"'
            f' data-panels="{lit}">{text(answer[start:end])}</span>'
        )
        at = end
    return "".join(parts) + text(answer[at:])


def _panels(group: Sequence[Verdict], panels: Sequence[str]) -> list[str]:
    """The panels to light: the claims' leads, or the rhythm strips for the whole record."""
    leads = dict.fromkeys(lead for verdict in group for lead in verdict.claim.leads)
    if leads:
        return [name for name in panels if name in leads]
    return [name for name in panels if name.endswith("_rhythm")]


def card(name: str, group: Sequence[Verdict]) -> str:
    """A card with the id `name`: verdict, measured value, tolerance, leads and reason of each."""
    kind = _gravest(group)
    bodies = "".join(_card_body(verdict) for verdict in group)
    return f'<div class="card {kind}" id="{name}" role="tooltip">{bodies}</div>'


def _card_body(verdict: Verdict) -> str:
    claim = verdict.claim
    denied = "not " if getattr(claim, "negated", False) else ""
    rows = {
        "said": denied + _value(claim.value, claim.unit),
        "measured": _value(verdict.measured, claim.unit),
    }
    if verdict.evidence:
        rows["measured"] += f" ({verdict.evidence})"
    if verdict.tolerance:
        unit = claim.unit or _THRESHOLD_UNITS.get(claim.quantity, "")
        where = "" if claim.unit else " around the threshold"
        rows["tolerance"] = f"± {_value(verdict.tolerance, unit)}{where}"
    rows["leads"] = ", ".join(claim.leads) or "whole record"
    if verdict.reason:
        rows["reason"] = str(verdict.reason)
    listed = "".join(f"<dt>{name}</dt><dd>{text(words)}</dd>" for name, words in rows.items())
    heading = text(quantity_name(claim.quantity))
    return (
        f'<div class="one {verdict.verdict}"><h3>{heading[:1].upper()}{heading[1:]}: '
        f'<span class="mark">{VERDICTS[verdict.verdict]} {verdict.verdict}</span></h3>'
        f"<dl>{listed}</dl></div>"
    )


def quantity_name(name: str) -> str:
    """What a person calls a quantity of the measurement."""
    return _QUANTITIES.get(name, name.replace("_", " "))


def _value(value: Any, unit: str = "") -> str:
    if value is None:
        return "not measured"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float | int):
        digits = f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
        return digits + (_UNITS.get(unit, f" {unit}") if unit else "")
    return str(value).replace("_", " ")


def legend(verdicts: Sequence[Verdict]) -> str:
    """What each line style means and how many claims have it."""
    if not verdicts:
        return '<p class="soft">No checkable claim was found in this answer.</p>'
    found = [str(verdict.verdict) for verdict in verdicts]
    items = "".join(
        f'<li class="{kind}"><span class="mark">{mark}</span>'
        f' <span class="{kind} key">{kind}</span> {found.count(kind)}</li>'
        for kind, mark in VERDICTS.items()
    )
    hint = "Hover, focus or tap a claim: its measured value, tolerance and leads are shown."
    return f'<ul class="legend">{items}</ul><p class="soft hint">{hint}</p>'
