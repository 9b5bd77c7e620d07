"""Each heartbeat and wave has its box where it is drawn, and its colour if it is to be seen."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from data_prep.page import Page
from data_prep.records import LEADS
from data_prep.render import main, render
from data_prep.wave_boxes import COLOURS, WAVES
from data_prep.waves import Waves, no_waves
from synthetic import ecg

RECORD, MARKS = ecg(rate_bpm=77.0)


def changed(where: tuple, value: float) -> Waves:
    samples = MARKS.samples.copy()
    samples[where] = value
    return dataclasses.replace(MARKS, samples=samples)


def dark(page: Page) -> np.ndarray:
    """Where ink is (H, W), the words left out."""
    level = np.asarray(page.image.convert("L")).copy()
    for x0, y0, x1, y1 in page.labels.values():
        level[round(y0) : round(y1) + 1, round(x0) : round(x1) + 1] = 255
    return level < 110


@pytest.mark.parametrize("layout", ["3x4+1", "12x1"])
def test_a_wave_s_box_goes_from_onset_to_offset_and_around_its_ink(layout: str) -> None:
    page = render(RECORD, layout, waves=MARKS)
    ink = dark(page)
    seen = 0
    for name, beats in page.beats.items():
        panel = page.panels[name]
        for beat in beats:
            marks_s = MARKS.samples[LEADS.index(panel.lead), beat.number] / 500.0
            for wave, (x0, y0, x1, y1) in beat.waves.items():
                ends_s = np.clip(marks_s[WAVES[wave]][[0, 2]], panel.start_s, panel.end_s)
                wanted, _ = page.to_pixel(name, ends_s, 0.0 * ends_s)
                assert (x0, x1) == pytest.approx(tuple(wanted), abs=0.01)
                columns = ink[
                    round(panel.box[1]) : round(panel.box[3]), round(x0) + 1 : round(x1) - 1
                ]
                rows = np.flatnonzero(columns.any(axis=1)) + round(panel.box[1])
                if rows.size:
                    assert y0 - 1 <= rows[0]
                    assert rows[-1] <= y1 + 1
                    seen += 1
    assert seen > 120


def test_a_beat_s_box_holds_its_waves_and_has_one_number_in_all_leads() -> None:
    page = render(RECORD, waves=MARKS)
    assert {beat.number for beat in page.beats["II_rhythm"]} == set(range(MARKS.num_beats))
    first_s = {}
    for name, beats in page.beats.items():
        for beat in beats:
            x0, y0, x1, y1 = zip(*beat.waves.values(), strict=True)
            assert beat.box == (min(x0), min(y0), max(x1), max(y1))
            if "qrs" in beat.waves:
                box = beat.waves["qrs"]
                _, time_s, _ = page.from_pixel(sum(box[::2]) / 2, sum(box[1::2]) / 2)
                assert page.panels[name].start_s <= time_s
                # A QRS that its panel cuts is seen in part only.
                assert abs(time_s - first_s.setdefault(beat.number, time_s)) < 0.05


def test_a_box_of_another_beat_does_not_hold_the_qrs() -> None:
    page = render(RECORD, waves=MARKS)
    beats = page.beats["II_rhythm"]
    ink = dark(page)

    def height(box: tuple) -> int:
        x0, y0, x1, y1 = (round(edge) for edge in box)
        return int(ink[y0 : y1 + 1, x0 : x1 + 1].any(axis=1).sum())

    true = [height(beat.waves["qrs"]) for beat in beats]
    between = [height(np.array(beat.waves["qrs"]) + np.array([70, 0, 70, 0])) for beat in beats]
    assert min(true) > 3 * max(between)


def test_what_was_not_found_has_no_box() -> None:
    assert render(RECORD, dpi=40).beats == {}
    assert set(render(RECORD, dpi=40, waves=no_waves(LEADS, 500.0)).beats["V1"]) == set()
    no_p = render(RECORD, dpi=40, waves=ecg(rate_bpm=77.0, with_p=False)[1])
    assert all("p" not in beat.waves for beats in no_p.beats.values() for beat in beats)
    assert all("qrs" in beat.waves for beat in no_p.beats["II_rhythm"])
    dead = render(RECORD, dpi=40, waves=changed((LEADS.index("V3"),), np.nan))
    assert dead.beats["V3"] == ()
    assert dead.beats["V2"] != ()
    missing = dataclasses.replace(MARKS, leads=LEADS[:11], samples=MARKS.samples[:11])
    assert render(RECORD, dpi=40, waves=missing).beats["V6"] == ()


def test_a_mark_that_is_missing_leaves_the_wave_what_is_known() -> None:
    two = LEADS.index("II")
    page = render(RECORD, waves=changed((two, 3, 8), np.nan))
    box = page.beats["II_rhythm"][3].waves["t"]
    peak, _ = page.to_pixel("II_rhythm", float(MARKS.samples[two, 3, 7]) / 500, 0.0)
    assert box[2] == pytest.approx(peak, abs=0.01)
    alone = render(RECORD, waves=changed((two, 3, [6, 8]), np.nan))
    x0, _, x1, _ = alone.beats["II_rhythm"][3].waves["t"]
    assert x0 == x1 == pytest.approx(peak, abs=0.01)


def test_waves_in_a_gap_are_not_seen() -> None:
    signal_mv = RECORD.signal_mv.copy()
    onset, offset = MARKS.samples[1, 4, [3, 5]].astype(int)
    signal_mv[1, onset - 20 : offset + 20] = np.nan
    page = render(dataclasses.replace(RECORD, signal_mv=signal_mv), waves=MARKS)
    assert "qrs" not in page.beats["II_rhythm"][4].waves
    assert "qrs" in page.beats["II_rhythm"][5].waves


def coloured(page: Page, wave: str) -> np.ndarray:
    distance = np.asarray(page.image).astype(int) - np.array(COLOURS[wave])
    return np.abs(distance).sum(axis=2) < 40


def test_marks_are_drawn_in_their_colours_and_nothing_else_changes() -> None:
    plain, marked = (render(RECORD, waves=MARKS, marks=marks) for marks in (False, True))
    assert marked.boxes == plain.boxes
    assert marked.beats == plain.beats
    for wave in WAVES:
        assert coloured(plain, wave).sum() < 50
        box = marked.beats["II_rhythm"][2].waves[wave]
        x0, y0, x1, y1 = (round(edge) for edge in box)
        assert coloured(marked, wave)[y0 - 9 : y1 + 9, x0 - 1 : x1 + 2].sum() > 20
        others = [other for other in WAVES if other != wave]
        assert coloured(marked, others[0])[y0:y1, x0 + 2 : x1 - 2].sum() == 0


def test_marks_without_waves_are_refused() -> None:
    with pytest.raises(ValueError, match="expected the waves"):
        render(RECORD, dpi=60, marks=True)
    nothing = render(RECORD, dpi=60, waves=no_waves(LEADS, 500.0), marks=True)
    assert not any(coloured(nothing, wave)[40:].any() for wave in WAVES)


def test_the_verb_writes_the_boxes_of_beats_and_waves(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("data_prep.render.read", lambda path, reading=None: RECORD)
    boxes = tmp_path / "boxes.json"
    assert main(tmp_path / "r", out=tmp_path / "p.png", dpi=50, boxes=boxes, marks=True) == 0
    told = json.loads(boxes.read_text())
    assert set(told["beats"]) == set(told["boxes"]) == set(told["quads"]) == set(told["origins"])
    beat = told["beats"]["II_rhythm"][5]
    assert set(beat) == {"beat", "box", "p", "qrs", "t"}
    assert beat["box"][0] <= beat["qrs"][0] < beat["qrs"][2] <= beat["box"][2]
    assert told["projection"] == np.eye(3).tolist()
    assert told["degraded"] is None
