"""One ECG: an answer, and every claim in it checked against what was measured.

`gem-jax interpret RECORD --checkpoint CKPT [--question …] [--html FILE]`
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.claims import Verdict, check, parse
from data_prep.files import write_whole
from data_prep.instruct import QUESTIONS
from data_prep.measure import Measurement, measure
from data_prep.records import BadInput, Record, read

CAUTION = "Research software, not a medical device: never base a decision about a patient on it."
MARKS = {"supported": "✓", "contradicted": "✗", "unverifiable": "?"}


@dataclass(frozen=True)
class Interpretation:
    """An answer about a record with a verdict for each of its claims."""

    record: Record
    question: str
    answer: str
    reason: str
    verdicts: tuple[Verdict, ...]
    measured: Measurement


def main(
    record: Path,
    *,
    checkpoint: Path,
    question: str = QUESTIONS["brief"],
    html: Path | None = None,
    json: bool = False,
    max_new_tokens: int = 64,
) -> int:
    """Ask a model about one ECG and check each claim of its answer against the signal.

    Args:
        record: A record of twelve leads, or of eight from which the limb leads follow.
        checkpoint: What `gem-jax import` or `gem-jax train` wrote.
        question: What is asked.
        html: Also write a page with the ECG, the answer and its claims to this file.
        json: Print one JSON object instead of text.
        max_new_tokens: Where an answer without an end is cut.
    """
    if max_new_tokens < 1:
        raise BadInput(f"--max-new-tokens: got {max_new_tokens}, expected 1 or more")
    shown = load_record(record)
    from gem_jax import answers  # what is wrong with the record is said without waiting for JAX

    model = answers.load_model(checkpoint)
    told = interpret(model, shown, question, max_new_tokens)
    if html:
        from gem_jax import report

        title = f"ECG {told.record.name}"
        write_whole(html, report.document(title, [as_html(told)]).encode())
        print(f"{html}", file=sys.stderr)
    print(as_json_line(told) if json else as_text(told))
    return 0


def load_record(path: Path) -> Record:
    """Returns the record; BadInput when the model cannot take it."""
    if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
        raise BadInput(f"{path}: is a picture, expected a record with a signal to check claims on")
    record = read(path)
    from gem_jax.preprocess import require_fit

    return require_fit(record)


def interpret(model: Any, record: Record, question: str, max_new_tokens: int) -> Interpretation:
    """Returns the answer of `model` (`gem_jax.answers.Model`) and the verdicts on its claims.

    What the model does not see of a long record is not measured either.
    """
    from gem_jax import answers
    from gem_jax.preprocess import seen

    if model.config.ecg:
        record = seen(record, model.config.ecg)
    measured = measure(record)
    texts = answers.answer(model, [record], [question], max_new_tokens=max_new_tokens, batch_size=1)
    text = next(texts)
    verdicts = tuple(check(parse(text.answer), measured))
    return Interpretation(record, question, text.answer, text.reason, verdicts, measured)


def as_text(told: Interpretation) -> str:
    """Returns the answer and a line for each claim, for a terminal."""
    lines = [f"{told.record.name}: {told.question}", "", told.answer or "(no answer)", ""]
    for one in told.verdicts:
        claim = one.claim
        lines.append(
            f"  {MARKS[one.verdict]} {one.verdict:12} {claim.quantity:18} said {claim.text!r}, "
            f"measured {_shown(one.measured)} ({one.evidence or f'tolerance {one.tolerance:g}'})"
        )
    if told.reason == "length":
        lines.append("  the answer was cut at its length limit")
    lines += [f"  note: {note}" for note in told.measured.quality.get("reasons", [])]
    return "\n".join([*lines, "", CAUTION])


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def as_json(told: Interpretation) -> dict[str, Any]:
    """Returns the answer and its verdicts as JSON values."""
    return {
        "record": told.record.name,
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
        "quality": dict(told.measured.quality),
        "caution": CAUTION,
    }


def as_json_line(told: Interpretation) -> str:
    """Returns `as_json` as one line."""
    return json.dumps(as_json(told), ensure_ascii=False)


def as_html(told: Interpretation, title: str = "Interpretation") -> str:
    """Returns the section of report.html with the page and the answer beside it."""
    from data_prep.render import render
    from gem_jax import report

    page = render(told.record, dpi=120)
    return report.interpretation_html(
        page.png(),
        page,
        told.answer,
        told.verdicts,
        title=title,
        question=told.question,
        caption=f"Record {told.record.name}",
    )
