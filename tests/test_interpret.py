"""One ECG: an answer, a verdict for each of its claims, a caution."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image, ImageOps

import tiny
from data_prep.instruct import QUESTIONS
from data_prep.measure import measure
from data_prep.records import LEADS, read
from data_prep.render import render
from data_prep.sample_index import sample_records
from data_prep.teachers import template_answer
from gem_jax import answers, checkpoint, cli, inputs, interpret
from gem_jax.answers import Text
from gem_jax.models.ecg import EcgConfig
from gem_jax.models.gem import abstract_params

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
        def answer(model, questions, **options):
            yield from (Text(text, reason) for _ in questions)

        monkeypatch.setattr(answers, "answer", answer)
        monkeypatch.setattr(answers, "load_model", lambda path, shown=(): MUTE)

    return speak


def told(path: Path, question: str = QUESTIONS["brief"]) -> interpret.Interpretation:
    return interpret.interpret(MUTE, interpret.load_exhibit(path), question, 64)


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


def moved(params: dict) -> dict:
    """The parameters, wider: what such a model says depends on what it is shown."""
    return jax.tree.map(lambda leaf: leaf * 2.5, params)


@pytest.fixture(scope="module")
def gem(prepared, tmp_path_factory) -> Path:
    model = tmp_path_factory.mktemp("models") / "gem"
    checkpoint.save_model(model, tiny.MODEL, moved(tiny.params()), prepared / "tokenizer", {})
    return model


@pytest.fixture(scope="module")
def pulse(prepared, tmp_path_factory) -> Path:
    """A model that takes pages alone, in tiles."""
    model = tmp_path_factory.mktemp("models") / "pulse"
    config = dataclasses.replace(
        tiny.MODEL,
        ecg=None,
        ecg_projector="identity",
        image_mode="anyres",
        patch_merge="spatial_unpad",
        image_newline=True,
        grid_pinpoints=((64, 32), (32, 64)),
    )
    params = moved(tiny.drawn(abstract_params(config)))
    checkpoint.save_model(model, config, params, prepared / "tokenizer", {})
    return model


@pytest.fixture(scope="module")
def picture(path, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("picture") / "page.png"
    ImageOps.invert(render(read(path), dpi=30).image).save(file)
    return file


def answered(model: Path, *given: object) -> dict:
    """What `gem-jax interpret` prints, as a person runs it."""
    args = ["interpret", *map(str, given), "--checkpoint", str(model), "--max-new-tokens", "6"]
    ran = subprocess.run(
        [sys.executable, "-m", "gem_jax.cli", *args, "--json"], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_a_gem_answers_about_a_record_and_a_picture_of_it(gem, path, picture):
    drawn = answered(gem, path)
    assert drawn["record"] == read(path).name
    assert drawn["reason"] in ("eos", "length")
    assert answered(gem, path, "--image", picture)["answer"] != drawn["answer"]


def test_a_model_of_pages_answers_about_a_picture_alone(pulse, path, picture, tmp_path):
    page = tmp_path / "page.html"
    told = answered(pulse, picture, "--html", page)
    assert told["record"] == str(picture) and told["quality"] == {}
    assert "data:image/png;base64," in page.read_text()
    assert told["answer"] == answered(pulse, path, "--image", picture)["answer"]
    other = tmp_path / "other.png"
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)[0]
    Image.fromarray(pixels).resize((320, 240), Image.Resampling.NEAREST).save(other)
    assert answered(pulse, other)["answer"] != told["answer"]


def test_a_question_alone_is_answered(gem, capsys):
    asked = ["interpret", "--checkpoint", str(gem), "--max-new-tokens", "6", "--json"]
    assert cli.main([*asked, "--question", "What is a PR interval?"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["record"], values["claims"], values["quality"]) == ("question", [], {})
    assert cli.main([*asked, "--question", "<image>\nRate?"]) == 2
    assert "got 1 <image> in the questions, expected 0" in capsys.readouterr().err
    assert cli.main([*asked, "--html", "page.html"]) == 2
    assert "--html: got nothing to show" in capsys.readouterr().err


def test_without_a_record_no_claim_can_be_verified(picture, says):
    says("Heart rate 72 bpm. Axis 30 degrees.")
    told = interpret.interpret(MUTE, interpret.load_exhibit(picture), "Rate?", 64, "page")
    assert len(told.verdicts) == 2
    assert {one.verdict for one in told.verdicts} == {"unverifiable"}
    text = interpret.as_text(told)
    assert "measured nothing (no record was given to measure)" in text
    assert text.startswith("page: Rate?")


def test_the_originals_reading_shows_the_leads_in_the_order_of_the_file(gem, path, monkeypatch):
    mimic = (*LEADS[:4], "aVF", "aVL", *LEADS[6:])
    record = dataclasses.replace(read(path), stored_leads=mimic)
    monkeypatch.setattr(interpret, "read", lambda path: record)
    shown = []
    whole = inputs.medium_of
    monkeypatch.setattr(
        answers, "medium_of", lambda *given: shown.append(whole(*given)) or shown[-1]
    )
    for reading in ("ours", "original"):
        interpret.main(path, checkpoint=gem, reading=reading, max_new_tokens=2)
    np.testing.assert_array_equal(shown[0].ecg[4], shown[1].ecg[5])
    assert np.abs(shown[0].ecg[4] - shown[1].ecg[4]).max() > 0


def test_what_the_model_cannot_take_is_refused(gem, path, picture, tmp_path, capsys, monkeypatch):
    def refused(*given: object) -> str:
        assert cli.main(["interpret", *map(str, given), "--checkpoint", str(gem)]) == 2
        return capsys.readouterr().err

    with monkeypatch.context() as unread:
        unread.setattr(checkpoint, "load_params", None)
        assert "got a picture alone, expected the ECG's record too" in refused(picture)
    assert "is a picture, and --image names another" in refused(picture, "--image", picture)
    text = tmp_path / "text.png"
    text.write_text("none")
    assert "text.png: cannot be read" in refused(path, "--image", text)
    assert "absent.png: cannot be read" in refused(tmp_path / "absent.png")
    assert "absent" in refused(tmp_path / "absent")
