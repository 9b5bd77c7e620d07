"""What a header's comments say of the ECG; whatever could say who it is of is left out."""

import re
from collections.abc import Sequence
from typing import Any

_KEYS = ("age", "sex", "dx", "diagnoses", "report", "scp codes", "fold")
# What LUDB's diagnoses begin with; a line of theirs may also be a finding without a colon.
_FINDINGS = (
    "rhythm",
    "electric axis of the heart",
    "conduction",
    "non-specific repolarization abnormalities",
    "undefined ischemia",
    "ischemia",
    "stemi",
    "nstemi",
    "scar formation",
    "atrial extrasystole",
    "ventricular extrasystole",
    "cardiac pacing",
    "hypertroph",
)
_CODES = re.compile(r"[\w.+-]{1,20}(?: \d{1,3}(?:\.\d+)?)?")
# Days in any order, numbers as long as a patient's, names after a title.
_IDENTITY = re.compile(
    r"\b\d{1,4}([./-])\d{1,2}\1\d{1,4}\b|\b\d{5,}\b|\b(?:dr|prof|mrs?|ms|herr|frau)\b\.?\s+\S+"
    r"|\b(?:name|patient|physician|born|dob|mrn)\b",
    re.IGNORECASE,
)


def meta_of(comments: Sequence[str]) -> dict[str, Any]:
    """Age, sex, diagnoses and report of a header's comments; no other comment is kept."""
    meta: dict[str, Any] = {}
    for number, comment in enumerate(comments):
        match = re.fullmatch(r"<?([A-Za-z_ ]+?)>?\s*:\s*(.*)", comment)
        key, value = (match[1].lower(), match[2].strip()) if match else ("", "")
        if key not in _KEYS or (not value and key != "diagnoses"):
            continue
        match key:
            case "diagnoses":  # of LUDB: one a line, to the end
                meta["diagnoses"] = _findings(comments[number + 1 :])
                break
            case "dx":
                meta["diagnoses"] = _codes(value)
            case "scp codes":
                meta["scp_codes"] = ", ".join(_codes(value))
            case "age":
                meta["age"] = _age(value)
            case "sex":
                meta["sex"] = {"m": "M", "f": "F"}.get(value[:1].lower())
            case "report" if not _IDENTITY.search(value):
                meta["report"] = value
            case "fold" if value.isdecimal():
                meta["fold"] = value
    return meta


def _findings(lines: Sequence[str]) -> tuple[str, ...]:
    found = (line.strip() for line in lines)
    return tuple(
        line
        for line in found
        if line
        and not _IDENTITY.search(line)
        and (":" not in line or line.lower().startswith(_FINDINGS))
    )


def _codes(value: str) -> tuple[str, ...]:
    codes = (code.strip() for code in value.split(","))
    return tuple(code for code in codes if _CODES.fullmatch(code))


def _age(text: str) -> float | None:
    try:
        age = float(text)
    except ValueError:
        return None
    return age if 0 <= age <= 150 else None
