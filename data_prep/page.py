"""The drawn ECG page and its map between pixels and (lead, time, voltage).

Pixel coordinates are indices: an integer is the centre of a pixel. Boxes and origins count on the
flat page, as it was drawn; a photograph of it adds a projection from there to its own pixels.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float
from PIL import Image
from PIL.PngImagePlugin import PngInfo

Box = tuple[float, float, float, float]
Place = TypeVar("Place", float, np.ndarray)  # one coordinate, or many


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
class Beat:
    """One heartbeat in one panel, as far as it is seen there.

    Attributes:
        number: Of the heartbeat, from 0: the same in every lead, and as `measure` counts.
        box: Around all its waves.
        waves: Box of each of `p`, `qrs`, `t` that is there: from onset to offset, around the ink.
    """

    number: int
    box: Box
    waves: Mapping[str, Box]


@dataclass(frozen=True)
class Page:
    """A drawn ECG.

    Attributes:
        image: The page, RGB.
        panels: One entry a lead, and one named like `II_rhythm` for each rhythm strip.
        layout: Name of the layout, such as `3x4+1`.
        cut: Names of the panels whose trace was cut at the edge of its row.
        labels: For each panel the box of the words in it, where there are any.
        beats: For each panel its heartbeats, where the waves were given.
        projection: Homography from the flat page's pixels to the image's; None: they are the same.
        degraded: What a photograph did to the page, see `degrade`; None: nothing.
    """

    image: Image.Image
    panels: Mapping[str, Panel]
    px_per_mm: float
    speed_mm_per_s: float
    gain_mm_per_mv: float
    layout: str
    cut: tuple[str, ...] = ()
    labels: Mapping[str, Box] = field(default_factory=dict)
    beats: Mapping[str, tuple[Beat, ...]] = field(default_factory=dict)
    projection: Float[np.ndarray, "3 3"] | None = None
    degraded: Mapping[str, Any] | None = None

    @property
    def boxes(self) -> dict[str, Box]:
        """Pixel box (x0, y0, x1, y1) of each panel in the image."""
        return {name: self.bounds(panel.box) for name, panel in self.panels.items()}

    @property
    def px_per_s(self) -> float:
        """Pixels a second on the flat page, to the right."""
        return self.speed_mm_per_s * self.px_per_mm

    @property
    def px_per_mv(self) -> float:
        """Pixels a millivolt on the flat page, upwards."""
        return self.gain_mm_per_mv * self.px_per_mm

    def to_pixel(self, name: str, time_s: Place, value_mv: Place) -> tuple[Place, Place]:
        """Pixel (x, y) at which panel `name` shows `value_mv` at `time_s` of the record."""
        panel = self.panels[name]
        x = panel.x_px + (time_s - panel.start_s) * self.px_per_s
        y = panel.y_px - value_mv * self.px_per_mv
        return (x, y) if self.projection is None else project(self.projection, x, y)

    def from_pixel(self, x: float, y: float) -> tuple[str, float, float]:
        """Panel name, time in s and voltage in mV at a pixel.

        Raises:
            ValueError: the pixel lies in no panel.
        """
        flat_x, flat_y = x, y
        if self.projection is not None:
            flat_x, flat_y = project(np.linalg.inv(self.projection), x, y)
        for name, panel in self.panels.items():
            x0, y0, x1, y1 = panel.box
            if x0 <= flat_x < x1 and y0 <= flat_y < y1:
                time_s = panel.start_s + (flat_x - panel.x_px) / self.px_per_s
                return name, time_s, (panel.y_px - flat_y) / self.px_per_mv
        raise ValueError(f"pixel ({x:g}, {y:g}): expected a place inside a lead, see Page.boxes")

    def corners(self, box: Box) -> list[tuple[float, float]]:
        """Where the corners of a flat box lie in the image, clockwise from the upper left one."""
        x0, y0, x1, y1 = box
        flat = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
        if self.projection is None:
            return flat
        return [project(self.projection, x, y) for x, y in flat]

    def bounds(self, box: Box) -> Box:
        """The upright box in the image around a flat box."""
        x, y = zip(*self.corners(box), strict=True)
        return min(x), min(y), max(x), max(y)

    def png(self) -> bytes:
        """The image as a PNG file; the same page always gives the same bytes.

        What a photograph did to it stands in the file, as the text `degraded`.
        """
        buffer = io.BytesIO()
        dpi = self.px_per_mm * 25.4
        info = PngInfo()
        if self.degraded is not None:
            info.add_text("degraded", json.dumps(self.degraded))
        self.image.save(buffer, "PNG", dpi=(dpi, dpi), pnginfo=info)
        return buffer.getvalue()

    def to_json(self) -> dict[str, Any]:
        """The map and all boxes as plain values.

        On the flat page x = x_px + (t - start_s) px_per_s and y = y_px - mV px_per_mv, with each
        panel's `origins`. `projection` M leads from there to the image: the pixel is
        (u / w, v / w) for (u, v, w) = M (x, y, 1). `boxes`, `labels` and those in `beats`,
        [x0, y0, x1, y1], are upright ones in the image; `quads` has the true corners of each
        panel. In `beats` a heartbeat has the number by which `measure` counts it from 0, and a
        wave that is not there, or not seen in the panel, is null.
        """
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
            "quads": {
                name: [list(corner) for corner in self.corners(panel.box)]
                for name, panel in self.panels.items()
            },
            "labels": {name: list(self.bounds(box)) for name, box in self.labels.items()},
            "origins": {
                name: {
                    "lead": p.lead,
                    "start_s": p.start_s,
                    "end_s": p.end_s,
                    "x_px": p.x_px,
                    "y_px": p.y_px,
                }
                for name, p in self.panels.items()
            },
            "projection": (np.eye(3) if self.projection is None else self.projection).tolist(),
            "beats": {name: [self._beat(b) for b in seen] for name, seen in self.beats.items()},
            "cut": list(self.cut),
            "degraded": self.degraded,
        }

    def _beat(self, beat: Beat) -> dict[str, Any]:
        waves = {
            wave: list(self.bounds(beat.waves[wave])) if wave in beat.waves else None
            for wave in ("p", "qrs", "t")
        }
        return {"beat": beat.number, "box": list(self.bounds(beat.box)), **waves}


def project(matrix: Float[np.ndarray, "3 3"], x: Place, y: Place) -> tuple[Place, Place]:
    """The place (x, y) after a homography."""
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    depth = g * x + h * y + i
    return (a * x + b * y + c) / depth, (d * x + e * y + f) / depth
