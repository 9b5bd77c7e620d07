"""What an official config.json says of images: image_aspect_ratio and image_grid_pinpoints."""

import json
from typing import Any

# The original reads a page by its image encoder's defaults unless it is told to pad or to tile.
UNPADDED = (None, "square")


def image_mode(given: Any) -> Any:
    """Returns the model's `image_mode` of an image_aspect_ratio; what is unknown stays as it is."""
    return "ori" if given in UNPADDED else given


def pinpoints(given: Any) -> tuple[tuple[int, int], ...]:
    """Returns the (width, height) canvases of an image_grid_pinpoints: a list, its text, or null.

    ValueError when it is something else.
    """
    try:
        text = given.replace("(", "[").replace(")", "]") if isinstance(given, str) else None
        pairs = tuple(tuple(pair) for pair in (json.loads(text) if text else given or ()))
        whole = all(len(pair) == 2 and set(map(type, pair)) == {int} for pair in pairs)
    except (TypeError, ValueError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(
            f"image_grid_pinpoints: got {given!r}, expected pairs of width and height in pixels"
        )
    return pairs
