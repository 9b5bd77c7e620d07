"""What is drawn is the record: read off the page it comes back, in every layout and scale."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.layout import LAYOUTS
from data_prep.page import Page
from data_prep.records import LEADS, Record, read
from data_prep.render import render
from data_prep.sample_index import SAMPLE
from reading_back import rmse_mv, trace_of
from synthetic import ecg

MOST_MV = 0.02
RECORDS = {
    "synthetic": lambda: ecg(rate_bpm=77.0)[0],
    "ptbxl": lambda: read(SAMPLE / "ptbxl" / "00002"),
    "ludb": lambda: read(SAMPLE / "ludb" / "1"),
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("which", list(RECORDS))
def test_every_lead_is_read_back_in_every_layout(which: str, layout: str) -> None:
    record = RECORDS[which]()
    page = render(record, layout)
    assert {panel.lead for panel in page.panels.values()} == set(LEADS)
    errors = {name: rmse_mv(page, name, record) for name in page.panels}
    assert max(errors.values()) <= MOST_MV, errors


@pytest.mark.parametrize(("speed", "gain", "dpi"), [(50, 10, 200), (25, 20, 200), (25, 10, 300)])
def test_every_lead_is_read_back_at_other_scales(speed: int, gain: int, dpi: int) -> None:
    record = RECORDS["synthetic"]()
    page = render(record, "3x4+1", speed, gain, dpi)
    assert max(rmse_mv(page, name, record) for name in page.panels) <= MOST_MV


def test_another_patient_is_not_read_back() -> None:
    page = render(RECORDS["ludb"]())
    errors = [rmse_mv(page, name, RECORDS["ptbxl"]()) for name in page.panels]
    assert min(errors) > 3 * MOST_MV


@pytest.mark.parametrize(("field", "shift"), [("x_px", 8.0), ("y_px", 4.0)])
def test_a_shifted_map_does_not_read_the_record(field: str, shift: float) -> None:
    record = RECORDS["ludb"]()
    page = render(record)
    moved = {
        name: dataclasses.replace(panel, **{field: getattr(panel, field) + shift})
        for name, panel in page.panels.items()
    }
    wrong = dataclasses.replace(page, panels=moved)
    assert max(rmse_mv(page, name, record) for name in page.panels) <= MOST_MV
    assert max(rmse_mv(wrong, name, record) for name in page.panels) > 2 * MOST_MV


def shift_px(page: Page, name: str, record: Record) -> float:
    """By how many pixels the drawn trace lies to the right of where the map has it."""
    time_s, read_mv = trace_of(page, name)
    signal_mv = record.signal_mv[record.leads.index(page.panels[name].lead)]
    at_s = np.arange(signal_mv.size) / record.sampling_rate_hz
    shifts = np.arange(-5, 5.01, 0.25)
    errors = [
        np.nanmean((np.interp(time_s - s / page.px_per_s, at_s, signal_mv) - read_mv) ** 2)
        for s in shifts
    ]
    return float(shifts[int(np.argmin(errors))])


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_box_and_time_axis_lie_within_a_pixel_of_the_ink(layout: str) -> None:
    record = RECORDS["ptbxl"]()
    page = render(record, layout)
    for name, (x0, _, x1, _) in page.boxes.items():
        _, read_mv = trace_of(page, name)
        inked = np.flatnonzero(np.isfinite(read_mv)) + int(np.ceil(x0))
        assert abs(inked[0] - x0) <= 1, name
        # The last sample lies one before the end of ten seconds.
        assert abs(inked[-1] - x1) <= 1 + page.px_per_s / record.sampling_rate_hz, name
        assert abs(shift_px(page, name, record)) <= 0.5, name
    late = dataclasses.replace(page, panels={n: shifted(p) for n, p in page.panels.items()})
    assert all(abs(shift_px(late, name, record)) > 1 for name in late.panels)


def shifted(panel):
    return dataclasses.replace(panel, x_px=panel.x_px + 3.0)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from([*LEADS, "II_rhythm"]),
    share=st.tuples(st.floats(0.001, 0.999), st.floats(0.001, 0.999)),
    layout=st.sampled_from(["3x4+1", "3x4+3"]),
    speed=st.sampled_from([25, 50]),
    gain=st.sampled_from([5, 10, 20]),
    dpi=st.integers(25, 90),
)
def test_the_map_goes_both_ways(name, share, layout, speed, gain, dpi) -> None:
    page = render(ecg(duration_s=10.0)[0], layout, speed, gain, dpi)
    x0, y0, x1, y1 = page.boxes[name]
    x, y = x0 + share[0] * (x1 - x0), y0 + share[1] * (y1 - y0)
    found, time_s, value_mv = page.from_pixel(x, y)
    assert found == name
    assert page.panels[name].start_s <= time_s < page.panels[name].start_s + 10.0
    assert page.to_pixel(found, time_s, value_mv) == pytest.approx((x, y), abs=1e-6)
