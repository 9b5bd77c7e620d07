"""A record and its page as the arrays the model takes, in our reading or in the original's.

Ours reads a record by the names and at the rate it has: leads in canonical order, resampled to
500 Hz; and a page upright, as it looks on white. The original takes a signal's columns and samples
as they are stored, and a page's rows, and drops its transparency. Both: missing samples are 0 mV;
zeros or a cut at the end make the model's length.
Axes: L leads, T samples, N the model's samples, I tiles, H W pixels.
"""

import dataclasses
import math
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageOps

from data_prep.records import LEADS, BadInput, Record, resample
from gem_jax.media import best_canvas
from gem_jax.models.clip import CLIP_MEAN, CLIP_STD
from gem_jax.models.ecg import EcgConfig
from gem_jax.models.gem import GemConfig

Reading = Literal["ours", "original"]

MODEL_RATE_HZ = 500.0
# |mV| beyond this is a record in another unit: no heart gives it, and half precision overflows.
MAX_ABS_MV = 50.0
MEAN, STD = np.array(CLIP_MEAN, np.float32), np.array(CLIP_STD, np.float32)
# What Pillow raises for a damaged picture, by its format: a broken PNG is a SyntaxError.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError)


def ecg_array(
    record: Record, config: EcgConfig, reading: Reading = "ours"
) -> Float[np.ndarray, "L N"]:
    """Returns the leads in mV at the model's length.

    Raises:
        BadInput: when a lead is missing; in our reading also when a value is beyond 50 mV.
    """
    if reading == "original":
        signal_mv = as_stored(record, config.num_leads)
    else:
        signal_mv = resample(require_fit(record), MODEL_RATE_HZ).signal_mv
    return fit_length(np.nan_to_num(signal_mv, posinf=0.0, neginf=0.0), config.seq_length)


def as_stored(record: Record, num_leads: int) -> Float[np.ndarray, "L T"]:
    """Returns the leads in the order of the file, without those that reading derived.

    Raises:
        BadInput: when the record does not say how it was stored, or has not so many stored leads.
    """
    stored = [lead for lead in record.stored_leads if lead in record.leads]
    if len(stored) != num_leads:
        raise BadInput(
            f"{record.name}: got {len(stored)} stored leads ({', '.join(stored) or 'none named'}), "
            f'expected {num_leads}, which the original reads in their order; use reading "ours", '
            "or a record of all of them"
        )
    return record.signal_mv[[record.leads.index(lead) for lead in stored]]


def require_fit(record: Record) -> Record:
    """Returns the record if the model can take it.

    Raises:
        BadInput: when a lead is missing or a value is beyond 50 mV.
    """
    missing = [lead for lead in LEADS if lead not in record.leads]
    if missing:
        raise BadInput(
            f"{record.name}: leads {', '.join(missing)} are missing, expected all twelve; the "
            "model cannot take fewer (`gem-jax measure` can)"
        )
    peak_mv = float(np.nanmax(np.abs(record.signal_mv), initial=0.0))
    if peak_mv > MAX_ABS_MV:
        raise BadInput(
            f"{record.name}: got {peak_mv:.0f} mV, expected at most {MAX_ABS_MV:.0f} mV; check "
            "the unit and the gain in the header"
        )
    return record


def seen(record: Record, config: EcgConfig, reading: Reading = "ours") -> Record:
    """Returns the beginning of the record that the model reads, with a note if that is not all."""
    rate_hz = MODEL_RATE_HZ if reading == "ours" else record.sampling_rate_hz
    seen_s = config.seq_length / rate_hz
    if record.duration_s <= seen_s:
        return record
    note = f"the model reads the first {seen_s:g} s of {record.duration_s:g} s"
    return dataclasses.replace(
        record,
        signal_mv=record.signal_mv[:, : round(seen_s * record.sampling_rate_hz)],
        notes=(*record.notes, note),
    )


def read_page(path: Path, reading: Reading = "ours") -> Image.Image:
    """Returns a picture of an ECG; ours is upright, where the file says how a camera was held.

    Raises:
        BadInput: when the file is missing or no picture.
    """
    try:
        with Image.open(path) as page:
            page.load()
            return ImageOps.exif_transpose(page) if reading == "ours" else page
    except Exception as error:  # Pillow's readers of formats raise nothing narrower in common
        raise BadInput(
            f"{path}: cannot be read ({error}), expected a whole picture such as a PNG or JPEG"
        ) from error


def fit_length(signal_mv: Float[np.ndarray, "L T"], length: int) -> Float[np.ndarray, "L N"]:
    """Returns the signal cut, or padded with zeros, at its end."""
    padding = max(length - signal_mv.shape[1], 0)
    return np.pad(signal_mv[:, :length], ((0, 0), (0, padding))).astype(np.float32)


def image_tiles(
    image: Image.Image, config: GemConfig, reading: Reading = "ours"
) -> Float[np.ndarray, "I H W 3"]:
    """Returns a page resized (bicubic) and normalised for CLIP.

    `ori` cuts the middle square out of it, so that a wide page loses its ends; `pad` puts it on a
    square of CLIP's mean colour first; `anyres` gives the whole page squeezed into a square, then
    the tiles of the canvas it fits best, row by row.

    Raises:
        BadInput: when there is no image encoder, or the pixels are of a kind we cannot read.
    """
    if config.vision is None:
        raise BadInput("image: got a page, expected none: the model has no image encoder")
    size = config.vision.image_size
    page = on_white(image) if reading == "ours" else image.convert("RGB")
    if config.image_mode == "anyres":
        tiles = [_resize(page, (size, size)), *_canvas_tiles(page, config, size)]
    else:
        square = _square(page) if config.image_mode == "pad" else page
        tiles = [_middle(square, size)]
    return np.stack([_normalise(tile) for tile in tiles])


def _normalise(tile: Image.Image) -> Float[np.ndarray, "H W 3"]:
    return (np.asarray(tile, np.float32) / 255 - MEAN) / STD


def on_white(image: Image.Image) -> Image.Image:
    """Returns the page in RGB as it looks on white paper.

    Raises:
        BadInput: when its pixels have no known range (32-bit integers or floats).
    """
    if image.mode.startswith("I;16"):
        return _from_16_bit(image)
    if image.mode in ("I", "F"):
        raise BadInput(
            f"image: got pixels of mode {image.mode!r} (32 bits), expected 8 or 16 bits a channel; "
            "save the page as an 8-bit PNG"
        )
    if not image.has_transparency_data:
        return image.convert("RGB")
    page = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", page.size, "white"), page).convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Returns the upper eight bits; Pillow's own conversion cuts all values at 255 instead."""
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")


def _resize(image: Image.Image, size_wh: tuple[int, int]) -> Image.Image:
    return image.resize(size_wh, Image.Resampling.BICUBIC)


def _middle(image: Image.Image, size: int) -> Image.Image:
    """Returns the middle square of the page, whose shorter side becomes `size`."""
    shorter = min(image.size)
    width, height = (int(size * side / shorter) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    return _resize(image, (width, height)).crop((left, top, left + size, top + size))


def _square(image: Image.Image) -> Image.Image:
    side = max(image.size)
    square = Image.new("RGB", (side, side), tuple(int(mean * 255) for mean in CLIP_MEAN))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _canvas_tiles(image: Image.Image, config: GemConfig, size: int) -> list[Image.Image]:
    """Returns the page on its black canvas, cut into tiles row by row."""
    width, height = best_canvas(image.size, config.grid_pinpoints)
    scale_x, scale_y = width / image.width, height / image.height
    if scale_x < scale_y:
        fitted = width, min(math.ceil(image.height * scale_x), height)
    else:
        fitted = min(math.ceil(image.width * scale_y), width), height
    canvas = Image.new("RGB", (width, height))
    offset = (width - fitted[0]) // 2, (height - fitted[1]) // 2
    canvas.paste(_resize(image, fitted), offset)
    corners = [(x, y) for y in range(0, height, size) for x in range(0, width, size)]
    return [canvas.crop((x, y, x + size, y + size)) for x, y in corners]
