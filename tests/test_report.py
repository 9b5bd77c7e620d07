"""report.html shows everything once, lets nothing in from outside and escapes all text."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from data_prep.claims import Claim, Verdict
from data_prep.page import Page, Panel
from gem_jax import report

ANSWER = "Rate 62 bpm. T inverted in III & V1 <b>. Sinus rhythm."


def verdict(words: str, quantity: str, value, kind: str, **more) -> Verdict:
    start = ANSWER.index(words)
    leads, unit = more.get("leads", ()), more.get("unit", "")
    claim = Claim(quantity, value, unit, start, start + len(words), leads, words)
    return Verdict(claim, kind, more.get("measured"), more.get("tolerance", 0.0), "because <it> is")


def verdicts() -> list[Verdict]:
    return [
        verdict("Sinus rhythm", "rhythm", "sinus", "unverifiable", leads=("II",)),
        verdict(
            "Rate 62 bpm",
            "heart_rate_bpm",
            62.0,
            "supported",
            unit="bpm",
            measured=60.2,
            tolerance=5.0,
        ),
        verdict(
            "T inverted in III & V1 <b>",
            "t_polarity",
            "inverted",
            "contradicted",
            leads=("III", "V1"),
            measured="upright",
            tolerance=0.05,
        ),
    ]


def page() -> Page:
    names = ("III", "V1", "II_rhythm")
    panels = {
        name: Panel(name.split("_")[0], (20.0 * k, 10.0, 20.0 * k + 20, 60.0), 0.0, 10.0, 0.0, 0.0)
        for k, name in enumerate(names)
    }
    return Page(Image.new("RGB", (100, 80)), panels, 2.0, 25.0, 10.0, "3x4+1")


def reading(checked: list[Verdict] | None = None) -> str:
    checked = verdicts() if checked is None else checked
    return report.interpretation_html(page().png(), page(), ANSWER, checked, caption="A <man>")


def scores(**changed) -> dict:
    good = {
        "n": 36, "unit": "bpm", "better": "lower", "model": 4.9, "constant": 10.4,
        "other_patient": 13.1, "difference": -5.5, "ci_low": -7.9, "ci_high": -3.2,
    }  # fmt: skip
    return {**good, **changed}


class Outline(HTMLParser):
    """Collects tags, text and unclosed elements."""

    VOID = ("meta", "img", "br", "line", "path", "polyline", "circle")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if "script" not in self.open and "style" not in self.open:
            self.words += data


def whole() -> str:
    curves = {"stage <1>": [{"step": k, "loss": 3.0 - k / 10} for k in range(20)]}
    tables = {"heart_rate_bpm": scores()}
    places = {"scores & more": "runs/demo/scores.json"}
    parts = [reading(), report.curves_html(curves), report.scores_html(tables)]
    return report.document("Demo <1>", [*parts, report.artefacts_html(places)])


def test_the_page_is_whole_and_brings_nothing_from_outside() -> None:
    html = whole()
    outline = Outline(html)
    assert outline.open == []
    assert not re.search(r"(https?:)?//[a-z]", html)
    assert "@import" not in html
    for tag, attributes in outline.tags:
        assert tag not in ("link", "iframe", "object")
        assert attributes.get("src", "data:").startswith("data:image/png;base64,"[:5])
    assert len(html) < 60_000


def test_the_caution_stands_above_and_below() -> None:
    words = Outline(whole()).words
    assert words.count("Not a medical device") == 2
    assert words.index("Not a medical device") < words.index("Interpretation")
    assert words.rindex("Not a medical device") > words.index("scores.json")


def test_all_text_is_escaped() -> None:
    html = whole()
    for harmful in ("<b>", "<it>", "<man>", "<1>"):
        assert harmful not in html
        assert harmful in Outline(html).words or harmful == "<man>"


def test_every_claim_is_marked_once_and_the_answer_stays_as_it_was() -> None:
    outline = Outline(reading())
    claims = [a for tag, a in outline.tags if a.get("class", "").startswith("claim ")]
    assert [a["data-verdict"] for a in claims] == ["supported", "contradicted", "unverifiable"]
    assert [a["data-panels"] for a in claims] == ["II_rhythm", "III V1", ""]
    assert all(a["tabindex"] == "0" for a in claims)
    cards = [a["id"] for _, a in outline.tags if a.get("role") == "tooltip"]
    assert [a["aria-describedby"] for a in claims] == cards
    assert len(set(cards)) == 3
    assert ANSWER in outline.words


def test_a_card_tells_measured_value_tolerance_and_reason() -> None:
    words = Outline(reading()).words
    for told in ("62 bpm", "60.2 bpm", "± 5 bpm", "± 0.05 mV", "not measured", "because <it> is"):
        assert told in words


def test_claims_that_share_words_share_a_mark_in_the_gravest_colour() -> None:
    rate = verdict("Rate 62 bpm", "heart_rate_bpm", 62.0, "supported")
    part = verdict("62 bpm", "rhythm", "sinus", "contradicted")
    outline = Outline(reading([rate, part]))
    claims = [a for _, a in outline.tags if a.get("class", "").startswith("claim ")]
    assert [a["data-verdict"] for a in claims] == ["contradicted"]
    assert outline.words.count("because <it> is") == 2
    assert ANSWER in outline.words


def test_an_answer_without_claims_says_so() -> None:
    assert "No checkable claim" in reading([])
    assert "No checkable claim" not in reading()


def test_lead_boxes_are_per_cent_of_the_image() -> None:
    boxes = {a["data-lead"]: a["style"] for _, a in Outline(reading()).tags if "data-lead" in a}
    assert set(boxes) == {"III", "V1", "II_rhythm"}
    assert boxes["V1"] == "left:20.00%;top:12.50%;width:20.00%;height:62.50%"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_picture_may_be_png_jpeg_or_webp(kind: str) -> None:
    buffer = io.BytesIO()
    page().image.save(buffer, kind)
    html = report.interpretation_html(buffer.getvalue(), page(), ANSWER, [])
    assert f"data:image/{kind.lower()};base64," in html
    with pytest.raises(ValueError, match="expected the bytes of a PNG"):
        report.interpretation_html(b"GIF89a", page(), ANSWER, [])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "✓ better"),
        ({"ci_high": 0.1}, "not shown"),
        ({"better": "higher"}, "✗ worse"),
        ({"better": "higher", "difference": 2, "ci_low": 1, "ci_high": 3}, "✓ better"),
        ({"n": 0, "model": None, "difference": None, "ci_low": None, "ci_high": None}, "not shown"),
    ],
)
def test_a_score_is_marked_only_if_its_interval_is_on_the_better_side(changed, words) -> None:
    html = report.scores_html({"heart_rate_bpm": scores(**changed)})
    told = Outline(html).words
    assert words in told
    assert ("reads heart rate from the ECG" in told) == (words == "✓ better")
    assert ("Not shown: heart rate" in told) == (words != "✓ better")


def test_curves_have_axes_units_legend_and_skip_what_is_not_a_number() -> None:
    rows = [
        {"step": k, "loss": 1 + k, "loss_waves": float("nan") if k == 3 else 2.0} for k in range(9)
    ]
    html = report.curves_html({"stage 1": rows}, {"stage 1": "bits"})
    outline = Outline(html)
    for told in ("step", "loss (bits)", "loss waves", "stage 1"):
        assert told in outline.words
    lines = [a["points"] for tag, a in outline.tags if tag == "polyline"]
    assert len(lines) == 4
    assert [len(line.split()) for line in lines] == [9, 9, 8, 8]
    assert "nan" not in html


def test_a_stage_without_rows_says_so() -> None:
    assert "no values" in report.curves_html({"stage 1": []})
