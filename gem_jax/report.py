"""Self-contained HTML that shows a person what the model said, learned and scored.

Each function returns a piece of HTML; `document` joins pieces into one page without any outside
asset. Every text is escaped here, so callers pass plain text.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from data_prep.claims import Verdict
from data_prep.page import Page
from gem_jax import chart
from gem_jax.claim_marks import card, in_order, legend, marked_answer, quantity_name, text
from gem_jax.report_style import SCRIPT, STYLE

CAUTION = (
    "Not a medical device. For research only: nothing here may be used to diagnose or treat anyone."
)


def document(title: str, sections: Iterable[str], subtitle: str = "") -> str:
    """One whole HTML page: title, the pieces in order, and the caution above and below them."""
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    )
    below = f'<p class="subtitle">{text(subtitle)}</p>' if subtitle else ""
    caution = f'<p class="caution" role="note"><strong>{text(CAUTION)}</strong></p>'
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        f"<header><h1>{text(title)}</h1>{below}{caution}</header>\n"
        f"<main>\n{''.join(sections)}</main>\n<footer>{caution}</footer>\n"
        f"<script>{SCRIPT}</script>\n</body></html>\n"
    )


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
    asked = f'<p class="question">{text(question)}</p>' if question else ""
    told = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    groups = in_order(verdicts)
    # Several readings may stand in one document: each has its own ids.
    key = hashlib.sha256(page_image + answer.encode()).hexdigest()[:8]
    cards = "".join(card(f"claim-{key}-{number}", group) for number, group in enumerate(groups))
    return (
        f'<section><h2>{text(title)}</h2>{told}<div class="reading">'
        f"{_ecg(page_image, page, caption)}<div>{asked}"
        f'<p class="answer">{marked_answer(answer, groups, list(page.boxes), key)}</p>'
        f'<div class="cards">{cards}</div>{legend(verdicts)}</div></div></section>\n'
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
                [float(row["step"]) for row in rows if row.get(name) is not None],
                [float(row[name]) for row in rows if row.get(name) is not None],
            )
            for name in names
        }
        unit = (units or {}).get(stage, "nats per token")
        drawn = chart.line_chart(series, f"{stage}: loss by step", "step", f"loss ({unit})")
        figures.append(f"<figure><h3>{text(stage)}</h3>{drawn}</figure>")
    said = f"{note} " if note else ""
    said += "Faint: each step; strong: running mean."
    return (
        f'<section><h2>Training</h2><p class="soft">{text(said)}</p>'
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
    head = "".join(f'<th scope="col" class="{kind}">{text(name)}</th>' for name, kind in heads)
    rows = "".join(_score_row(name, score) for name, score in scores.items())
    explained = (
        "Difference = model − its best control: the best constant answer of the training set, or "
        "the same model given another patient's ECG. "
        "✓ marks an interval that excludes 0 on the better side."
    )
    said = f"<p>{text(note)}</p>" if note else ""
    return (
        f"<section><h2>Scores with controls</h2>{said}<p>{text(_finding(scores, what))}</p>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        f'</div><p class="soft" style="margin-top:10px">{text(explained)}</p></section>\n'
    )


def artefacts_html(artefacts: Mapping[str, str | Path]) -> str:
    """A list of what was made and where it lies."""
    rows = "".join(
        f"<tr><td>{text(what)}</td><td><code>{text(str(path))}</code></td></tr>"
        for what, path in artefacts.items()
    )
    return (
        '<section><h2>Where everything lies</h2><table class="files"><tbody>'
        f"{rows}</tbody></table></section>\n"
    )


def _ecg(page_image: bytes, page: Page, caption: str) -> str:
    width, height = page.image.size
    leads = []
    for name, (x0, y0, x1, y1) in page.boxes.items():
        place = (
            f"left:{100 * x0 / width:.2f}%;top:{100 * y0 / height:.2f}%;"
            f"width:{100 * (x1 - x0) / width:.2f}%;height:{100 * (y1 - y0) / height:.2f}%"
        )
        leads.append(f'<span class="lead" data-lead="{text(name)}" style="{place}"></span>')
    source = f"data:{_media_type(page_image)};base64,{base64.b64encode(page_image).decode()}"
    described = text(f"12-lead ECG page. {caption}".strip())
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


def _excludes_zero(score: Mapping[str, Any]) -> int:
    """1: the interval lies on the better side of 0; -1: on the worse side; 0: neither."""
    low, high = score["ci_low"], score["ci_high"]
    if low is None or high is None or low <= 0 <= high:
        return 0
    return 1 if (high < 0) == (score["better"] == "lower") else -1


def _unsaid(score: Mapping[str, Any]) -> str:
    return f" ({score['unsaid']} unsaid)" if score.get("unsaid") else ""


def _score_row(name: str, score: Mapping[str, Any]) -> str:
    def number(key: str, sign: str = "") -> str:
        value = score[key]
        return "–" if value is None else f"{value:{sign}.3g}".replace("-", "−")

    unit = f" ({score['unit']}, {score['better']} is better)" if score["unit"] else ""
    unit = unit or f" ({score['better']} is better)"
    span = f"{number('difference', '+')} [{number('ci_low', '+')}, {number('ci_high', '+')}]"
    graph = ""
    ends = [score[key] for key in ("ci_low", "difference", "ci_high")]
    if None not in ends:
        low, middle, high = map(float, ends)
        graph = chart.interval(low, middle, high, span)
    shown = {1: ("better", "✓ better"), 0: ("soft", "not shown"), -1: ("worse", "✗ worse")}
    kind, words = shown[_excludes_zero(score)]
    cells = (
        ("n", f"{score['n']}{_unsaid(score)}"),
        ("model", number("model")),
        ("best constant", number("constant")),
        ("other patient", number("other_patient")),
        ("difference [95 % CI]", span),
    )
    columns = "".join(f'<td data-label="{name}">{text(words)}</td>' for name, words in cells)
    return (
        f'<tr><th scope="row">{text(quantity_name(name))}'
        f'<span class="soft">{text(unit)}</span></th>'
        f'{columns}<td data-label="interval around 0">{graph}</td>'
        f'<td class="words {kind}" data-label="shown?">{words}</td></tr>'
    )


def _finding(scores: Mapping[str, Mapping[str, Any]], what: str) -> str:
    """In words: what the model reads from the ECG, and what it has not been shown to read."""
    shown = [quantity_name(name) for name, score in scores.items() if _excludes_zero(score) > 0]
    rest = [quantity_name(name) for name, score in scores.items() if _excludes_zero(score) <= 0]
    said = []
    if shown:
        said.append(f"Shown, each on its own: this {what} reads {', '.join(shown)} from the ECG.")
    if rest:
        said.append(
            f"Not shown: {', '.join(rest)}. There its answers are not shown to be better than a "
            "constant, or than its answers to another patient's ECG."
        )
    return " ".join(said)
