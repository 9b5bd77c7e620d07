"""One record → one ECG-Grounding record: a question about it, the teacher's answer, the numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from data_prep.findings import lead_median
from data_prep.records import BadInput
from data_prep.teachers import Style, template_answer

if TYPE_CHECKING:
    from data_prep.measurement import Measurement

IMAGE_TOKEN = "<image>"
QUESTIONS: Mapping[Style, str] = {
    "full": "Interpret this ECG lead by lead, with the measurements that support your conclusion.",
    "brief": "Describe this ECG in brief.",
}
FIELDS = ("id", "ecg", "image", "conversations", "machine_measurements", "report")
DECIMALS = {"ms": 1, "mv": 3, "bpm": 1, "deg": 1}


def grounding_record(
    m: Measurement, record_id: str, ecg_path: str, image_path: str, style: Style, report: str = ""
) -> dict[str, Any]:
    """Returns a validated ECG-Grounding record.

    Args:
        m: What was measured.
        record_id: Names the record and draws the phrasing of the answer.
        ecg_path: WFDB path without suffix, relative to the folder of the signals.
        image_path: The page, relative to the folder of the images.
        style: Of the teacher's answer.
        report: What a clinician wrote, where there is one.

    Raises:
        BadInput: A field is empty, or a path is absolute, has a suffix or leaves its folder.
    """
    item = {
        "id": record_id,
        "ecg": ecg_path,
        "image": image_path,
        "conversations": [
            {"from": "human", "value": f"{IMAGE_TOKEN}\n{QUESTIONS[style]}"},
            {"from": "gpt", "value": template_answer(m, record_id, style)},
        ],
        "machine_measurements": machine_measurements(m),
        "report": report,
    }
    validate(item)
    return item


def machine_measurements(m: Measurement) -> dict[str, Any]:
    """Returns the measurement in brief: the summary, and the medians of each lead."""
    leads = {
        lead: {key: _rounded(key, lead_median(m, key, lead)) for key in m.beats} for lead in m.leads
    }
    return {
        "global": {key: _rounded(key, value) for key, value in m.summary.items()},
        "leads": leads,
    }


def validate(item: Mapping[str, Any]) -> None:
    """Checks the fields of an ECG-Grounding record.

    Raises:
        BadInput: The first field that is not as expected, with what it holds.
    """
    name = item.get("id") or "record without id"
    for field in FIELDS:
        if field not in item:
            raise BadInput(f"{name}: no field '{field}', expected {', '.join(FIELDS)}; add it")
    for field in ("id", "ecg", "image"):
        if not isinstance(item[field], str) or not item[field]:
            raise BadInput(f"{name}: '{field}' is {item[field]!r}, expected a text; name it")
    _validate_path(name, "ecg", item["ecg"])
    _validate_path(name, "image", item["image"])
    if item["ecg"].endswith((".hea", ".dat", ".mat")):
        raise BadInput(f"{name}: 'ecg' is {item['ecg']}, expected no suffix; cut it off")
    if not isinstance(item["machine_measurements"], (dict, str)):
        kind = type(item["machine_measurements"]).__name__
        raise BadInput(f"{name}: 'machine_measurements' is a {kind}, expected an object or a text")
    if not isinstance(item["report"], str):
        raise BadInput(f"{name}: 'report' is {item['report']!r}, expected a text, empty if none")
    _validate_turns(name, item["conversations"])


def _validate_path(name: str, field: str, path: str) -> None:
    parts = PurePosixPath(path.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts:
        raise BadInput(f"{name}: '{field}' is {path}, expected a path below its folder; shorten it")


def _validate_turns(name: str, turns: Any) -> None:
    if not isinstance(turns, list) or len(turns) < 2 or len(turns) % 2:
        raise BadInput(f"{name}: 'conversations' is {turns!r:.60}, expected pairs of turns")
    for k, turn in enumerate(turns):
        speaker = ("human", "gpt")[k % 2]
        value = turn.get("value") if isinstance(turn, dict) else None
        if not isinstance(turn, dict) or turn.get("from") != speaker:
            raise BadInput(f"{name}: turn {k} is {turn!r:.60}, expected one from '{speaker}'")
        if not isinstance(value, str) or not value.strip():
            raise BadInput(f"{name}: turn {k} is empty, expected a text; drop the record")
    images = sum(turn["value"].count(IMAGE_TOKEN) for turn in turns)
    if images != 1 or not turns[0]["value"].startswith(f"{IMAGE_TOKEN}\n"):
        raise BadInput(
            f"{name}: {images} times {IMAGE_TOKEN}, expected once, as the question's first line"
        )


def _rounded(key: str, value: Any) -> Any:
    """Returns a number with as many decimals as its unit deserves; no NaN reaches the JSON."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if not math.isfinite(value):
        return None
    return round(float(value), DECIMALS.get(key.rsplit("_", 1)[-1], 3))
