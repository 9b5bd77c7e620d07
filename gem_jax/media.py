"""Which feature each token of a placeholder receives: LLaVA-1.6's layout of image tiles.

A page of `anyres` is shown as a whole (the first tile) and again on one of several canvases, cut
into a grid of tiles. A row of a batch holds the features of its ECGs, then of its image tiles, then
the newline; what stands here is integers on the host, the model gathers by them.

Axes: F features of one placeholder, R C patches down and across. Sizes are (width, height).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from gem_jax.models.gem import GemConfig

NEWLINE = -1
Size = tuple[int, int]


@dataclass(frozen=True)
class Capacity:
    """ECGs and image tiles for which every row of a batch has room."""

    ecgs: int
    tiles: int


@dataclass(frozen=True)
class Shown:
    """What one placeholder receives: an ECG and the tiles of a page, each counted in its row."""

    ecg: int | None
    first_tile: int | None
    num_tiles: int
    size_wh: Size
    """Of the page before it was cut."""


def best_canvas(size_wh: Size, pinpoints: Sequence[Size]) -> Size:
    """Returns the canvas that keeps most of the page's pixels, of equals the least empty one.

    The first wins where both are equal, as in LLaVA-1.6.
    """
    width, height = size_wh

    def merit(canvas: Size) -> tuple[int, int]:
        scale = min(canvas[0] / width, canvas[1] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - canvas[0] * canvas[1]

    return max(pinpoints, key=merit)


def grid_shape(config: GemConfig, size_wh: Size) -> Size:
    """Returns how many tiles lie across and down the canvas of an `anyres` page."""
    width, height = best_canvas(size_wh, config.grid_pinpoints)
    tile = _tile_size(config)
    return width // tile, height // tile


def max_tiles(config: GemConfig) -> int:
    """Returns the most tiles that a page becomes."""
    if config.image_mode != "anyres":
        return 1
    area = _tile_size(config) ** 2
    return 1 + max(width * height // area for width, height in config.grid_pinpoints)


def max_features(config: GemConfig) -> int:
    """Returns the most tokens that an ECG with its page becomes; 0 without encoders."""
    if config.vision is None:
        return 0
    if config.image_mode != "anyres":
        return config.num_media_tokens
    # A page that fills its canvas loses no margin.
    tiles = {canvas: grid_shape(config, canvas) for canvas in config.grid_pinpoints}
    return config.ecg_tokens + max(
        len(image_layout(config, 1 + across * down, canvas))
        for canvas, (across, down) in tiles.items()
    )


def longest_side(config: GemConfig) -> int:
    """Returns the pixels of the longer side of the largest page that the encoder resolves."""
    canvases = config.grid_pinpoints if config.image_mode == "anyres" else ()
    return max([_tile_size(config), *(max(canvas) for canvas in canvases)])


def unpad(patches: Int[np.ndarray, "R C"], size_wh: Size) -> Int[np.ndarray, "R2 C2"]:
    """Returns the patches without the black margins that a page of this size has on its canvas.

    Rounding is the original's: a margin that is no whole number of patches stays in part.
    """
    width, height = size_wh
    rows, columns = patches.shape
    if width / height > columns / rows:
        margin = (rows - int(height * (columns / width))) // 2
        return patches[margin : rows - margin]
    margin = (columns - int(width * (rows / height))) // 2
    return patches[:, margin : columns - margin]


def image_layout(config: GemConfig, num_tiles: int, size_wh: Size) -> Int[np.ndarray, " F"]:
    """Returns a page's features in the order of the original's merge.

    Feature p of tile t is t * P + p, P the patches of a tile; `NEWLINE` is the newline. The
    original merges pages of `anyres` alone: in `ori` and `pad` a page is its one tile.

    Raises:
        ValueError: when the page of this size is not cut into so many tiles.
    """
    base = np.arange(config.image_tokens)
    unpadded = config.patch_merge == "spatial_unpad"
    if config.image_mode == "anyres" and num_tiles > 1:
        _require_tiles(config, num_tiles, size_wh)
        if config.patch_merge == "flat":
            return np.arange(num_tiles * config.image_tokens)
        canvas = _canvas_patches(config, size_wh)
        if unpadded:
            canvas = np.pad(unpad(canvas, size_wh), ((0, 0), (0, 1)), constant_values=NEWLINE)
        return np.concatenate([base, canvas.ravel()])
    if num_tiles != 1:
        raise ValueError(
            f"image: got {num_tiles} tiles of a page, expected 1 in mode {config.image_mode!r}"
        )
    return np.append(base, NEWLINE) if config.image_mode == "anyres" and unpadded else base


def placeholder_index(config: GemConfig, capacity: Capacity, shown: Shown) -> Int[np.ndarray, " F"]:
    """Returns which of its row's features one placeholder receives: the ECG's, then the page's.

    Raises:
        ValueError: when the row has no room for what is shown.
    """
    parts = [np.arange(0)]
    if shown.ecg is not None:
        _require_room("ECGs", shown.ecg + 1, capacity.ecgs)
        parts.append(shown.ecg * config.ecg_tokens + np.arange(config.ecg_tokens))
    if shown.first_tile is not None:
        _require_room("image tiles", shown.first_tile + shown.num_tiles, capacity.tiles)
        layout = image_layout(config, shown.num_tiles, shown.size_wh)
        ecgs_end = capacity.ecgs * config.ecg_tokens
        newline = ecgs_end + capacity.tiles * config.image_tokens
        start = ecgs_end + shown.first_tile * config.image_tokens
        parts.append(np.where(layout == NEWLINE, newline, start + layout))
    return np.concatenate(parts)


def _tile_size(config: GemConfig) -> int:
    """Returns the side of a tile in pixels.

    Raises:
        ValueError: when there is no image encoder, or a canvas is no grid of tiles.
    """
    if config.vision is None:
        raise ValueError("model.vision: got none, expected the image encoder whose tiles are cut")
    tile = config.vision.image_size
    if uneven := [
        canvas for canvas in config.grid_pinpoints if any(side % tile for side in canvas)
    ]:
        raise ValueError(
            f"model.grid_pinpoints: got {uneven}, expected multiples of the {tile} pixels of a tile"
        )
    return tile


def _canvas_patches(config: GemConfig, size_wh: Size) -> Int[np.ndarray, "R C"]:
    """Returns the features of the canvas where their patches lie; tile 0 is the whole page."""
    across, down = grid_shape(config, size_wh)
    side = round(config.image_tokens**0.5)
    features = config.image_tokens + np.arange(down * across * config.image_tokens)
    tiles = features.reshape(down, across, side, side)
    return tiles.transpose(0, 2, 1, 3).reshape(down * side, across * side)


def _require_tiles(config: GemConfig, num_tiles: int, size_wh: Size) -> None:
    across, down = grid_shape(config, size_wh)
    if num_tiles != 1 + across * down:
        raise ValueError(
            f"image: got {num_tiles} tiles of a page of {size_wh[0]} × {size_wh[1]} pixels, "
            f"expected {1 + across * down}: the page and {across} × {down} tiles of its canvas"
        )


def _require_room(what: str, needed: int, room: int) -> None:
    if needed > room:
        raise ValueError(f"{what} of a row: got {needed}, expected at most the batch's {room}")
