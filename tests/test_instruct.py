"""ECG-Grounding records: complete, relative, and refused with a clear line where they are not."""

from __future__ import annotations

import copy
import json

import pytest

from data_prep.instruct import FIELDS, grounding_record, validate
from data_prep.intervals import measure_waves
from data_prep.records import BadInput
from data_prep.teachers import template_answer
from synthetic import ecg


@pytest.fixture(scope="module")
def item() -> dict:
    m = measure_waves(*ecg())
    return grounding_record(m, "a", "folder/a", "images/a.png", "full", report="Sinus rhythm.")


def test_the_record_has_the_fields_of_the_format(item: dict) -> None:
    assert tuple(item) == FIELDS
    question, answer = item["conversations"]
    assert question["from"] == "human"
    assert question["value"].startswith("<image>\n")
    assert answer == {
        "from": "gpt",
        "value": template_answer(measure_waves(*ecg()), "a", "full"),
    }
    assert item["report"] == "Sinus rhythm."
    assert (item["ecg"], item["image"]) == ("folder/a", "images/a.png")


def test_the_measurements_are_plain_json_with_a_median_a_lead(item: dict) -> None:
    numbers = json.loads(json.dumps(item["machine_measurements"], allow_nan=False))
    assert numbers["global"]["heart_rate_bpm"] == pytest.approx(72, abs=0.5)
    assert set(numbers["leads"]) == set(ecg()[0].leads)
    assert numbers["leads"]["V5"]["r_amp_mv"] == pytest.approx(1.4, abs=0.1)
    assert numbers["leads"]["V5"]["t_amp_mv"] == pytest.approx(0.3, abs=0.05)


WRONG = [
    ("ecg", "/data/a", "expected a path below its folder"),
    ("ecg", "../a", "expected a path below its folder"),
    ("ecg", "a.hea", "expected no suffix"),
    ("image", "", "expected a text"),
    ("machine_measurements", [1], "expected an object or a text"),
    ("report", None, "expected a text, empty if none"),
    ("conversations", [], "expected pairs of turns"),
    ("conversations", [{"from": "gpt", "value": "x"}] * 2, "expected one from 'human'"),
    (
        "conversations",
        [{"from": "human", "value": "<image>\nx"}, {"from": "gpt", "value": " "}],
        "turn 1 is empty",
    ),
    (
        "conversations",
        [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}],
        "0 times <image>",
    ),
]


@pytest.mark.parametrize(("field", "value", "message"), WRONG)
def test_a_wrong_field_is_refused_by_name(item: dict, field: str, value, message: str) -> None:
    validate(item)
    broken = {**copy.deepcopy(item), field: value}
    with pytest.raises(BadInput, match=message) as error:
        validate(broken)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_field_is_refused_by_name(item: dict, field: str) -> None:
    broken = {key: value for key, value in item.items() if key != field}
    with pytest.raises(BadInput, match=f"no field '{field}'"):
        validate(broken)
