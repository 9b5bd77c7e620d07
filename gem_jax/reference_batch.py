"""A reference's case as the model takes it: its config, its rows, ECGs and tiles in one batch."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from gem_jax.image_keys import image_mode, pinpoints
from gem_jax.inputs import Medium, features_of, stack
from gem_jax.media import Capacity
from gem_jax.models.gem import Batch, GemConfig
from gem_jax.reference import Inputs, Reference, ReferenceFileError
from gem_jax.rows import merge
from gem_jax.tokens import IGNORED, IMAGE_TOKEN, Encoded

# Keys of an official config.json that a case may set, and the model's fields.
OVERRIDES = {
    "image_aspect_ratio": "image_mode",
    "image_grid_pinpoints": "grid_pinpoints",
    "mm_patch_merge_type": "patch_merge",
    "tokenizer_model_max_length": "",  # where the case's rows are cut, however short
    "tokenizer_padding_side": "padding_side",
}


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
            fields["grid_pinpoints"] = pinpoints(fields["grid_pinpoints"])
        if "image_mode" in fields:
            fields["image_mode"] = image_mode(fields["image_mode"])
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
    if reference.pictures and not reference.pictures[0].merged:
        # Images that did not come as tiles are merged in no way, whatever the config says.
        config = dataclasses.replace(config, patch_merge="flat")
    counts = ((inputs.ids == IMAGE_TOKEN) & inputs.mask).sum(axis=1)
    slots = np.split(inputs.slots, np.cumsum(counts)[:-1])
    media = [
        [_medium(config, reference, slot, inputs.tiles) for slot in own.tolist()] for own in slots
    ]
    tiles = [sum(len(one.tiles) for one in own if one.tiles is not None) for own in media]
    capacity = Capacity(int(counts.max()) if config.ecg else 0, max(tiles))
    try:
        features = [features_of(config, capacity, own) for own in media]
    except ValueError as error:
        raise ReferenceFileError(f"{case}: {error}") from error
    texts = zip(inputs.ids, inputs.labels, inputs.mask, features, strict=True)
    merged = [
        [merge(one, own).cut(longest) for one in _asked_and_taught(ids[mask], labels[mask], case)]
        for ids, labels, mask, own in texts
    ]
    length = max(len(asked.tokens) for asked, _ in merged)
    rows = [
        dataclasses.replace(asked.padded(length), targets=taught.padded(length).targets)
        for asked, taught in merged
    ]
    return stack(config, capacity, rows, media)


def _asked_and_taught(
    ids: Int[np.ndarray, "T"], labels: Int[np.ndarray, "T"], case: str
) -> tuple[Encoded, Encoded]:
    """Returns a row as it is read, and with its labels, which may be other tokens."""
    learn = (labels != IGNORED) & (ids != IMAGE_TOKEN)
    return Encoded(ids, learn, case), Encoded(np.where(learn, labels, ids), learn, case)


def _medium(config: GemConfig, reference: Reference, slot: int, tiles: int | None) -> Medium:
    """Returns the stored ECG and image that a placeholder receives, of this its first `tiles`."""
    ecg = reference.ecgs[slot] if config.ecg and reference.ecgs is not None else None
    if reference.pictures is None:
        return Medium(ecg, None, (0, 0))
    picture = reference.pictures[slot]
    return Medium(ecg, picture.tiles[:tiles].transpose(0, 2, 3, 1), picture.size_wh)
