"""What the model reads of a record, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.records import LEADS, BadInput, Record, read, select_leads
from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.models.gem import GemConfig
from gem_jax.models.llm import LlmConfig
from gem_jax.preprocess import CLIP_MEAN, CLIP_STD, ecg_array, image_tiles, read_page, seen
from synthetic import ecg

CONFIG = EcgConfig.coca_vit_b_32()
GOLDENS = Path(__file__).parent / "goldens" / "preprocess"
IMAGES = json.loads((GOLDENS / "images.json").read_text())


def test_a_long_record_is_read_to_the_models_end_and_says_so() -> None:
    record, _ = ecg(duration_s=30.0)
    shown = seen(record, CONFIG)
    assert shown.duration_s == 10.0
    assert "the model reads the first 10 s of 30 s" in shown.notes
    np.testing.assert_array_equal(ecg_array(shown, CONFIG), ecg_array(record, CONFIG))
    short, _ = ecg(duration_s=10.0)
    assert seen(short, CONFIG) is short


def test_a_short_record_is_followed_by_zeros_and_missing_samples_are_zero() -> None:
    record, _ = ecg(duration_s=4.0)
    signal_mv = record.signal_mv.copy()
    signal_mv[0, 100:200] = np.nan
    array = ecg_array(dataclasses.replace(record, signal_mv=signal_mv), CONFIG)
    assert array.shape == (12, 5000)
    assert not array[:, 2000:].any() and not array[0, 100:200].any()
    np.testing.assert_array_equal(array[1, :2000], record.signal_mv[1])


def test_another_rate_gives_the_same_array() -> None:
    slow, fast = (ecg_array(ecg(rate_hz=rate)[0], CONFIG) for rate in (250.0, 500.0))
    assert np.abs(slow - fast)[:, 50:-50].max() < 0.05
    assert np.abs(fast).max() > 0.5


def test_fewer_than_twelve_leads_and_other_units_are_refused() -> None:
    record, _ = ecg()
    with pytest.raises(BadInput, match="aVF, V1"):
        ecg_array(select_leads(record, ("I", "II", "III", "aVR", "aVL")), CONFIG)
    with pytest.raises(BadInput, match="expected at most 50 mV"):
        ecg_array(dataclasses.replace(record, signal_mv=record.signal_mv * 1000), CONFIG)


def test_the_originals_reading_is_the_originals() -> None:
    golden = np.load(GOLDENS / "ecg.npz")
    for case in ("array_1", "array_5"):
        record = stored(golden[f"{case}_in"].T)
        array = ecg_array(record, CONFIG, "original")
        np.testing.assert_array_equal(array, golden[f"{case}_out"])
    for name in ("rec_short", "rec_nan"):
        record = read(GOLDENS / name)
        np.testing.assert_allclose(
            ecg_array(record, CONFIG, "original"), golden[f"{name}_out"], rtol=0, atol=1e-6
        )
    short = read(GOLDENS / "rec_short")
    assert short.sampling_rate_hz == 100.0
    assert np.abs(ecg_array(short, CONFIG) - golden["rec_short_out"]).max() > 0.1


def test_the_original_reads_leads_in_the_order_of_the_file() -> None:
    """MIMIC-IV-ECG stores aVF before aVL: the original exchanges them, ours does not."""
    record, _ = ecg(duration_s=10.0)
    mimic = (*LEADS[:4], "aVF", "aVL", *LEADS[6:])
    swapped = dataclasses.replace(record, stored_leads=mimic)
    array = ecg_array(swapped, CONFIG, "original")
    np.testing.assert_array_equal(array[4], record.signal_mv[5])
    np.testing.assert_array_equal(array[5], record.signal_mv[4])
    np.testing.assert_array_equal(ecg_array(swapped, CONFIG)[4], record.signal_mv[4])
    assert (array[4] != array[5]).any()


def test_the_original_cannot_read_leads_that_were_not_stored() -> None:
    record, _ = ecg()
    eight = dataclasses.replace(record, stored_leads=("I", "II", *LEADS[6:]))
    with pytest.raises(BadInput, match=r"got 8 stored leads .*, expected 12"):
        ecg_array(eight, CONFIG, "original")
    with pytest.raises(BadInput, match="got 0 stored leads"):
        ecg_array(dataclasses.replace(record, stored_leads=()), CONFIG, "original")
    assert ecg_array(eight, CONFIG).any()
    of_eight = ecg_array(eight, dataclasses.replace(CONFIG, num_leads=8), "original")
    np.testing.assert_array_equal(of_eight, record.signal_mv[[0, 1, *range(6, 12)]])


def test_infinite_samples_are_zero_to_the_original_and_refused_by_ours() -> None:
    signal_mv = np.zeros((12, 4))
    signal_mv[:, 1], signal_mv[:, 2] = np.inf, -np.inf
    record = stored(signal_mv)
    assert not ecg_array(record, CONFIG, "original").any()
    with pytest.raises(BadInput, match="expected at most 50 mV"):
        ecg_array(record, CONFIG)


@pytest.mark.parametrize("image", IMAGES["images"], ids=lambda image: image["mode"])
def test_pages_are_the_originals(image: dict) -> None:
    page = Image.open(GOLDENS / Path(image["file"]).name)
    levels = np.load(GOLDENS / "images_uint8.npz")
    for mode, out in image["out"].items():
        golden = levels[out["key"]].reshape(-1, 3, 336, 336).transpose(0, 2, 3, 1)
        tiles = image_tiles(page, gem(336, mode), "original")
        assert np.abs(as_levels(tiles) - golden).max() < 0.01
        if page.mode != "RGBA":
            np.testing.assert_array_equal(image_tiles(page, gem(336, mode)), tiles)
        turned = image_tiles(page.rotate(180), gem(336, mode), "original")
        assert np.abs(as_levels(turned) - golden).max() > 100


def test_a_page_is_the_same_tensor_in_every_kind_of_pixels() -> None:
    """The page has ink, white and, where its kind can, transparent paper; 1001 × 400 is odd."""
    gray = np.full((400, 1001), 255, np.uint8)
    gray[50:60, 20:900] = np.linspace(0, 254, 880).astype(np.uint8)
    page = Image.fromarray(gray)
    paper = np.where(gray == 255, 0, 255).astype(np.uint8)
    clear = np.stack([np.where(gray == 255, 7, gray).astype(np.uint8), paper], -1)
    palette = page.convert("P")
    palette.info["transparency"] = 255
    palette.putpalette([level for level in range(255) for _ in range(3)] + [200, 0, 0])
    kinds = {
        "L": page,
        "LA": Image.fromarray(clear, "LA"),
        "RGBA": Image.fromarray(clear, "LA").convert("RGBA"),
        "P": palette,
        "I;16": Image.fromarray(gray.astype(np.uint16) * 257),
        "CMYK": page.convert("RGB").convert("CMYK"),
    }
    for mode in ("ori", "pad", "anyres"):
        expected = image_tiles(page.convert("RGB"), gem(56, mode))
        for kind, image in kinds.items():
            assert image.mode == kind
            np.testing.assert_array_equal(image_tiles(image, gem(56, mode)), expected, kind)
    control = image_tiles(kinds["LA"], gem(56, "ori"), "original")
    assert np.abs(control - image_tiles(page, gem(56, "ori"))).max() > 1
    for kind in ("I", "F"):
        with pytest.raises(BadInput, match=f"mode '{kind}' .* expected 8 or 16 bits"):
            image_tiles(page.convert(kind), gem(56, "pad"))


def test_the_odd_line_of_the_padding_lies_below() -> None:
    white = Image.new("RGB", (1001, 400), "white")
    rows = as_levels(image_tiles(white, gem(1001, "pad", patch=7)))[0, :, 500, :]
    page = np.flatnonzero((rows > 254.5).all(axis=1))
    assert (page[0], 1000 - page[-1], len(page)) == (300, 301, 400)
    np.testing.assert_allclose(rows[0], [122, 116, 104], atol=0.01)


def test_a_wide_page_keeps_its_ends_but_in_ori() -> None:
    page = Image.new("RGB", (200, 50), "white")
    page.paste("black", (0, 0, 20, 50))
    tiles = {mode: image_tiles(page, gem(28, mode)) for mode in ("ori", "pad", "anyres")}
    assert {mode: len(array) for mode, array in tiles.items()} == {"ori": 1, "pad": 1, "anyres": 4}
    assert tiles["pad"][0, 14, :2].max() < -1.4 < 1.5 < tiles["pad"][0, 14, 6:].min()
    assert tiles["ori"].min() > 1.5
    assert tiles["anyres"][0, 14, :2].max() < -1.4
    assert tiles["anyres"][1, 14, :6].max() < -1.4 < 1.5 < tiles["anyres"][2, 14].min()


def test_a_page_needs_an_image_encoder() -> None:
    blind = dataclasses.replace(gem(28, "pad"), ecg=None, vision=None)
    with pytest.raises(BadInput, match="the model has no image encoder"):
        image_tiles(Image.new("RGB", (9, 9)), blind)


def as_levels(tiles: np.ndarray) -> np.ndarray:
    return (tiles * CLIP_STD + CLIP_MEAN) * 255


def stored(signal_mv: np.ndarray) -> Record:
    """A record at 500 Hz whose file holds the twelve leads in canonical order."""
    return Record("made", LEADS, signal_mv.astype(np.float32), 500.0, stored_leads=LEADS)


def gem(size: int, mode: str, patch: int = 14) -> GemConfig:
    """A model whose image encoder takes pages of this size."""
    grids = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
    vision = ClipConfig(size, patch, 16, 1, 2, 32, select_layer=-1)
    return GemConfig(
        ecg=CONFIG,
        vision=vision,
        llm=LlmConfig(400, 32, 1, 4, 2, 8, 48, 10_000.0, 1e-5),
        ecg_projector="linear",
        mm_projector="linear",
        bos_token_id=1,
        eos_token_ids=(2,),
        pad_token_id=0,
        image_mode=mode,
        max_length=50_000,
        grid_pinpoints=tuple((size * across, size * down) for across, down in grids),
    )


BROKEN = {
    "sizes.ppm": b"P6\n4$ 4\n255\n0000",
    "short.ppm": b"P6\n4 4\n255\n0000",
    "levels.pgm": b"P5\n4 4\n99999999\n0000",
    "boxes.jp2": b"\x00\x00\x00\x0cjP  \r\n\x87\n\x00\x00\x00\x02jp2h",
    "empty.png": b"",
    "cut.png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR\x00\x00",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_is_refused_by_its_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(BROKEN[name])
    with pytest.raises(BadInput, match=rf"{name}: cannot be read .*, expected a whole picture"):
        read_page(tmp_path / name)


def test_a_photograph_is_upright_to_ours_and_as_stored_to_the_original(tmp_path: Path) -> None:
    upright = Image.new("RGB", (90, 60), "white")
    upright.paste("black", (0, 0, 20, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise to see it upright
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(read_page(tmp_path / "photo.png"), upright)
    assert read_page(tmp_path / "photo.png", "original").size == (60, 90)
