"""What placeholders show, and the conversations that show it as a batch of the model.

Any number of placeholders stands in a conversation, each with an ECG and its page; every row of a
batch has room for as many ECGs and image tiles as the batch's `Capacity` says, so that shapes do
not depend on what is shown. Host code, numpy. Axes: B batch, E ECGs of a row, I image tiles of a
row or of a page, L leads, N samples, H W pixels, F features of one placeholder.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from data_prep.records import BadInput, Record
from data_prep.render import render
from gem_jax.config import ConfigError
from gem_jax.media import Capacity, Shown, Size, longest_side, max_tiles, placeholder_index
from gem_jax.models.gem import Batch, GemConfig
from gem_jax.preprocess import Reading, ecg_array, image_tiles, read_page
from gem_jax.rows import Row, columns

# Of a page that we draw: more lines would be nothing but grey.
LEAST_DPI = 20
PAGE_WIDTH_IN = 11


@dataclass(frozen=True)
class Exhibit:
    """What one placeholder shows."""

    record: Record | None
    image: Path | None = None
    """A picture of the record; None: its page is drawn."""
    reading: Reading = "ours"


@dataclass(frozen=True)
class Medium:
    """The same as the encoders take it; None where the model has no encoder for it."""

    ecg: Float[np.ndarray, "L N"] | None
    tiles: Float[np.ndarray, "I H W 3"] | None
    size_wh: Size
    """Of the page before it was cut into tiles."""


def medium_of(config: GemConfig, exhibit: Exhibit) -> Medium:
    """Returns what is shown as the model's encoders take it.

    Errors as of `require_showable`, and BadInput when there is nothing to show or the picture
    cannot be read.
    """
    require_showable(config, exhibit)
    return encoded(config, exhibit, page_of(exhibit, config))


def encoded(config: GemConfig, exhibit: Exhibit, page: Image.Image) -> Medium:
    """Returns an exhibit and its page as the encoders take them; without a record, no ECG."""
    record, reading = exhibit.record, exhibit.reading
    ecg = ecg_array(record, config.ecg, reading) if config.ecg and record else None
    return Medium(ecg, image_tiles(page, config, reading), page.size)


def require_showable(config: GemConfig, exhibit: Exhibit) -> None:
    """Refuses what the model has no encoder for, or has an encoder for and is not there.

    Raises:
        ConfigError: when the model has no encoder at all.
        BadInput: when the model takes an ECG and there is a picture alone, or nothing.
    """
    require_sight(config)
    if exhibit.record is None and config.ecg:
        raise BadInput(
            f"{exhibit.image}: got a picture alone, expected the ECG's record too: the model takes "
            "the signal together with its page; name the record, and its picture by --image"
        )


def page_of(exhibit: Exhibit, config: GemConfig) -> Image.Image:
    """Returns the picture, or the record's page with as many pixels as the encoder resolves."""
    if exhibit.image is not None:
        return read_page(exhibit.image, exhibit.reading)
    if exhibit.record is None:
        raise BadInput("record: got none and no picture, expected one of them to show")
    dpi = max(LEAST_DPI, math.ceil(longest_side(config) / PAGE_WIDTH_IN))
    return render(exhibit.record, dpi=dpi).image


def require_sight(config: GemConfig) -> None:
    """Refuses a model that cannot be shown anything, with a ConfigError."""
    if config.vision is None:
        raise ConfigError(
            "model: got a language model alone, expected one with an image encoder: it is asked "
            "about an ECG; import a GEM, LLaVA or PULSE folder"
        )


def room_for(config: GemConfig, placeholders: int) -> Capacity:
    """Returns what rows of so many placeholders have room for, whatever the sizes of the pages."""
    return Capacity(
        placeholders if config.ecg else 0,
        placeholders * max_tiles(config) if config.vision and placeholders else 0,
    )


def features_of(
    config: GemConfig, capacity: Capacity, media: Sequence[Medium]
) -> list[Int[np.ndarray, " _F"]]:
    """Returns for each placeholder of a row which of the row's features it receives.

    Raises:
        ValueError: when the row has no room for them.
    """
    features, ecgs, tiles = [], 0, 0
    for one in media:
        count = 0 if one.tiles is None else len(one.tiles)
        shown = Shown(
            None if one.ecg is None else ecgs,
            None if one.tiles is None else tiles,
            count,
            one.size_wh,
        )
        features.append(placeholder_index(config, capacity, shown))
        ecgs, tiles = ecgs + (one.ecg is not None), tiles + count
    return features


def stack(
    config: GemConfig, capacity: Capacity, rows: Sequence[Row], media: Sequence[Sequence[Medium]]
) -> Batch:
    """Returns the rows, each with its media, as one batch of host arrays."""
    ecgs = [[one.ecg for one in own if one.ecg is not None] for own in media]
    tiles = [[tile for one in own if one.tiles is not None for tile in one.tiles] for own in media]
    ecg = image = None
    if config.ecg and capacity.ecgs:
        ecg = _filled(ecgs, (capacity.ecgs, config.ecg.num_leads, config.ecg.seq_length))
    if config.vision and capacity.tiles:
        side = config.vision.image_size
        image = _filled(tiles, (capacity.tiles, side, side, 3))
    return Batch(**columns(rows), ecg=ecg, image=image)


def _filled(
    rows: Sequence[Sequence[np.ndarray]], shape: tuple[int, ...]
) -> Float[np.ndarray, "B *shape"]:
    """Returns the rows' arrays; zeros where a row has fewer than another."""
    made = np.zeros((len(rows), *shape), np.float32)
    for row, own in zip(made, rows, strict=True):
        for at, array in enumerate(own):
            row[at] = array
    return made
