"""The page is to scale, its map finds the ink, and what it cannot show it says."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from data_prep.layout import LAYOUTS
from data_prep.page import Page
from data_prep.records import LEADS, BadInput, Record
from data_prep.render import main, render

RATE_HZ = 500.0


def beats(seconds: float = 10.0, peak_mv: float = 1.0) -> Record:
    """Twelve leads with a triangular beat a second; lead k is k tenths taller than lead 0."""
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    beat = np.clip(1 - np.abs((time_s % 1.0) - 0.5) / 0.04, 0, None)
    height = peak_mv * (1 + np.arange(12) / 10)
    return Record("r", LEADS, (height[:, None] * beat).astype(np.float32), RATE_HZ)


def with_lead(record: Record, lead: str, signal_mv: np.ndarray) -> Record:
    signals = record.signal_mv.copy()
    signals[record.leads.index(lead)] = signal_mv
    return replace(record, signal_mv=signals)


def ink(page: Page, name: str) -> np.ndarray:
    """Dark pixels (H, W) inside a panel, without the letters of its name."""
    dark = np.asarray(page.image.convert("L")) < 110
    inside = np.zeros_like(dark)
    x0, y0, x1, y1 = (round(edge) for edge in page.boxes[name])
    inside[y0:y1, x0:x1] = True
    return dark & inside


def column(page: Page, name: str, time_s: float) -> np.ndarray:
    x, _ = page.to_pixel(name, time_s, 0.0)
    return np.flatnonzero(ink(page, name)[:, round(x)])


def test_size_and_scale_at_200_dpi() -> None:
    page = render(beats())
    assert page.image.size == (2200, 1700)
    assert page.px_per_mv == pytest.approx(78.74, abs=0.01)
    assert page.px_per_s == pytest.approx(196.85, abs=0.01)


@pytest.mark.parametrize("gain", [5, 10, 20])
def test_a_step_of_one_millivolt_is_as_high_as_the_gain_says(gain: int) -> None:
    time_s = np.arange(5000) / RATE_HZ
    page = render(
        with_lead(beats(), "II", (time_s % 2 >= 1).astype(np.float32)), gain_mm_per_mv=gain
    )
    low, high = (column(page, "II_rhythm", t).mean() for t in (4.5, 5.5))
    assert low - high == pytest.approx(gain / 10 * 78.74, abs=1)


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_every_peak_is_drawn_where_the_map_says(layout: str) -> None:
    record = beats()
    page = render(record, layout)
    assert set(page.boxes) >= set(LEADS)
    for name, panel in page.panels.items():
        peak_mv = float(record.signal_mv[record.leads.index(panel.lead)].max())
        time_s = float(np.floor(panel.start_s)) + 1.5
        x, y = page.to_pixel(name, time_s, peak_mv)
        top = column(page, name, time_s).min()
        assert abs(top - y) <= 3, name  # the tip of a thick line
        found, time_back_s, value_mv = page.from_pixel(float(round(x)), float(round(y)))
        assert found == name
        assert abs(time_back_s - time_s) * page.px_per_s <= 0.51
        assert abs(value_mv - peak_mv) * page.px_per_mv <= 0.51


def test_boxes_do_not_overlap_and_lie_on_the_page() -> None:
    for layout in LAYOUTS:
        page = render(beats(peak_mv=3.0), layout, dpi=60)
        taken = np.zeros((page.image.height, page.image.width), int)
        for x0, y0, x1, y1 in page.boxes.values():
            assert 0 <= x0 < x1 <= page.image.width
            assert 0 <= y0 < y1 <= page.image.height
            taken[round(y0) + 1 : round(y1) - 1, round(x0) + 1 : round(x1) - 1] += 1
        assert taken.max() == 1


def test_outside_all_leads_the_map_refuses() -> None:
    with pytest.raises(ValueError, match="inside a lead"):
        render(beats(), dpi=40).from_pixel(0.0, 0.0)


def test_double_speed_doubles_the_width_of_a_second() -> None:
    page = render(beats(), speed_mm_per_s=50)
    assert page.px_per_s == pytest.approx(2 * render(beats()).px_per_s)
    assert page.image.width > 2 * 0.9 * 2200


def test_missing_samples_are_a_gap_and_known_ones_are_not() -> None:
    signal_mv = beats().signal_mv[1].copy()
    signal_mv[2000:2500] = np.nan
    page = render(with_lead(beats(), "II", signal_mv))
    assert column(page, "II_rhythm", 4.25).size == 0
    assert column(page, "II_rhythm", 3.25).size > 0
    assert column(page, "II_rhythm", 5.25).size > 0


def without(record: Record, lead: str) -> Record:
    kept = [i for i, name in enumerate(record.leads) if name != lead]
    leads = tuple(record.leads[i] for i in kept)
    return replace(record, leads=leads, signal_mv=record.signal_mv[kept])


def red(page: Page, name: str) -> int:
    x0, y0, x1, y1 = (round(edge) for edge in page.boxes[name])
    pixels = np.asarray(page.image)[y0:y1, x0:x1].astype(int)
    return int(((pixels[..., 0] - pixels[..., 1] > 120) & (pixels[..., 0] < 200)).sum())


def test_a_missing_lead_says_so_at_its_place() -> None:
    page = render(without(beats(), "V3"))
    assert red(page, "V3") > 50
    assert red(page, "V2") == 0
    empty = render(with_lead(beats(), "V3", np.full(5000, np.nan, np.float32)))
    assert red(empty, "V3") > 50
    assert column(empty, "V3", 7.0).size == 0


def test_a_tall_lead_gets_room_and_leaves_its_neighbours_alone() -> None:
    tall = with_lead(beats(), "V2", 5 * beats().signal_mv[7])
    page = render(tall)
    assert page.cut == ()
    assert (
        abs(
            column(page, "V2", 6.5).min()
            - page.to_pixel("V2", 6.5, float(tall.signal_mv[7].max()))[1]
        )
        < 4
    )
    assert page.image.size == render(beats()).image.size


def test_what_does_not_fit_is_cut_at_the_edge_and_named() -> None:
    signal_mv = beats().signal_mv[7].copy()
    signal_mv[3250] = 60.0
    page = render(with_lead(beats(), "V2", signal_mv))
    assert page.cut == ("V2",)
    header = np.asarray(page.image)[: round(page.boxes["V1"][1])].astype(int)
    assert ((header[..., 0] - header[..., 1] > 120) & (header[..., 0] < 200)).any()
    assert column(page, "V1", 6.25).size < 10  # no line from the row below


def test_a_short_record_is_drawn_at_its_length_in_every_lead() -> None:
    page = render(beats(3.0))
    assert page.panels["V4"].start_s == pytest.approx(0.5)
    assert page.panels["II_rhythm"].end_s == pytest.approx(3.0)
    assert column(page, "II_rhythm", 2.9).size > 0
    assert column(page, "II_rhythm", 3.2).size == 0
    assert column(page, "V6", 2.5).size > 0
    assert render(beats(1.0)).panels["V6"].end_s == pytest.approx(1.0)


def test_a_long_record_shows_its_first_ten_seconds_and_says_so() -> None:
    long, ten = render(beats(60.0)), render(beats())
    assert long.panels["V6"].end_s == pytest.approx(10.0)
    edge = round(ten.boxes["I"][1]) - 2
    end = round(ten.boxes["V6"][2]) - 3
    same = np.asarray(long.image)[edge:, :end] == np.asarray(ten.image)[edge:, :end]
    assert same.all()
    assert (np.asarray(long.image)[:edge] != np.asarray(ten.image)[:edge]).any()


def test_the_name_of_the_record_is_not_on_the_page() -> None:
    assert render(replace(beats(), name="Jane Doe")).png() == render(beats()).png()


def test_an_offset_moves_the_map_and_not_the_trace() -> None:
    plain, lifted = render(beats()), render(replace(beats(), signal_mv=beats().signal_mv + 5))
    assert plain.boxes["V6"] == pytest.approx(lifted.boxes["V6"], abs=0.01)
    assert lifted.to_pixel("V1", 6.0, 5.0) == pytest.approx(
        plain.to_pixel("V1", 6.0, 0.0), abs=0.01
    )


def test_the_same_record_gives_the_same_bytes_and_another_does_not() -> None:
    assert render(beats(), dpi=60).png() == render(beats(), dpi=60).png()
    assert render(beats(), dpi=60).png() != render(beats(peak_mv=1.1), dpi=60).png()


def test_bad_arguments_are_told_in_one_line() -> None:
    for wrong in ({"layout": "4x4"}, {"gain_mm_per_mv": 0}, {"dpi": 5}, {"speed_mm_per_s": -1}):
        with pytest.raises(BadInput, match=r"got .* expected") as error:
            render(beats(), **wrong)
        assert "\n" not in str(error.value)


def test_the_verb_writes_page_and_boxes(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("data_prep.render.read", lambda path, reading: beats())
    out, boxes = tmp_path / "new" / "page.png", tmp_path / "boxes.json"
    assert main(tmp_path / "r", out=out, layout="6x2", dpi=50, boxes=boxes) == 0
    assert out.read_bytes() == render(beats(), "6x2", dpi=50).png()
    told = json.loads(boxes.read_text())
    assert set(told["boxes"]) == set(LEADS)
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["boxes.json", "page.png"]
    with pytest.raises(BadInput, match="expected"):
        main(tmp_path / "r", out=boxes / "page.png", dpi=50)


@pytest.mark.parametrize("gain", [5, 10, 20])
def test_the_calibration_pulse_is_one_millivolt_high(gain: int) -> None:
    page = render(beats(), gain_mm_per_mv=gain)
    left, top, _, bottom = (round(edge) for edge in page.boxes["I"])
    dark = np.asarray(page.image.convert("L"))[top:bottom, : left - 10] < 110
    rows = np.flatnonzero(dark.any(axis=1))
    line = dark[:, dark.any(axis=0).argmax() + 3].sum()
    assert rows[-1] - rows[0] + 1 - line == pytest.approx(gain / 10 * 78.74, abs=2)


def test_a_page_is_a_png_by_its_name_too(tmp_path) -> None:
    with pytest.raises(BadInput, match=r"ends in \.png"):
        main(tmp_path / "r", out=tmp_path / "page.jpg")
    assert not list(tmp_path.iterdir())
