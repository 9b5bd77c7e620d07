"""What users of other ECG plotters ran into: scale, missing leads, odd records, names and seeds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import wfdb_records
from data_prep.corpus import Item
from data_prep.page import Page
from data_prep.paper import ALARM, GRID_1MM, GRID_5MM, INK
from data_prep.prep import render as pages_of
from data_prep.records import LEADS, BadInput, Record
from data_prep.render import main, render
from reading_back import rmse_mv, trace_of
from synthetic import ecg

MM_PER_INCH = 25.4


def near(page: Page, colour: tuple[int, int, int], most: int = 60) -> np.ndarray:
    """Pixels (H, W) about as coloured as that."""
    distance = np.asarray(page.image).astype(int) - np.array(colour)
    return np.abs(distance).sum(axis=2) <= most


def pulse_px(page: Page, row_of: str = "I") -> tuple[float, float]:
    """Height and width of a row's calibration pulse, between the middles of its lines."""
    left, top, _, bottom = (round(edge) for edge in page.boxes[row_of])
    start = round(3 * page.px_per_mm)
    level = np.asarray(page.image.convert("L"))[top:bottom, start : left - 1].astype(float)
    ink = np.where(level < 140, 255 - level, 0)
    across, down = ink.sum(axis=0), ink.sum(axis=1)
    tall = across > 0.7 * across.max()
    flanks = np.flatnonzero(tall)
    middle = (flanks[0] + flanks[-1]) // 2
    runs = [
        np.average(part, weights=across[part])
        for part in (
            np.flatnonzero(tall & (np.arange(tall.size) < middle)),
            np.flatnonzero(tall & (np.arange(tall.size) > middle)),
        )
    ]
    rows = np.arange(down.size)
    column = ink[:, middle]
    roof = np.average(rows, weights=column)
    side = ink[:, : flanks[0] - 2]
    foot = np.average(rows, weights=side.sum(axis=1))
    return foot - roof, runs[1] - runs[0]


class TestP02Scale:
    @pytest.mark.parametrize("gain", [5, 10, 20])
    @pytest.mark.parametrize("dpi", [100, 150, 200, 300])
    def test_the_pulse_is_one_millivolt_high_and_five_millimetres_wide(self, gain, dpi) -> None:
        height, width = pulse_px(render(ecg()[0], gain_mm_per_mv=gain, dpi=dpi))
        assert height == pytest.approx(gain * dpi / MM_PER_INCH, abs=1)
        assert width == pytest.approx(5 * dpi / MM_PER_INCH, abs=1)

    def test_at_200_dpi_it_is_78_7_pixels_and_half_of_it_at_half_the_gain(self) -> None:
        full, half = (pulse_px(render(ecg()[0], gain_mm_per_mv=g))[0] for g in (10, 5))
        assert full == pytest.approx(78.7, abs=1)
        assert half == pytest.approx(78.7 / 2, abs=1)
        assert abs(full - half) > 30

    @pytest.mark.parametrize("dpi", [100, 167, 200, 300])
    def test_grid_lines_lie_every_one_and_five_millimetres(self, dpi) -> None:
        page = render(ecg()[0], dpi=dpi)
        px_per_mm = dpi / MM_PER_INCH
        for colour, step_mm in ((GRID_5MM, 5), (GRID_1MM, 1)):
            exact = near(page, colour, 0)
            top = round(page.boxes["I"][1])
            for share in (exact[top + 3 : top + 40].mean(axis=0), exact[:, 100:400].mean(axis=1)):
                where = np.flatnonzero(share > 0.5)
                if step_mm == 1:  # every fifth is hidden by the stronger line
                    assert np.median(np.diff(starts(where))) == pytest.approx(px_per_mm, abs=1)
                    continue
                begins = starts(where)
                wanted = begins[0] + np.arange(begins.size) * step_mm * px_per_mm
                assert begins.size > 20
                assert np.abs(begins - wanted).max() <= 1

    @settings(max_examples=15, deadline=None)
    @given(dpi=st.integers(40, 260), speed=st.sampled_from([25, 50]))
    def test_a_second_is_as_wide_as_the_speed_says_at_any_dpi(self, dpi, speed) -> None:
        page = render(ecg()[0], speed_mm_per_s=speed, dpi=dpi)
        assert page.px_per_s == pytest.approx(speed * dpi / MM_PER_INCH)
        x0, _, x1, _ = page.boxes["II_rhythm"]
        assert x1 - x0 == pytest.approx(10 * speed * dpi / MM_PER_INCH)
        time_s, read_mv = trace_of(page, "II_rhythm")
        inked = time_s[np.isfinite(read_mv)]
        assert inked[0] * page.px_per_s <= 1
        assert (9.998 - inked[-1]) * page.px_per_s <= 1

    def test_a_page_too_large_for_memory_is_refused_before_it_is_drawn(self) -> None:
        with pytest.raises(BadInput, match=r"dpi: got 600, .* million pixels, expected") as error:
            render(ecg()[0], "12x1", 50, 20, 600)
        assert "\n" not in str(error.value)


def starts(where: np.ndarray) -> np.ndarray:
    """The first of each run of neighbours."""
    return where[np.insert(np.diff(where) > 1, 0, True)]


def changed(lead: str, signal_mv: np.ndarray) -> Record:
    record = ecg()[0]
    signals = record.signal_mv.copy()
    signals[LEADS.index(lead)] = signal_mv
    return dataclasses.replace(record, signal_mv=signals)


def without(lead: str) -> Record:
    record = ecg()[0]
    kept = [i for i, name in enumerate(record.leads) if name != lead]
    leads = tuple(record.leads[i] for i in kept)
    return dataclasses.replace(record, leads=leads, signal_mv=record.signal_mv[kept])


def inside(page: Page, name: str, pixels: np.ndarray) -> int:
    x0, y0, x1, y1 = (round(edge) for edge in page.boxes[name])
    return int(pixels[y0:y1, x0:x1].sum())


class TestP03WhatIsMissingOrTooTall:
    @pytest.mark.parametrize("layout", ["3x4+1", "6x2", "12x1", "3x4+3"])
    def test_the_place_of_a_missing_lead_says_so(self, layout) -> None:
        page = render(without("V1"), layout)
        alarm = near(page, ALARM)
        for name, panel in page.panels.items():
            assert (inside(page, name, alarm) > 100) == (panel.lead == "V1"), name
        _, read_mv = trace_of(page, "V1")
        assert np.isnan(read_mv).all()

    def test_half_a_second_of_nan_is_a_gap_of_half_a_second(self) -> None:
        signal_mv = ecg()[0].signal_mv[1].copy()
        signal_mv[3100:3350] = np.nan
        record = changed("II", signal_mv)
        page = render(record)
        time_s, read_mv = trace_of(page, "II_rhythm")
        empty = time_s[np.isnan(read_mv)]
        px_s = 1 / page.px_per_s
        assert empty[0] == pytest.approx(6.2, abs=2 * px_s)
        assert empty[-1] == pytest.approx(6.7, abs=2 * px_s)
        assert empty.size == pytest.approx(0.5 * page.px_per_s, abs=3)
        whole = trace_of(render(ecg()[0]), "II_rhythm")[1]
        assert np.isfinite(whole[np.isnan(read_mv)]).all()

    def test_a_single_sample_between_gaps_is_a_dot(self) -> None:
        signal_mv = np.full(5000, np.nan, np.float32)
        signal_mv[[0, 2500, 4000]] = 0.0
        page = render(changed("II", signal_mv))
        time_s, read_mv = trace_of(page, "II_rhythm")
        at_s = time_s[np.isfinite(read_mv)]
        assert [round(float(t)) for t in at_s[[0, -1]]] == [0, 8]
        assert np.abs(at_s[:, None] - np.array([0.0, 5.0, 8.0])).min(axis=1).max() < 0.02

    def test_six_millivolts_are_drawn_whole_and_touch_no_other_lead(self) -> None:
        plain = ecg()[0].signal_mv[7]
        tall = changed("V2", plain * (6 / np.abs(plain).max()))
        page = render(tall)
        assert page.cut == ()
        assert rmse_mv(page, "V2", tall) < 0.05
        for name in ("V1", "V3", "V5"):
            assert rmse_mv(page, name, tall) <= 0.02, name

    @pytest.mark.parametrize("sign", [1, -1])
    def test_what_is_cut_is_marked_at_every_complex_and_named(self, sign) -> None:
        plain = ecg()[0].signal_mv[7]
        page = render(changed("V2", sign * 40 * plain))
        assert "V2" in page.cut
        assert near(page, ALARM)[: round(page.boxes["I"][1])].sum() > 200
        x0, y0, x1, y1 = (round(edge) for edge in page.boxes["V2"])
        for edge in (slice(y0, y0 + 24), slice(y1 - 24, y1)):  # both R and S are too tall
            arrows = near(page, INK)[edge, x0:x1].sum(axis=0) > 8
            assert len(starts(np.flatnonzero(arrows))) >= 3
        for name in ("V1", "V3"):
            box = page.boxes[name]
            assert not page.boxes["V2"][1] < box[1] < page.boxes["V2"][3] - 1


class TestP04ShortAndOddRecords:
    @pytest.mark.parametrize(
        ("duration_s", "rate_hz"), [(9.9, 500.0), (10.0, 257.3), (3.3, 100.0), (0.4, 1000.0)]
    )
    def test_there_is_a_page_of_the_true_length(self, duration_s, rate_hz) -> None:
        record = ecg(duration_s=max(duration_s, 2.0), rate_hz=rate_hz)[0]
        cut_mv = record.signal_mv[:, : round(duration_s * rate_hz)]
        record = dataclasses.replace(record, signal_mv=cut_mv)
        page = render(record)
        assert page.image.size == (2200, 1700)
        end_s = record.duration_s
        assert page.panels["II_rhythm"].end_s == pytest.approx(end_s)
        time_s, read_mv = trace_of(page, "II_rhythm")
        last_s = time_s[np.isfinite(read_mv)][-1]
        assert abs(last_s - (end_s - 1 / rate_hz)) * page.px_per_s <= 1.5
        assert rmse_mv(page, "II_rhythm", record) <= 0.02
        assert all(np.isfinite(trace_of(page, lead)[1]).any() for lead in LEADS)

    def test_a_long_record_shows_its_first_ten_seconds(self) -> None:
        record = ecg(duration_s=31.0, jitter_ms=80.0)[0]
        page = render(record)
        assert page.panels["II_rhythm"].end_s == 10.0
        assert rmse_mv(page, "II_rhythm", record) <= 0.02
        later = dataclasses.replace(record, signal_mv=record.signal_mv[:, 5000:])
        assert rmse_mv(page, "II_rhythm", later) > 0.1

    def test_one_sample_is_a_page_too(self) -> None:
        page = render(Record("one", LEADS, np.zeros((12, 1), np.float32), 500.0))
        assert page.panels["V6"].end_s == pytest.approx(0.002)
        assert render(Record("one", LEADS, np.full((12, 1), np.nan, np.float32), 500.0)).cut == ()


def write_record(stem: Path, gain: float) -> None:
    """Writes a small record, whose header's name may have dots."""
    data = stem.with_name(stem.name.replace(".", "_"))
    wfdb_records.write(data, wfdb_records.samples(), gain=f"{1000 / gain:g}(0)/mV")
    data.with_suffix(".hea").rename(f"{stem}.hea")


class TestP06NamesAndSeeds:
    def test_names_with_dots_do_not_clash(self, tmp_path) -> None:
        items = []
        for name, gain in (("a.b", 1.0), ("a.c", 2.0)):
            write_record(tmp_path / name, gain)
            out = tmp_path / "pages" / f"{name}.png"
            assert main(tmp_path / name, out=out, dpi=40, boxes=out.with_suffix(".json")) == 0
            items.append(Item(name, tmp_path / name, name, "train", False))
        assert pages_of(items, tmp_path) == {n: f"images/{n}.png" for n in ("a.b", "a.c")}
        assert len({file.read_bytes() for file in (tmp_path / "images").iterdir()}) == 2
        made = sorted(path.name for path in (tmp_path / "pages").iterdir())
        assert made == ["a.b.json", "a.b.png", "a.c.json", "a.c.png"]
        pages = [(tmp_path / "pages" / name).read_bytes() for name in ("a.b.png", "a.c.png")]
        assert pages[0] != pages[1]

    def test_seed_in_same_bytes_out_and_the_parameters_lie_beside_them(self, tmp_path) -> None:
        write_record(tmp_path / "r", 1.0)
        told = {}
        for name, seed in (("one", 5), ("two", 5), ("three", 6)):
            out, boxes = tmp_path / f"{name}.png", tmp_path / f"{name}.json"
            np.random.seed(len(name))  # somebody else's generator has no say
            assert main(tmp_path / "r", out=out, dpi=40, boxes=boxes, degrade=seed) == 0
            told[name] = (out.read_bytes(), boxes.read_text())
        assert told["one"] == told["two"] != told["three"]
        said = json.loads(told["three"][1])["degraded"]
        assert said["seed"] == 6
        assert said["sheet"]["turn_deg"] != 0

    def test_plain_and_degraded_pages_are_told_apart(self, tmp_path) -> None:
        write_record(tmp_path / "r", 1.0)
        main(tmp_path / "r", out=tmp_path / "plain.png", dpi=40)
        main(tmp_path / "r", out=tmp_path / "photo.png", dpi=40, degrade=1)
        for name, degraded in (("plain", False), ("photo", True)):
            with Image.open(tmp_path / f"{name}.png") as picture:
                assert ("degraded" in picture.info) == degraded
