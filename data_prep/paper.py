"""ECG paper and the pen that draws on it, in millimetres of paper.

At 3.0 px lies the left or upper edge of pixel 3, at 3.5 px its centre, whose index is 3.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
INK: Colour = (20, 22, 32)
FAINT: Colour = (112, 116, 128)
ALARM: Colour = (176, 32, 40)
SHEET: Colour = (255, 253, 251)
GRID_1MM: Colour = (252, 226, 222)
GRID_5MM: Colour = (243, 178, 172)

# The pen is higher than it is wide: steep flanks stay thin, and those of a narrow QRS apart.
PEN_MM = (0.11, 0.24)
LEAST_PEN_PX = (0.8, 1.2)
# The pen's path is followed in so many steps a pixel, exactly in height; INKED of them are as dark
# as all, or else flanks would be paler than what lies level.
STEPS, INKED = 4, 3
SMALLEST_FONT_PX = 6
# Of 255, what a tint takes of its colour.
TINT = 46
# A larger empty sheet is not kept for the next page.
KEPT_PX = 8_000_000


class Paper:
    """A sheet being drawn on."""

    def __init__(self, image: Image.Image, px_per_mm: float) -> None:
        self.image = image
        self.px_per_mm = px_per_mm
        sizes = zip(PEN_MM, LEAST_PEN_PX, strict=True)
        self.pen_px = tuple(max(least, size_mm * px_per_mm) for size_mm, least in sizes)
        self._draw = ImageDraw.Draw(image)

    def pixel(self, x_mm: float, y_mm: float) -> tuple[float, float]:
        """Pixel indices of a place on the sheet."""
        return x_mm * self.px_per_mm - 0.5, y_mm * self.px_per_mm - 0.5

    def trace(
        self,
        x_mm: Float[np.ndarray, " T"],
        y_mm: Float[np.ndarray, " T"],
        span_mm: tuple[float, float],
        colour: Colour = INK,
    ) -> None:
        """Draws a line from left to right, on the pixels whose centres lie in `span_mm`.

        Where y is NaN there is a gap; a single point between gaps is a dot.
        """
        left, right = (math.ceil(edge * self.px_per_mm - 0.5) for edge in span_mm)
        left, right = max(0, left), min(self.image.width, right)
        if left >= right or not x_mm.size:
            return
        edges = left + np.arange((right - left) * STEPS + 1) / STEPS
        low, high = _extent(x_mm * self.px_per_mm, y_mm * self.px_per_mm, edges)
        low, high = _thicken(low, high, *self.pen_px)
        low, high = np.maximum(low, 0), np.minimum(high, self.image.height)
        if (low < high).any():
            top, mask = _coverage(low, high)
            self.image.paste(colour, (left, top), Image.fromarray(mask))

    def arrow(self, x_mm: float, y_mm: float, length_mm: float) -> None:
        """Draws a filled triangle with its tip at the place and its foot `length_mm` below."""
        fine = 4
        half_mm = 0.6 * abs(length_mm)
        left, top = (math.floor(v * self.px_per_mm) for v in (x_mm - half_mm, y_mm))
        top += min(0, math.floor(length_mm * self.px_per_mm))
        side = math.ceil(2 * half_mm * self.px_per_mm) + 2
        mask = Image.new("L", (side * fine, side * fine))
        corners = ((0.0, 0.0), (-half_mm, length_mm), (half_mm, length_mm))
        places = [
            (
                ((x_mm + x) * self.px_per_mm - left) * fine,
                ((y_mm + y) * self.px_per_mm - top) * fine,
            )
            for x, y in corners
        ]
        ImageDraw.Draw(mask).polygon(places, 255)
        self.image.paste(INK, (left, top), mask.reduce(fine))

    def tint(self, box_mm: tuple[float, float, float, float], colour: Colour) -> None:
        """Lays a little of a colour over the paper in a box."""
        x0, y0, x1, y1 = (round(edge * self.px_per_mm) for edge in box_mm)
        x0, y0, x1, y1 = max(0, x0), max(0, y0), max(x1, x0 + 1), max(y1, y0 + 1)
        mask = Image.new("L", (x1 - x0, y1 - y0), TINT)
        self.image.paste(colour, (x0, y0), mask)

    def upright(self, x_mm: float, top_mm: float, bottom_mm: float, colour: Colour) -> None:
        """Draws a vertical line, one pixel wide or 0.12 mm."""
        width = max(1, round(0.12 * self.px_per_mm))
        left = round(x_mm * self.px_per_mm - width / 2)
        top, bottom = round(top_mm * self.px_per_mm), round(bottom_mm * self.px_per_mm)
        self._draw.rectangle((left, top, left + width - 1, max(top, bottom - 1)), colour)

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
        self._draw.text((round(x), round(y_mm * self.px_per_mm)), words, colour, font, anchor="ls")
        return (x + width) / self.px_per_mm


def _extent(
    x: Float[np.ndarray, " T"], y: Float[np.ndarray, " T"], edges: Float[np.ndarray, " K1"]
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
    """Lowest and highest y of the line between each two edges; NaN where there is none."""
    at_edges = np.interp(edges, x, y, left=np.nan, right=np.nan)
    places = np.searchsorted(x, edges)
    line = np.insert(y, places, at_edges)
    starts = places + np.arange(edges.size)
    low = np.fmin(np.fmin.reduceat(line, starts)[:-1], at_edges[1:])
    high = np.fmax(np.fmax.reduceat(line, starts)[:-1], at_edges[1:])
    return low, high


def _thicken(
    low: Float[np.ndarray, " K"], high: Float[np.ndarray, " K"], width: float, height: float
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
    """Extent of what an elliptic pen covers; infinite where there is nothing."""
    reach, count = int(width / 2 * STEPS), low.size
    beside = np.full((2, count + 2 * reach), np.nan)
    beside[:, reach : reach + count] = low, high
    lows, highs = np.full(count, np.inf), np.full(count, -np.inf)
    for shift in range(2 * reach + 1):
        aside = (shift - reach) / STEPS / (width / 2)
        half = height / 2 * math.sqrt(1 - aside**2)
        np.fmin(lows, beside[0, shift : shift + count] - half, out=lows)
        np.fmax(highs, beside[1, shift : shift + count] + half, out=highs)
    return lows, highs


def _coverage(
    low: Float[np.ndarray, " K"], high: Float[np.ndarray, " K"]
) -> tuple[int, UInt8[np.ndarray, "H W"]]:
    """First row, and from there each pixel's share of ink, 0 … 255."""
    width = low.size // STEPS
    drawn = np.flatnonzero(low < high)
    low, high, column = low[drawn], high[drawn], drawn // STEPS
    top = math.floor(low.min())
    first, last = np.floor(low), np.ceil(high) - 1
    height = int(last.max()) - top + 2
    # Differences between a row and the one above it, summed up afterwards.
    rows = np.concatenate([first, first + 1, last, last + 1]).astype(np.int64) - top
    parts = np.concatenate([first + 1 - low, low - first, high - last - 1, last - high])
    steps = np.bincount(rows * width + np.tile(column, 4), parts, height * width)
    cover = np.cumsum(steps.reshape(height, width), axis=0, dtype=np.float32)
    return top, np.clip(cover * (255 / INKED) + 0.5, 0, 255).astype(np.uint8)


@lru_cache(maxsize=16)
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def sheet(
    size_mm: tuple[float, float], grid_mm: tuple[float, float, float, float], px_per_mm: float
) -> Image.Image:
    """Empty sheet of one's own with a grid of 1 and 5 mm squares in the box `grid_mm`."""
    if size_mm[0] * size_mm[1] * px_per_mm**2 > KEPT_PX:
        return _sheet(size_mm, grid_mm, px_per_mm)
    return _kept_sheet(size_mm, grid_mm, px_per_mm).copy()


def _sheet(
    size_mm: tuple[float, float], grid_mm: tuple[float, float, float, float], px_per_mm: float
) -> Image.Image:
    size = (round(size_mm[0] * px_per_mm), round(size_mm[1] * px_per_mm))
    image = Image.new("RGB", size, SHEET)
    pen = ImageDraw.Draw(image)
    left, top, right, bottom = grid_mm
    for step_mm, stroke_mm, colour in ((1, 0.1, GRID_1MM), (5, 0.15, GRID_5MM)):
        # Squares of hardly three pixels would only be a haze.
        if step_mm * px_per_mm < 3:
            continue
        columns = _lines(left, right, step_mm, stroke_mm, px_per_mm)
        rows = _lines(top, bottom, step_mm, stroke_mm, px_per_mm)
        for first, last in columns:
            pen.rectangle((first, rows[0][0], last, rows[-1][1]), colour)
        for first, last in rows:
            pen.rectangle((columns[0][0], first, columns[-1][1], last), colour)
    return image


_kept_sheet = lru_cache(maxsize=4)(_sheet)


def _lines(
    start_mm: float, end_mm: float, step_mm: int, stroke_mm: float, px_per_mm: float
) -> list[tuple[int, int]]:
    """First and last pixel of lines `step_mm` apart: whole pixels, so that all look the same."""
    width = max(1, round(stroke_mm * px_per_mm))
    middles = np.arange(start_mm, end_mm + step_mm / 2, step_mm) * px_per_mm
    return [
        (first, first + width - 1) for first in np.rint(middles - width / 2).astype(int).tolist()
    ]
