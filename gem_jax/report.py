"""Self-contained HTML that shows a person what the model said, learned and scored.

Each function returns a piece of HTML; `document` joins pieces into one page without any outside
asset. Every text is escaped here, so callers pass plain text.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape as _escape
from pathlib import Path
from typing import Any, Literal, Protocol

from gem_jax import chart
from gem_jax.report_style import SCRIPT, STYLE

CAUTION = (
    "Not a medical device. For research only: nothing here may be used to diagnose or treat anyone."
)

VERDICTS = {"supported": "✓", "contradicted": "✗", "unverifiable": "?"}
# Of claims that share words the gravest verdict colours them.
_GRAVITY = ("supported", "unverifiable", "contradicted")

_QUANTITIES = {
    "axis_deg": "QRS axis",
    "axis_category": "QRS axis",
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


class Claim(Protocol):
    """What is read of a claim, see data_prep.claims."""

    quantity: Any
    value: Any
    unit: Any
    start: Any
    end: Any
    leads: Any


class Verdict(Protocol):
    """What is read of a verdict, see data_prep.claims."""

    claim: Any
    verdict: Any
    measured: Any
    tolerance: Any
    reason: Any


class Page(Protocol):
    """What is read of an ECG page, see data_prep.page."""

    image: Any

    @property
    def boxes(self) -> Mapping[str, tuple[float, float, float, float]]:
        """Pixel box (x0, y0, x1, y1) of each panel."""


def document(title: str, sections: Iterable[str], subtitle: str = "") -> str:
    """One whole HTML page: title, the pieces in order, and the caution above and below them."""
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    )
    below = f'<p class="subtitle">{_text(subtitle)}</p>' if subtitle else ""
    caution = f'<p class="caution" role="note"><strong>{_text(CAUTION)}</strong></p>'
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        f"<header><h1>{_text(title)}</h1>{below}{caution}</header>\n"
        f"<main>\n{''.join(sections)}</main>\n<footer>{caution}</footer>\n"
        f"<script>{SCRIPT}</script>\n</body></html>\n"
    )


def write(path: str | Path, html: str) -> None:
    """Writes a page as a whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(html, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def interpretation_html(
    page_image: bytes,
    page: Page,
    answer: str,
    verdicts: Sequence[Verdict],
    *,
    title: str = "Interpretation",
    question: str = "",
    caption: str = "",
) -> str:
    """The ECG page with the answer beside it, each claim underlined by its verdict.

    Args:
        page_image: The page as a PNG, JPEG or WebP file.
        page: Its size and the boxes of its leads.
        answer: What the model said.
        verdicts: One for each claim found in the answer, in any order.
        title: Heading of the section.
        question: What the model was asked.
        caption: Says whose ECG this is.
    """
    asked = f'<p class="question">{_text(question)}</p>' if question else ""
    told = f"<figcaption>{_text(caption)}</figcaption>" if caption else ""
    groups = _groups(verdicts)
    # Several readings may stand in one document: each has its own ids.
    key = hashlib.sha256(page_image + answer.encode()).hexdigest()[:8]
    cards = "".join(_card(f"claim-{key}-{number}", group) for number, group in enumerate(groups))
    return (
        f'<section><h2>{_text(title)}</h2>{told}<div class="reading">'
        f"{_ecg(page_image, page, caption)}<div>{asked}"
        f'<p class="answer">{_marked(answer, groups, page, key)}</p>'
        f'<div class="cards">{cards}</div>{_legend(verdicts)}</div></div></section>\n'
    )


def curves_html(
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    units: Mapping[str, str] | None = None,
    note: str = "",
) -> str:
    """A chart of the loss for each training stage.

    Args:
        curves: For each stage its rows of metrics: `step`, `loss` and maybe parts of the loss,
            whose names begin with `loss_`.
        units: Unit of a stage's loss where it is not nats per token.
        note: What a reader should know of the stages.
    """
    figures = []
    for stage, rows in curves.items():
        names = dict.fromkeys(key for row in rows for key in row if key.split("_")[0] == "loss")
        series = {
            name.replace("_", " "): (
                [row["step"] for row in rows if row.get(name) is not None],
                [row[name] for row in rows if row.get(name) is not None],
            )
            for name in names
        }
        unit = (units or {}).get(stage, "nats per token")
        drawn = chart.line_chart(series, f"{stage}: loss by step", "step", f"loss ({unit})")
        figures.append(f"<figure><h3>{_text(stage)}</h3>{drawn}</figure>")
    said = f"{note} " if note else ""
    said += "Faint: each step; strong: running mean."
    return (
        f'<section><h2>Training</h2><p class="soft">{_text(said)}</p>'
        f'<div class="curves">{"".join(figures)}</div></section>\n'
    )


def scores_html(
    scores: Mapping[str, Mapping[str, Any]],
    note: str = "",
    what: Literal["tiny model", "model"] = "tiny model",
) -> str:
    """The score table with its controls, and in words what is shown and what is not.

    Args:
        scores: For each claim type: n, unit, better (`lower` or `higher`), model, constant,
            other_patient, difference, ci_low, ci_high; a value that could not be had is None.
        note: Where the truth comes from.
        what: How the model is called.
    """
    heads = (
        ("claim", "words"),
        ("n", ""),
        (what.removeprefix("tiny "), ""),
        ("best constant", ""),
        ("other patient", ""),
        ("difference [95 % CI]", ""),
        ("", ""),
        ("shown?", "words"),
    )
    head = "".join(f'<th scope="col" class="{kind}">{_text(name)}</th>' for name, kind in heads)
    rows = "".join(_score_row(name, score) for name, score in scores.items())
    explained = (
        "Difference = model − its best control: the best constant answer of the training set, or "
        "the same model given another patient's ECG. "
        "✓ marks an interval that excludes 0 on the better side."
    )
    said = f"<p>{_text(note)}</p>" if note else ""
    return (
        f"<section><h2>Scores with controls</h2>{said}<p>{_text(_finding(scores, what))}</p>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        f'</div><p class="soft" style="margin-top:10px">{_text(explained)}</p></section>\n'
    )


def artefacts_html(artefacts: Mapping[str, str | Path]) -> str:
    """A list of what was made and where it lies."""
    rows = "".join(
        f"<tr><td>{_text(what)}</td><td><code>{_text(str(path))}</code></td></tr>"
        for what, path in artefacts.items()
    )
    return (
        '<section><h2>Where everything lies</h2><table class="files"><tbody>'
        f"{rows}</tbody></table></section>\n"
    )


def _text(words: str) -> str:
    return _escape(words, quote=True)


def _ecg(page_image: bytes, page: Page, caption: str) -> str:
    width, height = page.image.size
    leads = []
    for name, (x0, y0, x1, y1) in page.boxes.items():
        place = (
            f"left:{100 * x0 / width:.2f}%;top:{100 * y0 / height:.2f}%;"
            f"width:{100 * (x1 - x0) / width:.2f}%;height:{100 * (y1 - y0) / height:.2f}%"
        )
        leads.append(f'<span class="lead" data-lead="{_text(name)}" style="{place}"></span>')
    source = f"data:{_media_type(page_image)};base64,{base64.b64encode(page_image).decode()}"
    described = _text(f"12-lead ECG page. {caption}".strip())
    return (
        f'<figure class="ecg"><img src="{source}" width="{width}" height="{height}"'
        f' alt="{described}">{"".join(leads)}</figure>'
    )


def _media_type(image: bytes) -> str:
    if image.startswith(b"\x89PNG"):
        return "image/png"
    if image.startswith(b"\xff\xd8"):
        return "image/jpeg"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "image/webp"
    raise ValueError(f"page_image: got {image[:4]!r}..., expected the bytes of a PNG, JPEG or WebP")


def _groups(verdicts: Sequence[Verdict]) -> list[list[Verdict]]:
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


def _marked(answer: str, groups: Sequence[Sequence[Verdict]], page: Page, key: str) -> str:
    """The answer with each group of claims as something to hover, focus or tap."""
    parts, at = [], 0
    for number, group in enumerate(groups):
        start, end = group[0].claim.start, max(v.claim.end for v in group)
        kind = _gravest(group)
        panels = _text(" ".join(_panels(group, page)))
        parts.append(
            f'{_text(answer[at:start])}<span class="claim {kind}" role="button" tabindex="0"'
            f' aria-describedby="claim-{key}-{number}" data-verdict="{kind}"'
            f' data-panels="{panels}">{_text(answer[start:end])}</span>'
        )
        at = end
    return "".join(parts) + _text(answer[at:])


def _panels(group: Sequence[Verdict], page: Page) -> list[str]:
    """The panels to light: the claims' leads, or the rhythm strips for the whole record."""
    leads = dict.fromkeys(lead for verdict in group for lead in verdict.claim.leads)
    if leads:
        return [name for name in page.boxes if name in leads]
    return [name for name in page.boxes if name.endswith("_rhythm")]


def _card(name: str, group: Sequence[Verdict]) -> str:
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
    if verdict.tolerance:
        unit = claim.unit or _THRESHOLD_UNITS.get(claim.quantity, "")
        where = "" if claim.unit else " around the threshold"
        rows["tolerance"] = f"± {_value(verdict.tolerance, unit)}{where}"
    rows["leads"] = ", ".join(claim.leads) or "whole record"
    if verdict.reason:
        rows["reason"] = str(verdict.reason)
    listed = "".join(f"<dt>{name}</dt><dd>{_text(words)}</dd>" for name, words in rows.items())
    heading = _text(_quantity(claim.quantity))
    return (
        f'<div class="one {verdict.verdict}"><h3>{heading[:1].upper()}{heading[1:]}: '
        f'<span class="mark">{VERDICTS[verdict.verdict]} {verdict.verdict}</span></h3>'
        f"<dl>{listed}</dl></div>"
    )


def _quantity(name: str) -> str:
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


def _legend(verdicts: Sequence[Verdict]) -> str:
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


def _excludes_zero(score: Mapping[str, Any]) -> int:
    """1: the interval lies on the better side of 0; -1: on the worse side; 0: neither."""
    low, high = score["ci_low"], score["ci_high"]
    if low is None or high is None or low <= 0 <= high:
        return 0
    return 1 if (high < 0) == (score["better"] == "lower") else -1


def _score_row(name: str, score: Mapping[str, Any]) -> str:
    def number(key: str, sign: str = "") -> str:
        value = score[key]
        return "–" if value is None else f"{value:{sign}.3g}".replace("-", "−")

    unit = f" ({score['unit']}, {score['better']} is better)" if score["unit"] else ""
    unit = unit or f" ({score['better']} is better)"
    span = f"{number('difference', '+')} [{number('ci_low', '+')}, {number('ci_high', '+')}]"
    graph = ""
    if None not in (score["difference"], score["ci_low"], score["ci_high"]):
        graph = chart.interval(score["ci_low"], score["difference"], score["ci_high"], span)
    shown = {1: ("better", "✓ better"), 0: ("soft", "not shown"), -1: ("worse", "✗ worse")}
    kind, words = shown[_excludes_zero(score)]
    cells = (
        ("n", str(score["n"])),
        ("model", number("model")),
        ("best constant", number("constant")),
        ("other patient", number("other_patient")),
        ("difference [95 % CI]", span),
    )
    columns = "".join(f'<td data-label="{name}">{_text(words)}</td>' for name, words in cells)
    return (
        f'<tr><th scope="row">{_text(_quantity(name))}<span class="soft">{_text(unit)}</span></th>'
        f'{columns}<td data-label="interval around 0">{graph}</td>'
        f'<td class="words {kind}" data-label="shown?">{words}</td></tr>'
    )


def _finding(scores: Mapping[str, Mapping[str, Any]], what: str) -> str:
    """In words: what the model reads from the ECG, and what it has not been shown to read."""
    shown = [_quantity(name) for name, score in scores.items() if _excludes_zero(score) > 0]
    rest = [_quantity(name) for name, score in scores.items() if _excludes_zero(score) <= 0]
    said = []
    if shown:
        said.append(f"This {what} reads from the ECG: {', '.join(shown)}.")
    if rest:
        said.append(
            f"What this {what} cannot be shown to do: {', '.join(rest)}. There its answers are no "
            "better than a constant, or than its answers to another patient's ECG."
        )
    return " ".join(said)
