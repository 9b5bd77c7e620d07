"""The drawn ECG page and its map between pixels and (lead, time, voltage).

Pixel coordinates are indices: an integer is the centre of a pixel.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Panel:
    """Where one lead is drawn: its box, its stretch of time, and the pixel of (start_s, 0 mV)."""

    lead: str
    box: Box
    start_s: float
    end_s: float
    x_px: float
    y_px: float


@dataclass(frozen=True)
class Page:
    """A drawn ECG.

    Attributes:
        image: The page, RGB.
        panels: One entry a lead, and one named like `II_rhythm` for each rhythm strip.
        layout: Name of the layout, such as `3x4+1`.
        cut: Names of the panels whose trace was cut at the edge of its row.
    """

    image: Image.Image
    panels: Mapping[str, Panel]
    px_per_mm: float
    speed_mm_per_s: float
    gain_mm_per_mv: float
    layout: str
    cut: tuple[str, ...] = ()

    @property
    def boxes(self) -> dict[str, Box]:
        """Pixel box (x0, y0, x1, y1) of each panel."""
        return {name: panel.box for name, panel in self.panels.items()}

    @property
    def px_per_s(self) -> float:
        """Pixels a second, to the right."""
        return self.speed_mm_per_s * self.px_per_mm

    @property
    def px_per_mv(self) -> float:
        """Pixels a millivolt, upwards."""
        return self.gain_mm_per_mv * self.px_per_mm

    def to_pixel(self, name: str, time_s: float, value_mv: float) -> tuple[float, float]:
        """Pixel (x, y) at which panel `name` shows `value_mv` at `time_s` of the record."""
        panel = self.panels[name]
        x = panel.x_px + (time_s - panel.start_s) * self.px_per_s
        return x, panel.y_px - value_mv * self.px_per_mv

    def from_pixel(self, x: float, y: float) -> tuple[str, float, float]:
        """Panel name, time in s and voltage in mV at a pixel.

        Raises:
            ValueError: the pixel lies in no panel.
        """
        for name, panel in self.panels.items():
            x0, y0, x1, y1 = panel.box
            if x0 <= x < x1 and y0 <= y < y1:
                time_s = panel.start_s + (x - panel.x_px) / self.px_per_s
                return name, time_s, (panel.y_px - y) / self.px_per_mv
        raise ValueError(f"pixel ({x:g}, {y:g}): expected a place inside a lead, see Page.boxes")

    def png(self) -> bytes:
        """The image as a PNG file; the same page always gives the same bytes."""
        buffer = io.BytesIO()
        dpi = self.px_per_mm * 25.4
        self.image.save(buffer, "PNG", dpi=(dpi, dpi))
        return buffer.getvalue()

    def to_json(self) -> dict[str, Any]:
        """The map as plain values: x = x_px + (t - start_s) px_per_s, y = y_px - mV px_per_mv."""
        return {
            "layout": self.layout,
            "width": self.image.width,
            "height": self.image.height,
            "speed_mm_per_s": self.speed_mm_per_s,
            "gain_mm_per_mv": self.gain_mm_per_mv,
            "px_per_mm": self.px_per_mm,
            "px_per_s": self.px_per_s,
            "px_per_mv": self.px_per_mv,
            "boxes": {name: list(box) for name, box in self.boxes.items()},
            "origins": {
                name: {"start_s": p.start_s, "end_s": p.end_s, "x_px": p.x_px, "y_px": p.y_px}
                for name, p in self.panels.items()
            },
            "cut": list(self.cut),
        }
