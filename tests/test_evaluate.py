"""Scores: the truth scores best, its controls do not; answers are kept, and asked for once."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tiny
from data_prep.phrases import parse
from data_prep.records import BadInput
from data_prep.shards import read_shard, shard_files
from gem_jax import answers, checkpoint, cli, evaluate
from gem_jax.answers import Text
from gem_jax.scores import absolute_error, angular_error, paired_bootstrap
from gem_jax.tasks import claims

FIELDS = {"n", "unit", "better", "model", "constant", "other_patient"}
FIELDS |= {"difference", "ci_low", "ci_high", "unsaid"}
NUMBERS = ("heart_rate_bpm", "axis_deg")


@pytest.fixture(scope="module")
def cases(prepared):
    """Nine records whose truth is our own measurement: the teacher is right about them."""
    shards = [shard_files(prepared, split)[0] for split in ("train", "test")]
    examples = [example for shard in shards for example in read_shard(shard)]
    return [dataclasses.replace(claims.case_of(one), truth=one.measured()) for one in examples]


@pytest.fixture(scope="module")
def table(cases):
    """The teacher's own answers, scored."""
    return scored([case.answer for case in cases], cases)


def turned(items: list) -> list:
    return items[4:] + items[:4]


def scored(own, cases, other=None):
    teacher = [case.answer for case in cases]
    return claims.score(own, other or turned(teacher), cases, cases)


def test_the_teacher_errs_by_no_more_than_its_rounding(cases, table):
    teacher = [case.answer for case in cases]
    assert set(table) >= {*NUMBERS, "axis_category", "qrs_wide"}
    for quantity, row in table.items():
        rounding = {"heart_rate_bpm": 0.51, "axis_deg": 2.51}.get(quantity, 0.0)
        assert row["model"] <= rounding, quantity
        assert row["unsaid"] == 0
    for quantity in NUMBERS:
        assert table[quantity]["ci_high"] < 0, "better than both controls"
    shuffled = scored(turned(teacher), cases, other=teacher)
    for quantity in NUMBERS:
        assert shuffled[quantity]["model"] > table[quantity]["model"] + 3
        assert shuffled[quantity]["ci_low"] > 0, "the control: worse than the truth"


def test_the_table_has_the_fields_that_scripts_read(cases, table):
    for quantity, row in table.items():
        assert set(row) == FIELDS
        assert row["better"] == "lower"
        assert 0 < row["n"] <= len(cases)
        assert row["unit"] == {"heart_rate_bpm": "bpm", "axis_deg": "deg"}.get(
            quantity, claims.UNITS.get(quantity, claims.SHARE)
        )
        best = min(row["constant"], row["other_patient"])
        assert row["difference"] == pytest.approx(row["model"] - best)
        assert row["ci_low"] <= row["difference"] <= row["ci_high"]
        assert json.loads(json.dumps(row)) == row


def test_another_patient_is_a_column_of_its_own(cases, table):
    rates = np.array([case.truth.summary["heart_rate_bpm"] for case in cases])
    expected = np.abs(rates - np.roll(rates, -4)).mean()
    assert table["heart_rate_bpm"]["other_patient"] == pytest.approx(expected, abs=0.5)


def test_the_best_constant_is_the_best_of_what_the_teacher_says(cases, table):
    constants = claims.best_constants(cases)
    rates = np.array([case.truth.summary["heart_rate_bpm"] for case in cases])
    said = float(constants["heart_rate_bpm"][0].value)
    candidates = [float(claims.by_quantity(c.answer)["heart_rate_bpm"][0].value) for c in cases]
    errors = {value: np.abs(rates - value).mean() for value in candidates}
    assert said == min(errors, key=errors.get)
    assert errors[said] < max(errors.values())
    assert table["heart_rate_bpm"]["constant"] == pytest.approx(errors[said])


def test_an_answer_that_leaves_something_out_counts_as_the_worst(cases, table):
    teacher = [case.answer for case in cases]
    silent = ["", *teacher[1:]]
    row = scored(silent, cases)["heart_rate_bpm"]
    assert row["unsaid"] == 1
    constant = claims.best_constants(cases)["heart_rate_bpm"]
    compared = [claims.error("heart_rate_bpm", constant, case.truth) for case in cases]
    other = [
        claims.error("heart_rate_bpm", claims.by_quantity(text)["heart_rate_bpm"], case.truth)
        for text, case in zip(turned(teacher), cases, strict=True)
    ]
    rest = [
        claims.error("heart_rate_bpm", claims.by_quantity(text)["heart_rate_bpm"], case.truth)
        for text, case in zip(teacher[1:], cases[1:], strict=True)
    ]
    worst = max(*compared, *other, *rest)
    assert row["model"] == pytest.approx((worst + sum(rest)) / len(cases))
    assert table["heart_rate_bpm"]["model"] < row["model"]
    nothing = scored([""] * len(cases), cases)["heart_rate_bpm"]
    assert nothing["unsaid"] == len(cases)
    assert nothing["ci_low"] >= 0


def test_axes_err_by_the_smaller_angle(cases):
    truth = dataclasses.replace(
        cases[0].truth, summary={**cases[0].truth.summary, "axis_deg": -175.0}
    )
    said = parse("Axis 175 degrees.")
    assert claims.error("axis_deg", said, truth) == pytest.approx(10.0)
    unknown = dataclasses.replace(truth, summary={**truth.summary, "axis_deg": None})
    assert np.isnan(claims.error("axis_deg", said, unknown))
    said_deg, truth_deg = np.array([170.0, 0.0, 10.0]), np.array([-170.0, 180.0, -20.0])
    np.testing.assert_allclose(angular_error(said_deg, truth_deg), [20.0, 180.0, 30.0])
    np.testing.assert_allclose(absolute_error(said_deg, truth_deg), [340.0, 180.0, 30.0])


def test_the_truth_of_the_held_out_is_the_cardiologists(prepared):
    shard = shard_files(prepared, "test")[0]
    for example, case in zip(read_shard(shard), claims.load(shard), strict=True):
        assert example.truth is not None
        assert case.truth.summary["qrs_ms"] == example.truth["qrs_ms"]
    ours = [example.measured().summary["qrs_ms"] for example in read_shard(shard)]
    assert ours != [case.truth.summary["qrs_ms"] for case in claims.load(shard)]


def test_the_interval_is_that_of_paired_differences():
    rng = np.random.default_rng(0)
    control = rng.normal(20.0, 8.0, 36)
    errors = control - rng.normal(2.0, 1.0, 36)
    found = paired_bootstrap(errors, control)
    assert found.mean == pytest.approx((errors - control).mean())
    spread = (errors - control).std() / 6
    assert found.ci_low == pytest.approx(found.mean - 1.96 * spread, abs=0.1)
    assert found.ci_high == pytest.approx(found.mean + 1.96 * spread, abs=0.1)
    assert found == paired_bootstrap(errors, control)
    unpaired = paired_bootstrap(errors, rng.permutation(control))
    assert unpaired.ci_high - unpaired.ci_low > 3 * (found.ci_high - found.ci_low)


def lines_of(cases) -> list[str]:
    ids = [case.id for case in cases]
    said = {case.id: case.answer for case in cases}
    pairs = [*zip(ids, ids, strict=True), *zip(ids, ids[1:] + ids[:1], strict=True)]
    return [
        json.dumps({"id": asked, "shown": shown, "answer": said[shown], "reason": "eos"}) + "\n"
        for asked, shown in pairs
    ]


@pytest.fixture
def shard(prepared) -> Path:
    return shard_files(prepared, "test")[0]


def test_predictions_are_scored_as_they_are(shard, tmp_path, capsys):
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(lines_of(claims.load(shard))))
    assert evaluate.main(data=shard, out=tmp_path / "out", predictions=path) == 0
    table = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert set(table) >= set(NUMBERS)
    assert all(set(row) == FIELDS for row in table.values())
    assert table["heart_rate_bpm"]["model"] < table["heart_rate_bpm"]["other_patient"]
    shown = capsys.readouterr().out
    assert evaluate.as_text(table) in shown


def test_predictions_that_are_not_all_there_are_refused(shard, tmp_path):
    lines = lines_of(claims.load(shard))
    path = tmp_path / "predictions.jsonl"
    for content in ("".join(lines[:-1]), "".join(lines)[:-2]):
        path.write_text(content)
        with pytest.raises(BadInput, match=r"has 5 of 6 answers, the first missing is \('ludb"):
            evaluate.main(data=shard, out=tmp_path / "out", predictions=path)
    with pytest.raises(BadInput, match="no such file"):
        evaluate.main(data=shard, out=tmp_path / "out", predictions=tmp_path / "absent")
    assert not (tmp_path / "out").exists()


def test_a_shard_without_a_training_shard_beside_it_is_refused(shard, tmp_path):
    alone = tmp_path / shard.name
    alone.write_bytes(shard.read_bytes())
    with pytest.raises(BadInput, match="has no train-… shard beside it"):
        evaluate.main(data=alone, out=tmp_path, predictions=tmp_path / "predictions.jsonl")
    with pytest.raises(BadInput, match="got both or neither"):
        evaluate.main(data=shard, out=tmp_path)


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """Names of the ECGs that a model without weights is asked about; it stops at the third."""
    asked: list[str] = []

    def answer(model, questions, *, max_new_tokens):
        for question in questions:
            asked.append(question.exhibits[0].record.name)
            if len(asked) == 3:
                raise KeyboardInterrupt
            yield Text("Rate 50 bpm.", "eos")

    monkeypatch.setattr(answers, "answer", answer)
    monkeypatch.setattr(answers, "load_model", lambda path: None)
    return asked


def shown(cases) -> dict:
    return {case.id: evaluate.exhibit_of(case, None, "ours") for case in cases}


def model_at(path: Path, prepared: Path) -> Path:
    checkpoint.save_model(path, tiny.MODEL, tiny.params(), prepared / "tokenizer", {})
    return path


def test_a_stopped_evaluation_keeps_its_first_answers(prepared, shard, tmp_path, asked):
    cases = claims.load(shard)
    model = model_at(tmp_path / "any", prepared)
    path = tmp_path / "predictions.jsonl"
    with pytest.raises(KeyboardInterrupt):
        evaluate.answer_all(model, cases, shown(cases), tmp_path, 8)
    begun = path.read_text()
    assert len(begun.splitlines()) == 2
    path.write_text(begun + lines_of(cases)[2][:30])
    evaluate.answer_all(model, cases, shown(cases), tmp_path, 8)
    assert path.read_text().startswith(begun)
    assert len(evaluate.read_predictions(path)) == 6
    assert len(asked) == 3 + 4
    evaluate.answer_all(model, cases, shown(cases), tmp_path, 8)
    assert len(asked) == 3 + 4, "nothing is asked twice"


def test_answers_of_another_model_or_about_other_ecgs_are_not_mixed(
    prepared, shard, tmp_path, asked
):
    cases = claims.load(shard)
    model = model_at(tmp_path / "any", prepared)
    with pytest.raises(KeyboardInterrupt):
        evaluate.answer_all(model, cases, shown(cases), tmp_path, 8)
    refused = pytest.raises(BadInput, match=r"holds answers of .*/any/checkpoints/0")
    with refused:
        evaluate.answer_all(
            model_at(tmp_path / "other", prepared), cases, shown(cases), tmp_path, 8
        )
    louder = dataclasses.replace(cases[0].record, signal_mv=cases[0].record.signal_mv * 2)
    with refused:
        others = [dataclasses.replace(cases[0], record=louder), *cases[1:]]
        evaluate.answer_all(model, others, shown(others), tmp_path, 8)
    shutil.rmtree(model)
    with refused:
        evaluate.answer_all(model_at(model, prepared), cases, shown(cases), tmp_path, 8)
    assert len(asked) == 3


def test_a_model_answers_each_question_with_its_own_and_anothers_ecg(prepared, shard, tmp_path):
    model = tmp_path / "model"
    checkpoint.save_model(model, tiny.MODEL, tiny.params(), prepared / "tokenizer", {})
    assert evaluate.main(data=shard, out=tmp_path, checkpoint=model, max_new_tokens=4) == 0
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    ids = [case.id for case in claims.load(shard)]
    assert [row["id"] for row in rows] == ids + ids
    assert [row["shown"] for row in rows] == ids + ids[1:] + ids[:1]
    assert {row["reason"] for row in rows} <= {"eos", "length"}
    table = json.loads((tmp_path / "scores.json").read_text())
    assert table["heart_rate_bpm"]["unsaid"] == 3, "an untrained model says nothing of the rate"


def test_pictures_and_the_originals_reading_are_shown_instead(prepared, shard, tmp_path, capsys):
    model = model_at(tmp_path / "any", prepared)
    run = ["evaluate", "--data", str(shard), "--checkpoint", str(model), "--max-new-tokens", "4"]
    said = {}
    folder = tmp_path / "pictures"
    for case in claims.load(shard):
        file = folder / case.image
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (300, 200), "black").save(file)
    for name, options in {
        "drawn": [],
        "pictures": ["--images", str(folder)],
        "original": ["--reading", "original"],
    }.items():
        assert cli.main([*run, "--out", str(tmp_path / name), *options]) == 0
        said[name] = json.loads((tmp_path / name / "evaluation.json").read_text())["ecgs"]
    assert len(set(said.values())) == 3, "none is mixed with another"
    answers_of = [(tmp_path / name / "predictions.jsonl").read_text() for name in said]
    assert answers_of[0] != answers_of[1]
    capsys.readouterr()
    missing = ["--out", str(tmp_path / "missing"), "--images", str(tmp_path / "none")]
    assert cli.main([*run, *missing]) == 2
    assert "no such file, expected the record's picture" in capsys.readouterr().err
    assert not (tmp_path / "missing").exists()
