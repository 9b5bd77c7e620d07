"""A page as somebody photographs it: worn, askew, badly lit, out of focus, compressed.

An integer seeds everything: the same seed, page and versions give the same bytes. What was drawn by
chance is kept with the page, and its boxes and map follow through rotation and perspective.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
from jaxtyping import Float
from PIL import Image, ImageChops, ImageFilter

from data_prep.page import Page
from data_prep.records import BadInput
from data_prep.wear import (
    draw_creases,
    draw_pen,
    draw_stains,
    put_creases,
    put_pen,
    put_stains,
)

# Share of the image that stays free around the sheet, and what the sheet may lie on.
FREE = 0.01
DESKS = ((96, 72, 52), (134, 106, 78), (66, 70, 78), (150, 150, 146), (44, 46, 52))


@dataclass(frozen=True)
class Effects:
    """How strong each effect is at most; 0 leaves it out.

    Attributes:
        stains: Rings and blots, their number.
        pen: Handwriting-like marks, their number.
        creases: Folds, their number.
        rotation_deg: The sheet's turn, either way.
        perspective: How far a corner moves, as a share of the sheet's width.
        shadow: Share of the light that is lost where it is darkest.
        blur_mm: Standard deviation of the blur, on paper.
        noise: Standard deviation of the sensor's noise, of 255.
        jpeg: Loss by JPEG: the quality is at least 100 minus this.
    """

    stains: int = 2
    pen: int = 4
    creases: int = 3
    rotation_deg: float = 4.0
    perspective: float = 0.03
    shadow: float = 0.4
    blur_mm: float = 0.1
    noise: float = 3.0
    jpeg: int = 50

    def __post_init__(self) -> None:
        for field, most in LIMITS.items():
            value = getattr(self, field)
            if not 0 <= value <= most:
                raise BadInput(f"{field}: got {value:g}, expected a number from 0 to {most:g}")


LIMITS = {
    "stains": 20,
    "pen": 50,
    "creases": 20,
    "rotation_deg": 45.0,
    "perspective": 0.2,
    "shadow": 0.9,
    "blur_mm": 2.0,
    "noise": 64.0,
    "jpeg": 99,
}


def degrade(page: Page, seed: int, effects: Effects | None = None) -> Page:
    """The page as a photograph of the same size, its map and boxes with it.

    Each effect has its own chance, so that leaving one out changes no other. `Page.degraded` holds
    the seed, the effects' limits, what was drawn by chance, and the versions.

    Raises:
        BadInput: the seed is negative, or the page is a photograph already.
    """
    if seed < 0:
        raise BadInput(f"seed: got {seed}, expected an integer from 0")
    if page.degraded is not None:
        raise BadInput("page: got a photograph, expected a clean page; render it anew")
    effects = effects or Effects()
    drawn = _draw(seed, effects, page)
    image = page.image.copy()
    for name, put in (("stains", put_stains), ("pen", put_pen), ("creases", put_creases)):
        put(image, page.px_per_mm, drawn.get(name, []))
    projection = None
    if "sheet" in drawn:
        image, projection = _lay(image, drawn["sheet"])
    if "light" in drawn:
        image = _light(image, drawn["light"])
    if "blur_mm" in drawn:
        image = image.filter(ImageFilter.GaussianBlur(drawn["blur_mm"] * page.px_per_mm))
    if "noise" in drawn:
        image = _noise(image, drawn["noise"], _chance(seed, "noise grain"))
    if "jpeg_quality" in drawn:
        image = _jpeg(image, drawn["jpeg_quality"])
    versions = {"numpy": np.__version__, "pillow": PIL.__version__}
    said = {
        "seed": int(seed),
        "effects": dataclasses.asdict(effects),
        **drawn,
        "versions": versions,
    }
    return dataclasses.replace(page, image=image, projection=projection, degraded=said)


def _chance(seed: int, name: str) -> np.random.Generator:
    """The effect's own generator."""
    return np.random.default_rng([seed, *name.encode()])


def _draw(seed: int, effects: Effects, page: Page) -> dict[str, Any]:
    """What happens to the page, as plain values; without what is left out."""
    size_mm = (page.image.width / page.px_per_mm, page.image.height / page.px_per_mm)
    drawn: dict[str, Any] = {}
    wear: tuple[tuple[str, Callable[..., list[dict[str, Any]]]], ...] = (
        ("stains", draw_stains),
        ("pen", draw_pen),
        ("creases", draw_creases),
    )
    for name, draw in wear:
        if most := getattr(effects, name):
            drawn[name] = draw(_chance(seed, name), most, size_mm)
    if effects.rotation_deg or effects.perspective:
        rng = _chance(seed, "sheet")
        turn = round(float(rng.uniform(-1, 1)) * effects.rotation_deg, 4)
        moves = np.round(rng.uniform(-1, 1, (4, 2)) * effects.perspective, 5).tolist()
        desk = list(DESKS[int(rng.integers(len(DESKS)))])
        drawn["sheet"] = {"turn_deg": turn, "corner_moves": moves, "desk": desk}
    if effects.shadow:
        rng = _chance(seed, "light")
        drawn["light"] = {
            "from_deg": round(float(rng.uniform(0, 360)), 2),
            "depth": round(float(rng.uniform(0.4, 1)) * effects.shadow, 4),
            "edge": round(float(rng.uniform(0.2, 0.8)), 4),
            "softness": round(float(rng.uniform(0.02, 0.2)), 4),
            "warmth": round(float(rng.uniform(0, 0.12)), 4),
        }
    for name, least in (("blur_mm", 0.3), ("noise", 0.3)):
        if most := getattr(effects, name):
            drawn[name] = round(float(_chance(seed, name).uniform(least, 1)) * most, 4)
    if effects.jpeg:
        drawn["jpeg_quality"] = 100 - int(_chance(seed, "jpeg").integers(1, effects.jpeg + 1))
    return drawn


def _lay(image: Image.Image, sheet: dict[str, Any]) -> tuple[Image.Image, Float[np.ndarray, "3 3"]]:
    """The sheet lying on a desk as a camera sees it, and the homography from pixel to pixel."""
    width, height = image.size
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float64)
    turn = math.radians(sheet["turn_deg"])
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    moved = (corners - corners.mean(axis=0)) @ rotation.T + np.array(sheet["corner_moves"]) * width
    low, high = moved.min(axis=0), moved.max(axis=0)
    size = np.array([width, height])
    scale = ((1 - 2 * FREE) * size / (high - low)).min()
    moved = (moved - (low + high) / 2) * scale + size / 2
    matrix = _homography(corners, moved)
    inverse = np.linalg.inv(matrix)
    coefficients = (inverse / inverse[2, 2]).ravel()[:8].tolist()
    laid = image.transform(
        image.size,
        Image.Transform.PERSPECTIVE,
        coefficients,
        Image.Resampling.BICUBIC,
        fillcolor=tuple(sheet["desk"]),
    )
    # Corners count from the edges of pixels, the page's map from their centres.
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    return laid, np.linalg.inv(half) @ matrix @ half


def _homography(
    source: Float[np.ndarray, "4 2"], target: Float[np.ndarray, "4 2"]
) -> Float[np.ndarray, "3 3"]:
    """The homography that takes each of four places to its target."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source.tolist(), target.tolist(), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.append(np.linalg.solve(np.array(rows), np.array(values)), 1.0).reshape(3, 3)


def _light(image: Image.Image, light: dict[str, float]) -> Image.Image:
    """The image under a warm light that fades to one side, with a soft shadow's edge in it."""
    width, height = 160, max(1, round(160 * image.height / image.width))
    y, x = np.mgrid[0:height, 0:width] / width
    angle = math.radians(light["from_deg"])
    along = x * math.cos(angle) + y * math.sin(angle)
    along = (along - along.min()) / np.ptp(along)
    shadow = 1 / (1 + np.exp(-(along - light["edge"]) / light["softness"]))
    bright = 1 - light["depth"] * (0.3 * along + 0.7 * shadow)
    warm = np.array([1.0, 1 - light["warmth"] / 2, 1 - light["warmth"]])
    small = np.rint(255 * bright[..., None] * warm).astype(np.uint8)
    shade = Image.fromarray(small).resize(image.size, Image.Resampling.BICUBIC)
    return ImageChops.multiply(image, shade)


def _noise(image: Image.Image, sigma: float, rng: np.random.Generator) -> Image.Image:
    """The image with the same grain in every channel."""
    grain = rng.standard_normal((image.height, image.width), dtype=np.float32)
    level = Image.fromarray(np.clip(np.rint(128 + sigma * grain), 0, 255).astype(np.uint8))
    return ImageChops.add(image, Image.merge("RGB", (level,) * 3), 1.0, -128)


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The image after it was stored as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as stored:
        return stored.convert("RGB")
