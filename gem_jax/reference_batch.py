"""A reference's case as the model takes it: its config, its rows, ECGs and tiles in one batch.

Axes: B rows, T tokens, P placeholders, F features of one, E ECGs, I image tiles of a row.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from gem_jax.media import Capacity, Shown, placeholder_index
from gem_jax.models.gem import Batch, GemConfig
from gem_jax.reference import Inputs, Picture, Reference, ReferenceFileError
from gem_jax.reference_checks import IGNORED, PLACEHOLDER

# Keys of an official config.json that a case may set, and the model's fields.
OVERRIDES = {
    "image_aspect_ratio": "image_mode",
    "image_grid_pinpoints": "grid_pinpoints",
    "mm_patch_merge_type": "patch_merge",
    "tokenizer_model_max_length": "",  # where the case's rows are cut, however short
    "tokenizer_padding_side": "padding_side",
}
# Ways to read an image that the original merges like `ori`.
UNMERGED = (None, "square")


def overridden(
    config: GemConfig, overrides: Mapping[str, Any], case: str
) -> tuple[GemConfig, int | None]:
    """Returns (the config that a case sets, where its rows are cut: None is nowhere)."""
    if unknown := sorted(set(overrides) - set(OVERRIDES)):
        raise ReferenceFileError(
            f"{case}.config: got {', '.join(unknown)}, expected none but {', '.join(OVERRIDES)}"
        )
    fields = {OVERRIDES[key]: value for key, value in overrides.items() if OVERRIDES[key]}
    try:
        if "grid_pinpoints" in fields:
            fields["grid_pinpoints"] = _pinpoints(fields["grid_pinpoints"])
        if fields.get("image_mode", "") in UNMERGED:
            fields["image_mode"] = "ori"
        own = dataclasses.replace(config, **fields)
    except (TypeError, ValueError) as error:
        raise ReferenceFileError(f"{case}.config: {error}") from error
    longest = overrides.get("tokenizer_model_max_length", config.max_length)
    if longest is not None and (type(longest) is not int or longest < 1):
        raise ReferenceFileError(
            f"{case}.config: tokenizer_model_max_length: got {longest!r}, expected a number of "
            "tokens, or null"
        )
    return own, longest


def batch_of(
    config: GemConfig, reference: Reference, inputs: Inputs, longest: int | None, case: str
) -> Batch:
    """Returns the case's rows with their placeholders expanded, cut and padded to the longest."""
    counts = ((inputs.ids == PLACEHOLDER) & inputs.mask).sum(axis=1)
    slots = np.split(inputs.slots, np.cumsum(counts)[:-1])
    pictures = [[_picture(reference, slot, inputs.tiles) for slot in own.tolist()] for own in slots]
    tiles = [sum(len(one.tiles) for one in own if one) for own in pictures]
    capacity = Capacity(int(counts.max()) if config.ecg else 0, max(tiles))
    try:
        media = [_indices(config, capacity, own) for own in pictures]
    except ValueError as error:
        raise ReferenceFileError(f"{case}: {error}") from error
    merged = [
        _merged(ids[mask], labels[mask], own)[:longest]
        for ids, labels, mask, own in zip(
            inputs.ids, inputs.labels, inputs.mask, media, strict=True
        )
    ]
    columns = _padded(merged, max(map(len, merged)))
    return Batch(
        **columns,
        ecg=_ecgs(reference, slots, capacity.ecgs),
        image=_images(pictures, capacity.tiles),
    )


def _merged(
    ids: Int[np.ndarray, "T"], labels: Int[np.ndarray, "T"], media: list[Int[np.ndarray, "_"]]
) -> Int[np.ndarray, "M 3"]:
    """Returns (token, label, feature or -1) of each place, features where placeholders were."""
    text = np.stack([ids, labels, np.full(len(ids), -1)], axis=1)
    at = np.flatnonzero(ids == PLACEHOLDER)
    parts = np.split(text, at)
    for number, index in enumerate(media, start=1):
        filled = np.stack([np.zeros_like(index), np.full_like(index, IGNORED), index], axis=1)
        parts[number] = np.concatenate([filled, parts[number][1:]])
    return np.concatenate(parts)


def _padded(rows: list[Int[np.ndarray, "_ 3"]], length: int) -> dict[str, np.ndarray]:
    """Returns the text columns of a batch: rows padded on the right, targets one token ahead."""
    lengths = np.array([[len(row)] for row in rows])
    fill = np.array([[0, IGNORED, -1]])
    filled = [np.concatenate([row, fill.repeat(length - len(row), axis=0)]) for row in rows]
    tokens, labels, media = np.stack(filled).astype(np.int32).transpose(2, 0, 1)
    ahead = np.pad(labels[:, 1:], ((0, 0), (0, 1)), constant_values=IGNORED)
    places = np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape)
    return {
        "tokens": tokens,
        "positions": places,
        "segments": (places < lengths).astype(np.int32),
        "media_index": media,
        "targets": np.maximum(ahead, 0),
        "loss_mask": ahead != IGNORED,
    }


def _picture(reference: Reference, slot: int, tiles: int | None) -> Picture | None:
    if reference.pictures is None:
        return None
    picture = reference.pictures[slot]
    return dataclasses.replace(picture, tiles=picture.tiles[:tiles])


def _indices(
    config: GemConfig, capacity: Capacity, pictures: list[Picture | None]
) -> list[Int[np.ndarray, "_"]]:
    """Returns the features of each placeholder of a row."""
    indices, first = [], 0
    for number, picture in enumerate(pictures):
        ecg = number if config.ecg else None
        tiles = len(picture.tiles) if picture else 0
        shown = Shown(
            ecg, first if picture else None, tiles, picture.size_wh if picture else (0, 0)
        )
        # Images that did not come as tiles are merged in no way, whatever the config says.
        flat = picture is not None and not picture.merged
        own = dataclasses.replace(config, patch_merge="flat") if flat else config
        indices.append(placeholder_index(own, capacity, shown))
        first += tiles
    return indices


def _ecgs(
    reference: Reference, slots: list[Int[np.ndarray, "_"]], room: int
) -> Float[np.ndarray, "B E L N"] | None:
    if reference.ecgs is None or not room:
        return None
    made = np.zeros((len(slots), room, *reference.ecgs.shape[1:]), np.float32)
    for row, own in enumerate(slots):
        made[row, : len(own)] = reference.ecgs[own]
    return made


def _images(
    pictures: list[list[Picture | None]], room: int
) -> Float[np.ndarray, "B I H W 3"] | None:
    if not room:
        return None
    tiles = [[tile for one in own if one for tile in one.tiles] for own in pictures]
    shape = next(own for own in tiles if own)[0].shape
    made = np.zeros((len(tiles), room, *shape), np.float32)
    for row, own in enumerate(tiles):
        made[row, : len(own)] = own or 0
    return made.transpose(0, 1, 3, 4, 2)


def _pinpoints(value: Any) -> tuple[tuple[int, int], ...]:
    """Returns the canvases; official configs have them as lists, or as the text of lists."""
    pairs = (
        json.loads(value.replace("(", "[").replace(")", "]")) if isinstance(value, str) else value
    )
    return tuple((int(width), int(height)) for width, height in pairs)
