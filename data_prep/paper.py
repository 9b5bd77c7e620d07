"""ECG paper and the pen that draws on it, in millimetres of paper."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
INK: Colour = (20, 22, 32)
FAINT: Colour = (112, 116, 128)
ALARM: Colour = (176, 32, 40)
SHEET: Colour = (255, 253, 251)
GRID_1MM: Colour = (252, 226, 222)
GRID_5MM: Colour = (243, 178, 172)

STROKE_MM = 0.32
SMALLEST_FONT_PX = 6


class Paper:
    """A sheet being drawn on: traces gather in a finer mask, then `ink` puts them on the sheet."""

    def __init__(self, image: Image.Image, px_per_mm: float) -> None:
        self.image = image
        self.px_per_mm = px_per_mm
        self._fine = 3 if px_per_mm < 5 else 2
        self._mask = Image.new("L", (image.width * self._fine, image.height * self._fine))
        self._pen = ImageDraw.Draw(self._mask)
        self._text = ImageDraw.Draw(image)
        self._stroke_px = max(self._fine, round(STROKE_MM * px_per_mm * self._fine))

    def pixel(self, x_mm: float, y_mm: float) -> tuple[float, float]:
        """Pixel indices of a place on the sheet."""
        return x_mm * self.px_per_mm - 0.5, y_mm * self.px_per_mm - 0.5

    def polyline(self, points_mm: Float[np.ndarray, "T 2"]) -> None:
        """Draws a trace; a single point becomes a dot."""
        points = points_mm * (self.px_per_mm * self._fine) - 0.5
        if len(points) == 1:
            points = points + np.array([[0.0, 0.0], [self._stroke_px / 2, 0.0]])
        points = thin_out(points, 0.7 * self._fine)
        self._pen.line(points.ravel().tolist(), 255, self._stroke_px)

    def arrow(self, x_mm: float, y_mm: float, length_mm: float) -> None:
        """Draws a filled triangle with its tip at the place and its foot `length_mm` below."""
        scale = self.px_per_mm * self._fine
        corners = [(0.0, 0.0), (-1.2, length_mm), (1.2, length_mm)]
        self._pen.polygon([((x_mm + x) * scale, (y_mm + y) * scale) for x, y in corners], 255)

    def ink(self) -> None:
        """Puts the traces drawn so far onto the sheet."""
        self.image.paste(INK, (0, 0), self._mask.reduce(self._fine))

    def legible(self, size_mm: float) -> bool:
        """Whether letters of this size can be read."""
        return size_mm * self.px_per_mm >= SMALLEST_FONT_PX

    def text(self, words: str, x_mm: float, y_mm: float, size_mm: float, colour: Colour) -> float:
        """Right end in mm of words on the line y_mm, from x_mm or, below 0, from the right edge."""
        font = _font(max(SMALLEST_FONT_PX, round(size_mm * self.px_per_mm)))
        width = font.getlength(words)
        x = x_mm * self.px_per_mm
        if x_mm < 0:
            x += self.image.width - width
        self._text.text((round(x), round(y_mm * self.px_per_mm)), words, colour, font, anchor="ls")
        return (x + width) / self.px_per_mm


def thin_out(points: Float[np.ndarray, "T 2"], step_px: float) -> Float[np.ndarray, "N 2"]:
    """The points; or, where many share a step, the highest and the lowest of each step."""
    spread_px = points[-1, 0] - points[0, 0]
    each = int(len(points) * step_px / spread_px) if spread_px > 0 else 1
    if each < 3:
        return points
    whole = len(points) // each * each
    groups = points[:whole].reshape(-1, each, 2)
    extremes = np.stack([groups[..., 1].argmin(axis=1), groups[..., 1].argmax(axis=1)], axis=1)
    extremes.sort(axis=1)
    kept = np.take_along_axis(groups, extremes[..., None], axis=1).reshape(-1, 2)
    return np.concatenate([points[:1], kept, points[whole:], points[-1:]])


@lru_cache(maxsize=16)
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


@lru_cache(maxsize=8)
def sheet(
    size_mm: tuple[float, float], grid_mm: tuple[float, float, float, float], px_per_mm: float
) -> Image.Image:
    """Empty sheet with a grid of 1 and 5 mm squares in the box `grid_mm`; copy before drawing."""
    size = (round(size_mm[0] * px_per_mm), round(size_mm[1] * px_per_mm))
    image = Image.new("RGB", size, SHEET)
    for step_mm, stroke_mm, colour in ((1, 0.1, GRID_1MM), (5, 0.16, GRID_5MM)):
        # Squares of hardly two pixels would only be a haze.
        if step_mm * px_per_mm >= 2.5:
            image.paste(colour, (0, 0), _grid(size, grid_mm, px_per_mm, step_mm, stroke_mm))
    return image


def _grid(
    size: tuple[int, int],
    grid_mm: tuple[float, float, float, float],
    px_per_mm: float,
    step_mm: int,
    stroke_mm: float,
) -> Image.Image:
    fine = 4
    left, top, right, bottom = (edge * px_per_mm * fine - 0.5 for edge in grid_mm)
    step = step_mm * px_per_mm * fine
    stroke_px = max(2, round(stroke_mm * px_per_mm * fine))
    mask = Image.new("L", (size[0] * fine, size[1] * fine))
    pen = ImageDraw.Draw(mask)
    for x in np.arange(left, right + 1, step).tolist():
        pen.line((x, top, x, bottom), 255, stroke_px)
    for y in np.arange(top, bottom + 1, step).tolist():
        pen.line((left, y, right, y), 255, stroke_px)
    return mask.reduce(fine)
