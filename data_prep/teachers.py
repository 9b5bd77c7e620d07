"""The offline template teacher: what a cardiologist would write, from measurements alone.

Numbers and findings come from the measurement, the phrasing from the record's id: the same
record always gets the same text. Both styles are the same steps with other sentences. What was
not measured is left out, or said where its absence matters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from data_prep import findings
from data_prep.criteria import CHEST, GROUPS, LIMB, holds
from data_prep.findings import joined, listed, number

if TYPE_CHECKING:
    from data_prep.measurement import Measurement

Style = Literal["full", "brief"]
Choose = Callable[[str, Sequence[str]], str]

# aVR looks at the heart from the right shoulder; V1 and III are inverted in many healthy people.
NORMALLY_INVERTED = ("aVR", "V1", "III")
BRIEF_AXIS_STEP_DEG = 5
LIKELY = {
    "irregular rhythm without P waves": ", compatible with atrial fibrillation",
    "irregular rhythm with P waves": ", such as sinus arrhythmia or ectopic beats",
}


def template_answer(m: Measurement, record_id: str, style: Style) -> str:
    """Returns the teacher's text about one record.

    Args:
        m: What was measured.
        record_id: Draws the phrasing; augmented copies of a record share it.
        style: `full` is a paragraph; `brief` a fixed row of short sentences for small models.
    """

    def choose(slot: str, phrasings: Sequence[str]) -> str:
        return phrasings[_draw(record_id, slot) % len(phrasings)]

    sentences = _full(m, choose) if style == "full" else _brief(m, choose)
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences if sentence)


def _draw(record_id: str, slot: str) -> int:
    digest = hashlib.sha256(f"{slot}/{record_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _brief(m: Measurement, choose: Choose) -> list[str]:
    return [
        _brief_rate(m, choose),
        _brief_axis(m, choose),
        _qrs_width(m, choose),
        _brief_t(m, choose),
        _transition(m, choose),
        _brief_conclusion(m, choose),
    ]


def _full(m: Measurement, choose: Choose) -> list[str]:
    return [
        _rhythm_and_rate(m, choose),
        _axis(m, choose),
        _intervals(m, choose),
        _qrs_complexes(m, choose),
        _r_and_s(m, "limb", LIMB),
        _r_and_s(m, "chest", CHEST),
        _t_waves(m, choose),
        _st_segments(m, choose),
        _conclusion(m, choose),
    ]


def _brief_rate(m: Measurement, choose: Choose) -> str:
    rate_bpm = number(m, "heart_rate_bpm")
    if rate_bpm is None:
        return "Rate not measurable."
    return choose("rate", ("Rate {} bpm.", "Heart rate {} bpm.")).format(round(rate_bpm))


def _brief_axis(m: Measurement, choose: Choose) -> str:
    axis_deg = number(m, "axis_deg")
    if axis_deg is None:
        return "Axis not measurable."
    rounded = round(axis_deg / BRIEF_AXIS_STEP_DEG) * BRIEF_AXIS_STEP_DEG
    rounded = 180 if rounded == -180 else rounded
    form = choose("axis", ("Axis {}, {} degrees.", "{} axis, {} degrees."))
    return form.format(findings.axis_category(axis_deg), rounded)


def _qrs_width(m: Measurement, choose: Choose) -> str:
    qrs_ms = number(m, "qrs_ms")
    if qrs_ms is None:
        return ""
    width = "wide" if holds("wide QRS", qrs_ms) else "narrow"
    return choose("qrs", ("QRS {}.", "{} QRS.")).format(width)


def _brief_t(m: Measurement, choose: Choose) -> str:
    by_polarity: dict[str, list[str]] = {}
    for group in ("inferior", "lateral", "chest"):
        t_mv = findings.group_median(m, "t_amp_mv", GROUPS[group])
        if t_mv is not None:
            by_polarity.setdefault(findings.t_polarity(t_mv), []).append(group)
    if not by_polarity:
        return ""
    parts = [f"{polarity} in {joined(groups)} leads" for polarity, groups in by_polarity.items()]
    return choose("t", ("T {}.", "T waves {}.")).format(", ".join(parts))


def _transition(m: Measurement, choose: Choose) -> str:
    lead = findings.transition(m)
    if lead is None:
        return ""
    if lead == "none":
        return "No R/S transition."
    return choose("transition", ("Transition {}.", "R/S transition {}.")).format(lead)


def _brief_conclusion(m: Measurement, choose: Choose) -> str:
    rhythm = findings.rhythm(m) or "rhythm not measurable"
    return choose("conclusion", ("{}.", "Conclusion: {}.")).format(rhythm)


def _rhythm_and_rate(m: Measurement, choose: Choose) -> str:
    rhythm, rate_bpm = findings.rhythm(m), number(m, "heart_rate_bpm")
    if rate_bpm is None:
        return "Rhythm and rate are not measurable."
    if rhythm is None:
        return f"Heart rate {rate_bpm:.0f} bpm; the rhythm is not measurable."
    forms = (
        "{} at {:.0f} bpm{}.",
        "{}, ventricular rate {:.0f} bpm{}.",
        "{}, heart rate {:.0f} bpm{}.",
    )
    spread_ms = number(m, "rr_sd_ms")
    irregular = not m.summary.get("rhythm_regular") and spread_ms is not None
    spread = f", RR intervals varying by {spread_ms:.0f} ms (SD)" if irregular else ""
    return choose("rhythm", forms).format(rhythm, rate_bpm, spread)


def _axis(m: Measurement, choose: Choose) -> str:
    axis_deg = number(m, "axis_deg")
    if axis_deg is None:
        return "The frontal QRS axis is not measurable."
    category = findings.axis_category(axis_deg)
    if category == "normal":
        forms = ("The frontal QRS axis is normal at {:.0f} degrees.", "Normal axis at {:.0f}°.")
    else:
        forms = (
            f"There is {category} axis deviation at {{:.0f}} degrees.",
            f"{category} axis deviation at {{:.0f}}°.",
        )
    return choose("axis", forms).format(axis_deg + 0.0)


def _intervals(m: Measurement, choose: Choose) -> str:
    pr_ms, qrs_ms, qt_ms = number(m, "pr_ms"), number(m, "qrs_ms"), number(m, "qt_ms")
    bazett_ms, fridericia_ms = number(m, "qtc_bazett_ms"), number(m, "qtc_fridericia_ms")
    rate_bpm = number(m, "heart_rate_bpm") or 0.0
    parts = ["PR interval not measurable" if pr_ms is None else f"PR interval {pr_ms:.0f} ms"]
    if qrs_ms is not None:
        parts.append(f"QRS duration {qrs_ms:.0f} ms")
    if qt_ms is not None:
        parts.append(f"QT interval {qt_ms:.0f} ms")
    if bazett_ms is not None:
        parts.append(f"QTc {bazett_ms:.0f} ms (Bazett)")
    # Bazett overcorrects at fast and undercorrects at slow rates.
    extreme = holds("tachycardia", rate_bpm) or holds("bradycardia", rate_bpm)
    if fridericia_ms is not None and extreme:
        parts.append(f"QTc Fridericia {fridericia_ms:.0f} ms")
    return choose("intervals", ("{}.", "Intervals: {}.")).format(", ".join(parts))


def _qrs_complexes(m: Measurement, choose: Choose) -> str:
    qrs_ms, lead = number(m, "qrs_ms"), findings.transition(m)
    if qrs_ms is None:
        return ""
    width = "wide" if holds("wide QRS", qrs_ms) else "narrow"
    places = {None: "", "none": " with no R/S transition up to V6"}
    place = places.get(lead, f" with the R/S transition in {lead}")
    forms = ("The QRS complexes are {}{}.", "{} QRS complexes{}.")
    return choose("qrs", forms).format(width, place)


def _r_and_s(m: Measurement, name: str, leads: Sequence[str]) -> str:
    sizes = [(lead, *findings.r_and_s(m, lead)) for lead in leads]
    parts = [f"{lead} {r:.2f}/{s:.2f}" for lead, r, s in sizes if r is not None and s is not None]
    return f"R/S in the {name} leads (mV): {', '.join(parts)}." if parts else ""


def _t_waves(m: Measurement, choose: Choose) -> str:
    by_polarity: dict[str, list[str]] = {"upright": [], "flat": [], "inverted": []}
    for lead in m.leads:
        t_mv = findings.lead_median(m, "t_amp_mv", lead)
        if t_mv is not None:
            by_polarity[findings.t_polarity(t_mv, lead)].append(lead)
    parts = [f"{name} in {listed(leads)}" for name, leads in by_polarity.items() if leads]
    if not parts:
        return "T waves are not measurable."
    return choose("t", ("T waves are {}.", "The T wave is {}.")).format("; ".join(parts))


def _st_segments(m: Measurement, choose: Choose) -> str:
    parts = []
    for finding in ("ST elevation", "ST depression"):
        leads = findings.st_leads(m, finding)
        levels = [(lead, findings.lead_median(m, "st_mv", lead)) for lead in leads]
        shown = [f"{lead} ({abs(st_mv):.2f} mV)" for lead, st_mv in levels if st_mv is not None]
        if shown:
            parts.append(f"{finding} in {joined(shown)}")
    if parts:
        return f"{'; '.join(parts)}."
    if not findings.st_known(m):
        return "ST segments are not measurable."
    return choose("st", ("No significant ST deviation.", "There is no ST elevation or depression."))


def _conclusion(m: Measurement, choose: Choose) -> str:
    rhythm = findings.rhythm(m)
    parts = [rhythm + LIKELY.get(rhythm, "")] if rhythm else []
    abnormal = _abnormal(m)
    if not abnormal and rhythm and rhythm.startswith("sinus"):
        forms = ("{}, no further abnormality measured.", "Conclusion: {}, otherwise unremarkable.")
        return choose("conclusion", forms).format(parts[0])
    if not parts + abnormal:
        return ""
    return choose("conclusion", ("Conclusion: {}.", "In summary: {}.")).format(
        "; ".join(parts + abnormal)
    )


def _abnormal(m: Measurement) -> list[str]:
    """Returns the findings outside the criteria, most telling first."""
    words = {
        "pr_ms": (("prolonged PR", "first-degree AV delay"), ("short PR", "short PR interval")),
        "qrs_ms": (("wide QRS", "wide QRS, intraventricular conduction delay"),),
        "qtc_bazett_ms": (("prolonged QTc", "prolonged QTc"),),
    }
    found = []
    for key, rows in words.items():
        value = number(m, key)
        found += [text for name, text in rows if value is not None and holds(name, value)]
    axis_deg = number(m, "axis_deg")
    if axis_deg is not None and findings.axis_category(axis_deg) != "normal":
        found.append(f"{findings.axis_category(axis_deg)} axis deviation")
    for finding in ("ST elevation", "ST depression"):
        leads = findings.st_leads(m, finding)
        found += [f"{finding} in {listed(leads)}"] if leads else []
    inverted = [lead for lead in m.leads if _unexpected_inversion(m, lead)]
    return found + ([f"T-wave inversion in {listed(inverted)}"] if inverted else [])


def _unexpected_inversion(m: Measurement, lead: str) -> bool:
    t_mv = findings.lead_median(m, "t_amp_mv", lead)
    return t_mv is not None and lead not in NORMALLY_INVERTED and holds("inverted T", t_mv, lead)
