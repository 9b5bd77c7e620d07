"""One ECG: an answer, and every claim in it checked against what was measured.

`gem-jax interpret RECORD|IMAGE --checkpoint CKPT [--question …] [--html FILE]`
"""

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data_prep.claims import Verdict, check, parse
from data_prep.files import write_whole
from data_prep.instruct import QUESTIONS
from data_prep.measure import Measurement, measure
from data_prep.records import BadInput, read

if TYPE_CHECKING:
    from data_prep.page import Page
    from gem_jax.inputs import Exhibit

CAUTION = "Research software, not a medical device: never base a decision about a patient on it."
MARKS = {"supported": "✓", "contradicted": "✗", "unverifiable": "?"}
PICTURES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Interpretation:
    """An answer with a verdict for each of its claims; measured is None without a record."""

    name: str
    exhibit: "Exhibit | None"
    question: str
    answer: str
    reason: str
    verdicts: tuple[Verdict, ...]
    measured: Measurement | None


def main(
    record: Path | None = None,
    *,
    checkpoint: Path,
    question: str = QUESTIONS["brief"],
    image: Path | None = None,
    reading: Literal["ours", "original"] = "ours",
    html: Path | None = None,
    json: bool = False,
    max_new_tokens: int = 64,
) -> int:
    """Ask a model about one ECG and check each claim of its answer against the signal.

    Args:
        record: A record of twelve leads, or of eight from which the limb leads follow; or a picture
            alone (PNG, JPEG), for a model that takes no signal; or nothing: only the question.
        checkpoint: What `gem-jax import` or `gem-jax train` wrote.
        question: What is asked.
        image: A picture of the record to show instead of the page that is drawn from it.
        reading: How record and picture become the model's input: leads by name, at 500 Hz; or as
            the original GEM reads them, in the order and at the rate of the file.
        html: Also write a page with the ECG, the answer and its claims to this file.
        json: Print one JSON object instead of text.
        max_new_tokens: Where an answer without an end is cut.
    """
    if max_new_tokens < 1:
        raise BadInput(f"--max-new-tokens: got {max_new_tokens}, expected 1 or more")
    exhibit = load_exhibit(record, image, reading)
    if html and exhibit is None:
        raise BadInput("--html: got nothing to show, expected a record or a picture beside it")
    from gem_jax import answers  # what is wrong with the record is said without waiting for JAX

    model = answers.load_model(checkpoint, [exhibit] if exhibit else [])
    name = str(record or image or "question")
    told = interpret(model, exhibit, question, max_new_tokens, name)
    if html:
        from gem_jax import report

        title = f"ECG {told.name}"
        write_whole(html, report.document(title, [as_html(told)]).encode())
        print(f"{html}", file=sys.stderr)
    print(as_json_line(told) if json else as_text(told))
    return 0


def load_exhibit(
    record: Path | None, image: Path | None = None, reading: Literal["ours", "original"] = "ours"
) -> "Exhibit | None":
    """Returns what is shown, None without anything; BadInput when the model cannot take it."""
    if record and record.suffix.lower() in PICTURES:
        if image:
            raise BadInput(
                f"{record}: is a picture, and --image names another; expected a record beside it"
            )
        record, image = None, record
    if record is None and image is None:
        return None
    shown = None if record is None else read(record)
    from gem_jax.inputs import Exhibit
    from gem_jax.preprocess import read_page, require_fit

    if image:
        read_page(image)  # what is wrong with it is said now
    return Exhibit(require_fit(shown) if shown else None, image, reading)


def interpret(
    model: Any,
    exhibit: "Exhibit | None",
    question: str,
    max_new_tokens: int,
    name: str = "question",
) -> Interpretation:
    """Returns the answer of `model` (`gem_jax.answers.Model`) and the verdicts on its claims.

    What the model does not see of a long record is not measured either. Without a record nothing is
    measured, and no claim can be verified.
    """
    from gem_jax import answers
    from gem_jax.preprocess import seen

    measured = None
    if exhibit and exhibit.record:
        record, name = exhibit.record, exhibit.record.name
        if model.config.ecg:
            record = seen(record, model.config.ecg, exhibit.reading)
        exhibit = dataclasses.replace(exhibit, record=record)
        measured = measure(record)
    asked = answers.Question(question, (exhibit,) if exhibit else (), name)
    text = next(answers.answer(model, [asked], max_new_tokens=max_new_tokens, batch_size=1))
    verdicts = verdicts_on(text.answer, measured)
    return Interpretation(name, exhibit, question, text.answer, text.reason, verdicts, measured)


def verdicts_on(answer: str, measured: Measurement | None) -> tuple[Verdict, ...]:
    """Returns a verdict on each claim of the answer: unverifiable where nothing was measured."""
    if measured is not None:
        return tuple(check(parse(answer), measured))
    reason = "no record was given to measure"
    return tuple(Verdict(claim, "unverifiable", None, 0.0, reason) for claim in parse(answer))


def as_text(told: Interpretation) -> str:
    """Returns the answer and a line for each claim, for a terminal."""
    lines = [f"{told.name}: {told.question}", "", told.answer or "(no answer)", ""]
    for one in told.verdicts:
        claim = one.claim
        lines.append(
            f"  {MARKS[one.verdict]} {one.verdict:12} {claim.quantity:18} said {claim.text!r}, "
            f"measured {_shown(one.measured)} ({_because(one)})"
        )
    if told.reason == "length":
        lines.append("  the answer was cut at its length limit")
    lines += [f"  note: {note}" for note in _quality(told).get("reasons", [])]
    return "\n".join([*lines, "", CAUTION])


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _because(one: Verdict) -> str:
    if one.measured is None:
        return one.reason
    return one.evidence or f"tolerance {one.tolerance:g}"


def _quality(told: Interpretation) -> dict[str, Any]:
    return dict(told.measured.quality) if told.measured else {}


def as_json(told: Interpretation) -> dict[str, Any]:
    """Returns the answer and its verdicts as JSON values."""
    return {
        "record": told.name,
        "question": told.question,
        "answer": told.answer,
        "reason": told.reason,
        "claims": [
            {
                "quantity": one.claim.quantity,
                "value": one.claim.value,
                "unit": one.claim.unit,
                "leads": list(one.claim.leads),
                "start": one.claim.start,
                "end": one.claim.end,
                "negated": one.claim.negated,
                "verdict": one.verdict,
                "measured": one.measured,
                "tolerance": one.tolerance,
                "reason": one.reason,
                "evidence": one.evidence,
            }
            for one in told.verdicts
        ],
        "quality": _quality(told),
        "caution": CAUTION,
    }


def as_json_line(told: Interpretation) -> str:
    """Returns `as_json` as one line."""
    return json.dumps(as_json(told), ensure_ascii=False)


def as_html(told: Interpretation, title: str = "Interpretation") -> str:
    """Returns the section of report.html with the page and the answer beside it."""
    from gem_jax import report

    page = _page(told)
    return report.interpretation_html(
        page.png(),
        page,
        told.answer,
        told.verdicts,
        title=title,
        question=told.question,
        caption=f"Record {told.name}",
    )


def _page(told: Interpretation) -> "Page":
    """Returns the picture that was given, or the drawn page with the places of its leads."""
    from data_prep.page import Page
    from data_prep.render import render
    from gem_jax.preprocess import on_white, read_page

    shown = told.exhibit
    if shown and shown.image:
        # Where the leads lie on somebody's picture is not known.
        return Page(on_white(read_page(shown.image)), {}, 1.0, 25.0, 10.0, "picture")
    if shown and shown.record:
        return render(shown.record, dpi=120)
    raise ValueError("html: got a question alone, expected a record or a picture beside it")
