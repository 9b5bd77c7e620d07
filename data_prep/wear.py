"""What a printed page goes through: creases, stains, a pen. Drawn by chance, then put onto it.

`draw_…` returns parameters as plain values, in mm of paper; `put_…` changes a page by them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageChops, ImageDraw

from data_prep.paper import SHEET

Size = tuple[float, float]
Drawn = dict[str, Any]
INKS = {"blue": (28, 52, 140), "black": (30, 30, 34), "red": (170, 30, 36)}
COFFEE = (176, 132, 84)
# The pen's width, and how finely its strokes are drawn.
NIB_MM, FINE = 0.45, 3


def draw_creases(rng: np.random.Generator, most: int, size_mm: Size) -> list[Drawn]:
    """One to `most` folds: a place of each, its direction, and how dark it is."""
    return [
        {
            "x_mm": _of(rng, 0.1, 0.9, size_mm[0]),
            "y_mm": _of(rng, 0.1, 0.9, size_mm[1]),
            "angle_deg": _of(rng, 0, 180),
            "depth": _of(rng, 0.1, 0.3),
        }
        for _ in range(int(rng.integers(1, most + 1)))
    ]


def put_creases(image: Image.Image, px_per_mm: float, creases: list[Drawn]) -> None:
    """A fold is a dark line with a worn middle, and dims the paper on one side."""
    x_mm = (np.arange(image.width, dtype=np.float32) + 0.5) / px_per_mm
    y_mm = (np.arange(image.height, dtype=np.float32) + 0.5) / px_per_mm
    for crease in creases:
        angle = math.radians(crease["angle_deg"])
        across = (x_mm - crease["x_mm"]) * math.sin(angle)
        distance_mm = across - ((y_mm - crease["y_mm"]) * math.cos(angle))[:, None]
        fine_mm = np.arange(-30, 30, 0.05)
        dark = np.exp(-((fine_mm / 0.6) ** 2))
        dim = 0.4 * np.exp(-np.abs(fine_mm) / 10) * (fine_mm > 0)
        light = 255 * (1 - crease["depth"] * (dark + dim))
        worn = 255 * 2 * crease["depth"] * np.exp(-((fine_mm / 0.15) ** 2))
        index = np.clip((distance_mm + 30) / 0.05, 0, fine_mm.size - 1).astype(np.int32)
        shade = Image.fromarray(np.rint(light).astype(np.uint8)[index])
        image.paste(ImageChops.multiply(image, Image.merge("RGB", (shade,) * 3)))
        image.paste(SHEET, (0, 0), Image.fromarray(np.rint(worn).astype(np.uint8)[index]))


def draw_stains(rng: np.random.Generator, most: int, size_mm: Size) -> list[Drawn]:
    """One to `most` rings of a cup and blots."""
    return [
        {
            "kind": str(rng.choice(["ring", "blot"])),
            "x_mm": _of(rng, 0.05, 0.95, size_mm[0]),
            "y_mm": _of(rng, 0.05, 0.95, size_mm[1]),
            "radius_mm": _of(rng, 10, 35),
            "depth": _of(rng, 0.25, 0.6),
            "wobble": _wobble(rng),
        }
        for _ in range(int(rng.integers(1, most + 1)))
    ]


def put_stains(image: Image.Image, px_per_mm: float, stains: list[Drawn]) -> None:
    """A stain colours the paper and leaves the ink on it dark."""
    for stain in stains:
        grain_mm = 0.5
        half_mm = 1.4 * stain["radius_mm"]
        y_mm, x_mm = np.mgrid[-half_mm:half_mm:grain_mm, -half_mm:half_mm:grain_mm]
        angle = np.arctan2(y_mm, x_mm)
        edge_mm = stain["radius_mm"] * (1 + 0.08 * _wave(angle, stain["wobble"]))
        inwards_mm = edge_mm - np.hypot(x_mm, y_mm)
        rim = np.exp(-((inwards_mm / 1.2) ** 2)) * (0.7 + 0.3 * np.sin(angle))
        pool = 0.35 / (1 + np.exp(-2 * inwards_mm)) * (stain["kind"] == "blot")
        share = stain["depth"] * np.clip(rim + pool, 0, 1)
        colour = 255 - share[..., None] * (255 - np.array(COFFEE))
        side = round(2 * half_mm * px_per_mm)
        patch = Image.fromarray(np.rint(colour).astype(np.uint8)).resize((side, side))
        left = round((stain["x_mm"] - half_mm) * px_per_mm)
        top = round((stain["y_mm"] - half_mm) * px_per_mm)
        under = image.crop((left, top, left + side, top + side))
        image.paste(ImageChops.multiply(under, patch), (left, top))


def draw_pen(rng: np.random.Generator, most: int, size_mm: Size) -> list[Drawn]:
    """One to `most` marks of a pen: a circle, a line, or something like handwriting."""
    return [
        {
            "kind": str(rng.choice(["circle", "line", "words"])),
            "ink": str(rng.choice(list(INKS))),
            "x_mm": _of(rng, 0.08, 0.75, size_mm[0]),
            "y_mm": _of(rng, 0.08, 0.92, size_mm[1]),
            "length_mm": _of(rng, 15, 45),
            "tilt_deg": _of(rng, -6, 6),
            "wobble": _wobble(rng),
            "letters_mm": [_of(rng, 0.6, 3.6) for _ in range(int(rng.integers(5, 14)))],
        }
        for _ in range(int(rng.integers(1, most + 1)))
    ]


def put_pen(image: Image.Image, px_per_mm: float, marks: list[Drawn]) -> None:
    """Draws the marks in their ink."""
    for mark in marks:
        x_mm, y_mm = _stroke(mark)
        tilt = math.radians(mark["tilt_deg"])
        x_mm, y_mm = (
            mark["x_mm"] + x_mm * math.cos(tilt) - y_mm * math.sin(tilt),
            mark["y_mm"] + x_mm * math.sin(tilt) + y_mm * math.cos(tilt),
        )
        left, top = (math.floor((v.min() - 1) * px_per_mm) for v in (x_mm, y_mm))
        size = [math.ceil((np.ptp(v) + 2) * px_per_mm) + 1 for v in (x_mm, y_mm)]
        mask = Image.new("L", (size[0] * FINE, size[1] * FINE))
        points = np.stack([x_mm * px_per_mm - left, y_mm * px_per_mm - top], axis=1) * FINE
        width = max(FINE, round(NIB_MM * px_per_mm * FINE))
        ImageDraw.Draw(mask).line(points.ravel().tolist(), 225, width, joint="curve")
        image.paste(INKS[mark["ink"]], (left, top), mask.reduce(FINE))


def _stroke(mark: Drawn) -> tuple[Float[np.ndarray, " S"], Float[np.ndarray, " S"]]:
    """The pen's path from the mark's place, before it is tilted."""
    length, wobble = mark["length_mm"], mark["wobble"]
    t = np.linspace(0, 1, 400)
    if mark["kind"] == "circle":
        angle = 2 * math.pi * 1.06 * t - 2.0
        radius = 0.25 * length * (1 + 0.06 * _wave(math.pi * t, wobble))
        return radius * np.cos(angle), 0.8 * radius * np.sin(angle)
    if mark["kind"] == "line":
        return length * t, 0.5 * _wave(2 * math.pi * t, wobble)
    # A loop for each letter, of its own height; they share a line and lean forwards.
    letters_mm = np.array(mark["letters_mm"])
    turn = t * letters_mm.size
    tall_mm = letters_mm[np.minimum(turn.astype(int), letters_mm.size - 1)]
    up_mm = tall_mm * (1 - np.cos(2 * math.pi * turn)) / 2
    return 2.0 * turn + 0.9 * np.sin(2 * math.pi * turn) + 0.35 * up_mm, -up_mm


def _wobble(rng: np.random.Generator) -> list[float]:
    return [round(float(part), 4) for part in rng.uniform(-1, 1, 6)]


def _wave(at: Float[np.ndarray, "*A"], wobble: list[float]) -> Float[np.ndarray, "*A"]:
    """A smooth random function of period 2 π, about -1 … 1."""
    pairs = zip(wobble[::2], wobble[1::2], strict=True)
    parts = (a * np.sin(k * at) + b * np.cos(k * at) for k, (a, b) in enumerate(pairs, 1))
    return sum(parts, np.zeros_like(at)) / 2


def _of(rng: np.random.Generator, low: float, high: float, scale: float = 1.0) -> float:
    """A number by chance, with the digits that are stored."""
    return round(float(rng.uniform(low, high)) * scale, 4)
