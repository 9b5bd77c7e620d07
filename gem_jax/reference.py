"""The file that holds what the original made of a model: inputs, and the outputs to be equal to.

REFERENCE.npz: `cases`, JSON {"forward": [names], "generate": [names]}; inputs that cases share:
`ecgs` (S, L, N), and `images` (S, C, H, W) or `pixel_values_<i>` (tiles, C, H, W) with
`image_sizes` (S, 2: width, height); then CASE.NAME and gen.CASE.NAME for the names of the tables in
reference_checks.py, optionally CASE.tiles (only the first tiles of an image) and
gen.CASE.eos_token_id. What the model does not take is absent, `slots` and `config` too.
Axes: B rows, T tokens, M tokens after merging, V vocabulary, S stored inputs.
"""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from gem_jax.config import ConfigError
from gem_jax.models.gem import GemConfig
from gem_jax.reference_checks import completed, malformed, misfits
from gem_jax.tokens import IGNORED


class ReferenceFileError(ConfigError):
    """A reference file that is not whole, or not one of this model."""


@dataclass(frozen=True)
class Picture:
    """An image as the encoder takes it."""

    tiles: Float[np.ndarray, "I C H W"]
    size_wh: tuple[int, int]
    merged: bool
    """Whether it came as tiles, which the model's way of merging puts together."""


@dataclass(frozen=True)
class Inputs:
    """What a case asks; `slots` says of each placeholder, row by row, what it receives."""

    ids: Int[np.ndarray, "B T"]
    mask: Bool[np.ndarray, "B T"]
    labels: Int[np.ndarray, "B T"]
    slots: Int[np.ndarray, "P"]
    overrides: dict[str, Any]
    tiles: int | None


@dataclass(frozen=True)
class Forward:
    """A case of the whole forward pass."""

    name: str
    inputs: Inputs
    mask: Bool[np.ndarray, "B M"]
    labels: Int[np.ndarray, "B M"]
    logits: Float[np.ndarray, "B M V"]
    loss: float


@dataclass(frozen=True)
class Generate:
    """A case of greedy generation; its tokens end with the end token, if it was reached."""

    name: str
    inputs: Inputs
    max_new_tokens: int
    eos_token_ids: tuple[int, ...] | None
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Reference:
    """The whole file."""

    ecgs: Float[np.ndarray, "S L N"] | None
    pictures: tuple[Picture, ...] | None
    forward: tuple[Forward, ...]
    generate: tuple[Generate, ...]


def read_reference(path: Path, config: GemConfig) -> Reference:
    """Returns the reference in `path`; ReferenceFileError names all that does not fit the model."""
    arrays = _arrays(path)
    names = _cases(path, arrays)
    arrays = completed(arrays, names)
    problems = [*malformed(arrays, names)] or [*misfits(arrays, names, config)]
    if problems:
        raise ReferenceFileError(f"{path}: {'; '.join(problems)}")
    return Reference(
        arrays.get("ecgs"),
        _pictures(arrays),
        tuple(_forward(arrays, name) for name in names["forward"]),
        tuple(_generate(arrays, name) for name in names["generate"]),
    )


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ReferenceFileError(f"{path}: got {error}, expected a .npz of plain arrays") from error


def _cases(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    expected = 'expected JSON {"forward": [names], "generate": [names]}'
    try:
        cases = json.loads(str(arrays["cases"][()]))
        names = {kind: list(cases.get(kind, [])) for kind in ("forward", "generate")}
    except (KeyError, AttributeError, TypeError, ValueError, RecursionError) as error:
        raise ReferenceFileError(f"{path}: cases: got {error!r}, {expected}") from error
    if not any(names.values()):
        raise ReferenceFileError(f"{path}: cases: got {cases}, {expected}, at least one")
    return names


def _pictures(arrays: Mapping[str, np.ndarray]) -> tuple[Picture, ...] | None:
    if "images" in arrays:
        return tuple(Picture(one[None], one.shape[:0:-1], False) for one in arrays["images"])
    if "image_sizes" not in arrays:
        return None
    return tuple(
        Picture(arrays[f"pixel_values_{i}"], (int(width), int(height)), True)
        for i, (width, height) in enumerate(arrays["image_sizes"])
        if f"pixel_values_{i}" in arrays
    )


def _inputs(arrays: Mapping[str, np.ndarray], prefix: str) -> Inputs:
    ids = arrays[f"{prefix}input_ids"].astype(np.int64)
    tiles = arrays.get(f"{prefix}tiles")
    return Inputs(
        ids,
        arrays.get(f"{prefix}attention_mask", np.ones(ids.shape)).astype(bool),
        arrays.get(f"{prefix}labels", np.full(ids.shape, IGNORED)).astype(np.int64),
        arrays[f"{prefix}slots"].astype(np.int64),
        json.loads(str(arrays[f"{prefix}config"][()])) if f"{prefix}config" in arrays else {},
        None if tiles is None else int(tiles),
    )


def _forward(arrays: Mapping[str, np.ndarray], name: str) -> Forward:
    return Forward(
        name,
        _inputs(arrays, f"{name}."),
        arrays[f"{name}.merged_attention_mask"].astype(bool),
        arrays[f"{name}.merged_labels"].astype(np.int64),
        arrays[f"{name}.logits"],
        float(arrays[f"{name}.loss"]),
    )


def _generate(arrays: Mapping[str, np.ndarray], name: str) -> Generate:
    ends = arrays.get(f"gen.{name}.eos_token_id")
    return Generate(
        name,
        _inputs(arrays, f"gen.{name}."),
        int(arrays[f"gen.{name}.max_new_tokens"]),
        None if ends is None else tuple(np.atleast_1d(ends).tolist()),
        tuple(arrays[f"gen.{name}.new_tokens"].tolist()),
    )
