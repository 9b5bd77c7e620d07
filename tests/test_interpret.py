"""One ECG: an answer, a verdict for each of its claims, a caution."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import tiny
from data_prep.instruct import QUESTIONS
from data_prep.measure import measure
from data_prep.records import BadInput, read
from data_prep.sample_index import sample_records
from data_prep.teachers import template_answer
from gem_jax import answers, checkpoint, interpret
from gem_jax.answers import Text
from gem_jax.models.ecg import EcgConfig

# What `interpret` asks of a model whose answer a test gives: how much of a record it reads.
MUTE = SimpleNamespace(config=SimpleNamespace(ecg=EcgConfig.coca_vit_b_32()))


@pytest.fixture(scope="module")
def path() -> Path:
    return next(record.path for record in sample_records() if record.split == "test")


@pytest.fixture(scope="module")
def truth(path) -> str:
    return template_answer(measure(read(path)), path.name, "brief")


@pytest.fixture
def says(monkeypatch):
    """Makes every model give this answer."""

    def speak(text: str, reason: str = "eos") -> None:
        def answer(model, records, questions, **options):
            yield from (Text(text, reason) for _ in records)

        monkeypatch.setattr(answers, "answer", answer)
        monkeypatch.setattr(answers, "load_model", lambda path: MUTE)

    return speak


def told(path: Path, question: str = QUESTIONS["brief"]) -> interpret.Interpretation:
    return interpret.interpret(MUTE, interpret.load_record(path), question, 64)


def test_true_claims_are_supported_and_false_ones_contradicted(path, truth, says):
    says(truth)
    right = told(path)
    assert len(right.verdicts) >= 4
    assert {one.verdict for one in right.verdicts} == {"supported"}
    rate = next(one for one in right.verdicts if one.claim.quantity == "heart_rate_bpm")
    assert rate.measured == pytest.approx(float(rate.claim.value), abs=0.51)
    wrong = truth[: rate.claim.start] + "Rate 190 bpm" + truth[rate.claim.end :]
    says(wrong)
    verdicts = {one.claim.quantity: one.verdict for one in told(path).verdicts}
    assert verdicts["heart_rate_bpm"] == "contradicted"
    assert verdicts["axis_deg"] == "supported"


def test_the_text_has_answer_verdicts_measures_and_caution(path, truth, says):
    says(f"{truth} QT 900 ms.")
    text = interpret.as_text(told(path))
    assert truth in text
    assert "✓ supported" in text
    line = next(line for line in text.splitlines() if "qt_ms" in line)
    assert "✗ contradicted" in line
    assert "said 'QT 900 ms'" in line
    assert "measured " in line and "(tolerance 30)" in line
    assert text.endswith(interpret.CAUTION)
    assert "not a medical device" in interpret.CAUTION
    assert "cut at its length limit" not in text
    says(truth, "length")
    assert "the answer was cut at its length limit" in interpret.as_text(told(path))
    says("")
    assert "(no answer)" in interpret.as_text(told(path))


def test_json_places_each_claim_in_the_answer(path, truth, says):
    says(truth)
    values = json.loads(interpret.as_json_line(told(path, "What is the rate?")))
    assert values["answer"] == truth
    assert values["question"] == "What is the rate?"
    assert values["caution"] == interpret.CAUTION
    rate = next(one for one in values["claims"] if one["quantity"] == "heart_rate_bpm")
    assert str(round(rate["value"])) in values["answer"][rate["start"] : rate["end"]]
    assert rate["verdict"] == "supported"
    assert set(rate) >= {"unit", "leads", "negated", "measured", "tolerance", "reason"}


def test_the_page_is_written_with_marks(path, truth, says, tmp_path, capsys):
    page = tmp_path / "deep" / "page.html"
    says(f"{truth} QT 900 ms.")
    assert interpret.main(path, checkpoint=tmp_path, html=page) == 0
    shown = capsys.readouterr()
    assert str(page) in shown.err
    assert interpret.CAUTION in shown.out
    document = page.read_text()
    assert "data:image/png;base64," in document
    assert "supported" in document and "contradicted" in document
    assert "QT 900 ms" in document
    assert "not a medical device" in document.lower()


def test_an_untrained_model_answers_through_the_program(prepared, path, tmp_path, capsys):
    model = tmp_path / "model"
    checkpoint.save_model(model, tiny.MODEL, tiny.params(), prepared / "tokenizer", {})
    assert interpret.main(path, checkpoint=model, json=True, max_new_tokens=4) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["reason"] in ("eos", "length")
    assert values["record"] == read(path).name


def test_what_the_model_cannot_take_is_refused(tmp_path):
    picture = tmp_path / "page.png"
    Image.new("RGB", (8, 8)).save(picture)
    with pytest.raises(BadInput, match=r"is a picture, expected a record with a signal"):
        interpret.main(picture, checkpoint=tmp_path)
    with pytest.raises(BadInput):
        interpret.main(tmp_path / "absent", checkpoint=tmp_path)
