"""A photograph of a page: the same for the same seed, and its map goes where its ink went."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from data_prep.degrade import LIMITS, Effects, degrade
from data_prep.page import Page
from data_prep.records import BadInput
from data_prep.render import main, render
from data_prep.sample_index import SAMPLE
from synthetic import ecg

RECORD, MARKS = ecg()
NONE = Effects(**dict.fromkeys(LIMITS, 0))
GEOMETRY = dataclasses.replace(NONE, rotation_deg=8.0, perspective=0.06)


@pytest.fixture(scope="module")
def page() -> Page:
    return render(RECORD, dpi=60, waves=MARKS)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(page: Page) -> None:
    again = render(RECORD, dpi=60, waves=MARKS)
    assert degrade(page, 3).png() == degrade(again, 3).png()
    assert len({degrade(page, seed).png() for seed in range(6)}) == 6
    assert degrade(page, 3).png() != page.png()
    assert degrade(page, 3).image.size == page.image.size


def test_the_page_itself_stays_as_it_was(page: Page) -> None:
    before = page.png()
    degrade(page, 1)
    assert page.png() == before
    assert page.degraded is None


@pytest.mark.parametrize("effect", list(LIMITS))
def test_each_effect_alone_changes_the_page_and_is_told(page: Page, effect: str) -> None:
    strength = getattr(Effects(), effect)
    alone = degrade(page, 5, dataclasses.replace(NONE, **{effect: strength}))
    assert alone.image.tobytes() != page.image.tobytes()
    drawn = set(alone.degraded) - {"seed", "effects", "versions"}
    assert len(drawn) == 1
    assert (alone.projection is not None) == (effect in ("rotation_deg", "perspective"))


def test_without_effects_the_page_is_as_it_was(page: Page) -> None:
    same = degrade(page, 5, NONE)
    assert same.image.tobytes() == page.image.tobytes()
    assert same.boxes == page.boxes


@pytest.mark.parametrize("left_out", ["pen", "creases", "shadow", "noise", "jpeg"])
def test_leaving_one_effect_out_changes_no_other(page: Page, left_out: str) -> None:
    all_said = degrade(page, 8).degraded
    said = degrade(page, 8, dataclasses.replace(Effects(), **{left_out: 0})).degraded
    kept = set(said) - {"effects"}
    assert {key: all_said[key] for key in kept} == {key: said[key] for key in kept}
    assert len(set(all_said) - set(said)) == 1


def test_more_of_an_effect_is_more(page: Page) -> None:
    def lost(shadow: float) -> float:
        shaded = degrade(page, 2, dataclasses.replace(NONE, shadow=shadow))
        return float(np.mean(np.asarray(page.image, int) - np.asarray(shaded.image, int)))

    assert 0 < lost(0.1) < lost(0.3) < lost(0.8)


def dotted(page: Page, name: str, time_s: float, value_mv: float) -> Page:
    """An empty page with one dot where the map has a place; its centre is a whole pixel."""
    x, y = (round(v) for v in page.to_pixel(name, time_s, value_mv))
    image = Image.new("RGB", page.image.size, "white")
    ImageDraw.Draw(image).rectangle((x - 2, y - 2, x + 2, y + 2), "black")
    return dataclasses.replace(page, image=image)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    name=st.sampled_from(["I", "V1", "V6", "II_rhythm"]),
    share=st.floats(0.05, 0.95),
)
def test_a_dot_lands_where_the_carried_map_says(seed: int, name: str, share: float) -> None:
    clean = render(RECORD, dpi=60)
    panel = clean.panels[name]
    time_s = panel.start_s + share * (panel.end_s - panel.start_s)
    x, y = (round(v) for v in clean.to_pixel(name, time_s, 0.1))
    _, time_s, value_mv = clean.from_pixel(x, y)
    taken = degrade(dotted(clean, name, time_s, value_mv), seed, GEOMETRY)
    said = np.array(taken.to_pixel(name, time_s, value_mv))
    level = np.asarray(taken.image.convert("L"), float)
    top, left = (int(v) - 8 for v in said[::-1])
    darkness = 255 - level[top : top + 17, left : left + 17]
    rows, columns = np.mgrid[top : top + 17, left : left + 17]
    found = np.array([(darkness * at).sum() / darkness.sum() for at in (columns, rows)])
    assert np.abs(found - said).max() < 0.5
    assert taken.from_pixel(*said) == (name, pytest.approx(time_s), pytest.approx(value_mv))


def test_the_flat_map_misses_the_dot(page: Page) -> None:
    taken = degrade(page, 11, GEOMETRY)
    moved = np.subtract(taken.to_pixel("V6", 9.0, 0.0), page.to_pixel("V6", 9.0, 0.0))
    assert np.abs(moved).max() > 5


def test_boxes_follow_the_sheet_and_stay_in_the_image(page: Page) -> None:
    for seed in range(8):
        taken = degrade(page, seed)
        for name, (x0, y0, x1, y1) in taken.boxes.items():
            assert 0 <= x0 < x1 <= page.image.width, name
            assert 0 <= y0 < y1 <= page.image.height, name
        told = taken.to_json()
        for name, quad in told["quads"].items():
            xs, ys = zip(*quad, strict=True)
            assert told["boxes"][name] == [min(xs), min(ys), max(xs), max(ys)]
        qrs = told["beats"]["II_rhythm"][2]["qrs"]
        peak_s = float(MARKS.samples[1, 2, 4]) / 500
        x, _ = taken.to_pixel("II_rhythm", peak_s, 0.5)
        assert qrs[0] - 2 <= x <= qrs[2] + 2


def test_the_json_alone_carries_the_map(page: Page) -> None:
    taken = degrade(page, 4)
    told = json.loads(json.dumps(taken.to_json()))
    origin = told["origins"]["V5"]
    x = origin["x_px"] + (8.5 - origin["start_s"]) * told["px_per_s"]
    y = origin["y_px"] - 0.7 * told["px_per_mv"]
    u, v, w = np.array(told["projection"]) @ (x, y, 1)
    assert (u / w, v / w) == pytest.approx(taken.to_pixel("V5", 8.5, 0.7))


def test_what_was_done_is_stored_in_the_json_and_in_the_picture(page: Page) -> None:
    taken = degrade(page, 9)
    said = taken.to_json()["degraded"]
    assert said["seed"] == 9
    assert said["effects"] == dataclasses.asdict(Effects())
    assert {"sheet", "light", "stains", "pen", "creases", "blur_mm", "versions"} <= set(said)
    with Image.open(io.BytesIO(taken.png())) as picture:
        assert json.loads(picture.info["degraded"]) == said
    with Image.open(io.BytesIO(page.png())) as picture:
        assert "degraded" not in picture.info


def test_bad_seeds_strengths_and_pages_are_told_in_one_line(page: Page) -> None:
    with pytest.raises(BadInput, match=r"seed: got -1, expected"):
        degrade(page, -1)
    for wrong in ({"shadow": 1.5}, {"creases": -1}, {"jpeg": 100}, {"blur_mm": float("nan")}):
        with pytest.raises(BadInput, match=r"got .* expected"):
            Effects(**wrong)
    with pytest.raises(BadInput, match="got a photograph"):
        degrade(degrade(page, 1), 1)


def test_the_command_gives_the_same_bytes_again(tmp_path) -> None:
    def run(out: str, seed: int) -> bytes:
        arguments = ("--out", tmp_path / out, "--degrade", seed, "--dpi", 50)
        command = (sys.executable, "-m", "gem_jax.cli", "render", SAMPLE / "ludb" / "1", *arguments)
        subprocess.run([str(part) for part in command], check=True)
        return (tmp_path / out).read_bytes()

    assert run("a.png", 7) == run("b.png", 7)
    boxes = tmp_path / "c.json"
    assert main(SAMPLE / "ludb" / "1", out=tmp_path / "c.png", dpi=50, degrade=8, boxes=boxes) == 0
    assert (tmp_path / "c.png").read_bytes() != (tmp_path / "a.png").read_bytes()
    assert json.loads(boxes.read_text())["degraded"]["seed"] == 8
    with pytest.raises(BadInput, match="seed"):
        main(SAMPLE / "ludb" / "1", out=tmp_path / "d.png", dpi=50, degrade=-8)
    assert not (tmp_path / "d.png").exists()
