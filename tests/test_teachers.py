"""The template teacher: true numbers, the same text for the same record, nulls said or left out."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import pytest

from data_prep.augment import Change, apply
from data_prep.intervals import measure_waves
from data_prep.measurement import Measurement
from data_prep.teachers import template_answer
from synthetic import ecg

STYLES = ("full", "brief")


def measured(**kinds) -> Measurement:
    return measure_waves(*ecg(**kinds))


def without(m: Measurement, *keys: str) -> Measurement:
    return dataclasses.replace(m, summary={**m.summary, **dict.fromkeys(keys)})


@pytest.mark.parametrize("style", STYLES)
def test_the_same_record_always_gets_the_same_text(style: str) -> None:
    m = measured()
    assert template_answer(m, "a", style) == template_answer(m, "a", style)
    texts = {template_answer(m, f"record {k}", style) for k in range(30)}
    assert len(texts) > 10


def test_the_phrasing_is_the_same_in_another_process() -> None:
    code = (
        "from data_prep.teachers import _draw; "
        "print([_draw(f'r{k}', 'rate') % 3 for k in range(20)])"
    )
    texts = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        texts.add(done.stdout)
    assert len(texts) == 1


@pytest.mark.parametrize("style", STYLES)
def test_the_numbers_are_those_of_the_measurement(style: str) -> None:
    slow, fast = measured(rate_bpm=50), measured(rate_bpm=120)
    assert re.search(r"\b50 (bpm|per)", template_answer(slow, "a", style))
    assert re.search(r"\b120 (bpm|per)", template_answer(fast, "a", style))
    assert "bradycardia" in template_answer(slow, "a", style).lower()
    assert "tachycardia" in template_answer(fast, "a", style).lower()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("axis_deg", "word"), [(45, "normal"), (-60, "left"), (120, "right"), (-130, "extreme")]
)
def test_the_axis_is_named(style: str, axis_deg: float, word: str) -> None:
    text = template_answer(measured(axis_deg=axis_deg), "a", style).lower()
    assert re.search(rf"{word} axis|axis {word}|axis is {word}", text)
    others = {"normal", "left", "right", "extreme"} - {word}
    assert not any(re.search(rf"{other} axis|axis {other}", text) for other in others)


def test_brief_follows_an_augmented_record() -> None:
    record, waves = ecg(rate_bpm=70, axis_deg=20)
    change = Change(time_scale=0.7, rotation_deg=100.0, length_s=60.0)
    text = template_answer(measure_waves(*apply(record, waves, change)), "a", "brief")
    assert "100 bpm" in text
    assert "120 degrees" in text


def test_brief_is_short_and_of_few_words() -> None:
    texts = [
        template_answer(measured(rate_bpm=rate, axis_deg=axis), f"{rate}/{axis}", "brief")
        for rate in range(50, 130, 10)
        for axis in range(-150, 180, 40)
    ]
    pieces = [re.findall(r"[A-Za-z]+|\d|[^\w\s]", text) for text in texts]
    assert max(map(len, pieces)) <= 50
    assert len({piece for row in pieces for piece in row}) < 70
    for text in texts:
        degrees = int(re.search(r"(-?\d+) degrees", text)[1])
        assert degrees % 5 == 0
        assert -175 <= degrees <= 180


@pytest.mark.parametrize("style", STYLES)
def test_no_p_waves_and_irregular_is_said(style: str) -> None:
    irregular = measured(with_p=False, jitter_ms=180, rate_bpm=90)
    text = template_answer(without(irregular, "pr_ms"), "a", style)
    assert "without P waves" in text
    assert "sinus" not in text.lower()
    assert ("atrial fibrillation" in text) == (style == "full")


@pytest.mark.parametrize("style", STYLES)
def test_nulls_are_said_and_never_printed(style: str) -> None:
    m = without(measured(), "axis_deg", "pr_ms", "qt_ms", "qtc_bazett_ms", "rhythm_regular")
    text = template_answer(m, "a", style)
    assert "xis is not measurable" in text or "Axis not measurable" in text
    assert not re.search(r"\b(nan|none)\b", text, re.IGNORECASE)
    nothing = dataclasses.replace(m, summary=dict.fromkeys(m.summary))
    assert "not measurable" in template_answer(nothing, "a", style)


def test_full_names_what_is_abnormal() -> None:
    text = template_answer(measured(t_mv=-0.3, axis_deg=-60), "a", "full")
    assert re.search(r"T-wave inversion in .*V2-V6", text)
    assert "left axis deviation" in text
    healthy = template_answer(measured(), "a", "full")
    assert "inversion" not in healthy
    assert "deviation in" not in healthy
