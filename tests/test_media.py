"""Which feature a token receives: the original's canvases, margins and merges."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_jax.media import (
    NEWLINE,
    Capacity,
    Shown,
    best_canvas,
    grid_shape,
    image_layout,
    max_tiles,
    placeholder_index,
    unpad,
)
from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.models.gem import GemConfig
from gem_jax.models.llm import LlmConfig

GOLDENS = Path(__file__).parent / "goldens" / "preprocess"
GEOMETRY = json.loads((GOLDENS / "geometry.json").read_text())
GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
CASES = ("flat", "spatial", "unpad", "onetile")


def anyres(tile: int, patch_merge: str = "spatial_unpad") -> GemConfig:
    """A GEM that shows pages as LLaVA-1.6 does, its tiles of this side."""
    return GemConfig(
        ecg=EcgConfig(5000, 12, 50, 64, 3, 16, 4.0, 32),
        vision=ClipConfig(tile, 14, 64, 3, 4, 128),
        llm=LlmConfig(512, 64, 3, 4, 4, 16, 176, 10_000.0, 1e-5),
        ecg_projector="linear",
        mm_projector="mlp2x_gelu",
        bos_token_id=1,
        eos_token_ids=(2,),
        pad_token_id=0,
        image_mode="anyres",
        max_length=2048,
        patch_merge=patch_merge,
        grid_pinpoints=tuple((tile * across, tile * down) for across, down in GRIDS),
        image_newline=True,
    )


def test_canvas_grid_and_margins_are_the_originals() -> None:
    config = anyres(GEOMETRY["tile"])
    assert config.grid_pinpoints == tuple(map(tuple, GEOMETRY["pinpoints"]))
    for case in GEOMETRY["cases"]:
        size_wh = tuple(case["size_wh"])
        across, down = grid_shape(config, size_wh)
        side = GEOMETRY["patches_per_side"]
        patches = np.zeros((down * side, across * side), int)
        assert best_canvas(size_wh, config.grid_pinpoints) == tuple(case["best"])
        assert [across, down] == case["grid_wh"]
        assert list(unpad(patches, size_wh).shape) == case["unpadded_hw"]


def test_width_and_height_exchanged_give_another_layout() -> None:
    config = anyres(GEOMETRY["tile"])
    wide, tall = image_layout(config, 4, (1198, 367)), image_layout(config, 4, (367, 1198))
    assert len(wide) != len(tall)
    flat = anyres(GEOMETRY["tile"], "spatial")
    assert (image_layout(flat, 4, (1198, 367)) != image_layout(flat, 4, (367, 1198))).any()


@pytest.mark.parametrize("case", CASES)
def test_merged_features_are_the_originals(case: str) -> None:
    """The flat merge holds every feature in order; by our layout it gives all other merges."""
    golden = np.load(GOLDENS / "merge.npz")
    config = anyres(56, {"unpad": "spatial_unpad", "onetile": "spatial_unpad"}.get(case, case))
    for row in range(2):
        size_wh = tuple(map(int, golden["image_sizes"][row]))
        tiles = 1 + int(np.prod(grid_shape(config, size_wh)))
        features = np.concatenate([_features(golden, row, tiles), golden["newline"]])
        merged = golden[f"{case}.embeds"][row][golden[f"{case}.mask"][row]]
        start = _placeholder(golden, row)
        shown = Shown(0, 0, 1 if case == "onetile" else tiles, size_wh)
        index = placeholder_index(config, Capacity(1, tiles), shown)
        assert len(merged) == len(index) + (25, 34)[row]
        np.testing.assert_allclose(
            features[index], merged[start : start + len(index)], rtol=0, atol=1e-5
        )
        shuffled = index.copy()
        shuffled[-3], shuffled[-2] = index[-2], index[-3]
        assert np.abs(features[shuffled] - merged[start : start + len(index)]).max() > 1e-3


def _features(golden: np.lib.npyio.NpzFile, row: int, tiles: int) -> np.ndarray:
    """The projected features of the row's ECG and tiles."""
    start = _placeholder(golden, row)
    return golden["flat.embeds"][row, start : start + 101 + 16 * tiles]


def _placeholder(golden: np.lib.npyio.NpzFile, row: int) -> int:
    return int(np.flatnonzero(golden["input_ids"][row] == -200)[0])


def test_features_of_a_row_are_ecgs_then_tiles_then_the_newline() -> None:
    config = anyres(56)
    capacity = Capacity(ecgs=2, tiles=max_tiles(config) + 1)
    assert capacity.tiles == 6
    index = placeholder_index(config, capacity, Shown(1, 1, 1, (10, 10)))
    np.testing.assert_array_equal(index[:101], np.arange(101, 202))
    np.testing.assert_array_equal(index[101:117], np.arange(218, 234))
    assert list(index[117:]) == [2 * 101 + 6 * 16]
    assert not placeholder_index(config, capacity, Shown(None, None, 0, (0, 0))).size


def test_other_modes_show_the_one_tile_as_it_is() -> None:
    for mode in ("ori", "pad"):
        config = dataclasses.replace(anyres(56), image_mode=mode)
        np.testing.assert_array_equal(image_layout(config, 1, (300, 200)), np.arange(16))
        assert max_tiles(config) == 1
        with pytest.raises(ValueError, match=f"got 5 tiles of a page, expected 1 in mode '{mode}'"):
            image_layout(config, 5, (300, 200))


def test_what_does_not_fit_is_refused() -> None:
    config = anyres(56)
    with pytest.raises(ValueError, match="got 4 tiles of a page of 300 × 200 pixels, expected 5"):
        image_layout(config, 4, (300, 200))
    with pytest.raises(ValueError, match="ECGs of a row: got 2, expected at most the batch's 1"):
        placeholder_index(config, Capacity(1, 5), Shown(1, None, 0, (0, 0)))
    with pytest.raises(ValueError, match="image tiles of a row: got 6, expected at most"):
        placeholder_index(config, Capacity(1, 5), Shown(0, 1, 5, (300, 200)))
    uneven = dataclasses.replace(config, grid_pinpoints=((56, 100),))
    with pytest.raises(ValueError, match="expected multiples of the 56 pixels"):
        image_layout(uneven, 2, (300, 200))


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from(["flat", "spatial"]))
def test_without_unpad_every_feature_is_shown_once(width: int, height: int, merge: str) -> None:
    config = anyres(56, merge)
    tiles = 1 + int(np.prod(grid_shape(config, (width, height))))
    assert tiles <= max_tiles(config)
    layout = image_layout(config, tiles, (width, height))
    np.testing.assert_array_equal(np.sort(layout), np.arange(tiles * 16))


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_unpad_leaves_a_rectangle_whose_rows_end_in_newlines(width: int, height: int) -> None:
    config = anyres(56)
    across, down = grid_shape(config, (width, height))
    layout = image_layout(config, 1 + across * down, (width, height))[16:]
    ends = np.flatnonzero(layout == NEWLINE)
    assert len(set(np.diff(ends, prepend=-1))) <= 1
    assert len(layout) <= (down * 4) * (across * 4 + 1)
