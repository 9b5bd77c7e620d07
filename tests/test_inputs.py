"""Inputs: pages and ECGs where the placeholders are, in shapes that do not depend on them."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import tiny
from data_prep.records import LEADS, BadInput, Record
from gem_jax import checkpoint
from gem_jax.answers import prompts
from gem_jax.config import ConfigError
from gem_jax.generate import generate
from gem_jax.inputs import Exhibit, Medium, features_of, medium_of, page_of, room_for, stack
from gem_jax.media import Capacity, max_features, max_tiles
from gem_jax.models.gem import Gem
from gem_jax.preprocess import ecg_array, image_tiles
from gem_jax.rows import expand
from gem_jax.templates import IMAGE, TokenError
from gem_jax.tokenizer import train_tokenizer
from gem_jax.tokens import Encoded, encode
from gem_jax.weights import load
from synthetic import ecg

GOLDEN = Path(__file__).parent / "goldens" / "gem_anyres_tiny"
ANYRES = dataclasses.replace(
    tiny.MODEL, image_mode="anyres", grid_pinpoints=((64, 32), (32, 64), (64, 64))
)
OWN = train_tokenizer(["Rate 72 bpm. Axis normal. USER: ASSISTANT: Describe this ECG."], 400)


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """The original's anyres model: its config, parameters, and what the original made of it."""
    folder = tmp_path_factory.mktemp("models") / "anyres"
    load.main(GOLDEN, folder)
    with np.load(GOLDEN / "reference.npz") as stored:
        return *checkpoint.load_params(folder), dict(stored)


def exhibits(golden, images=(0, 1)) -> list[list[Exhibit]]:
    """The reference's ECGs as records, each with one of its pages as a file."""
    stored = golden[2]["ecgs"]
    records = [Record(f"ecg {row}", LEADS, stored[row], 500.0) for row in range(2)]
    files = [GOLDEN / f"image_{number}.png" for number in images]
    return [[Exhibit(record, file)] for record, file in zip(records, files, strict=True)]


def asked(arrays, case: str) -> list[Encoded]:
    ids = arrays[f"{case}.input_ids"]
    masks = arrays.get(f"{case}.attention_mask", np.ones(ids.shape, bool))
    kept = [own[mask] for own, mask in zip(ids, masks, strict=True)]
    return [Encoded(own, np.zeros(len(own), bool), case) for own in kept]


def logits_of(config, params, batch) -> np.ndarray:
    apply = jax.jit(functools.partial(Gem(config).apply, {"params": params}))
    with jax.default_matmul_precision("highest"):
        return np.asarray(apply(batch))


@pytest.mark.parametrize(("case", "merge"), [("unpad", "spatial_unpad"), ("flat", "flat")])
def test_a_record_and_a_picture_give_the_originals_logits(golden, case, merge):
    """From the files on, in a batch with room for the largest page."""
    config, params, arrays = golden
    config = dataclasses.replace(config, patch_merge=merge)
    told = asked(arrays, case)
    length = arrays[f"{case}.logits"].shape[1] + 9
    batch = prompts(config, told, exhibits(golden), room_for(config, 1), length)
    assert batch.image.shape[1] == max_tiles(config) == 5
    mask = arrays[f"{case}.merged_attention_mask"]
    assert (batch.segments[:, :-9] > 0).tolist() == mask.tolist()

    def apart(batch) -> float:
        made = logits_of(config, params, batch)[:, :-9]
        return float(np.abs(made - arrays[f"{case}.logits"])[mask].max())

    assert apart(batch) < 1e-4
    order = [0, 2, 1, 3, 4]
    assert apart(batch.replace(image=batch.image[:, order])) > 1e-2, "tiles in another order"
    assert apart(batch.replace(ecg=batch.ecg[::-1])) > 1e-2, "another patient's ECG"


def test_a_record_and_a_picture_give_the_originals_answer(golden):
    config, params, arrays = golden
    for case, number in (("gen.s0", 0), ("gen.s1", 1)):
        for page in (number, 1 - number):
            shown = [exhibits(golden, (page, page))[number]]
            batch = prompts(config, asked(arrays, case), shown, room_for(config, 1), 300)
            new = arrays[f"{case}.new_tokens"].tolist()
            (said,) = generate(
                config, params, batch, max_new_tokens=len(new), num_tokens=512, eos_token_ids=(2,)
            )
            assert (list(said.tokens) == new) == (page == number)


def test_two_placeholders_receive_each_its_own_ecg_and_page(tmp_path):
    """A page of one tile beside one of five, and a row with one placeholder below."""
    files = [tmp_path / "wide.png", tmp_path / "square.png"]
    for file, size in zip(files, ((120, 40), (90, 90)), strict=True):
        Image.effect_noise(size, 80).convert("RGB").save(file)
    records = [ecg(rate_bpm=rate)[0] for rate in (60.0, 90.0)]
    media = [medium_of(ANYRES, Exhibit(*one)) for one in zip(records, files, strict=True)]
    assert [len(one.tiles) for one in media] == [3, 5]
    capacity = room_for(ANYRES, 2)
    assert capacity == Capacity(2, 10)
    two, one = features_of(ANYRES, capacity, media), features_of(ANYRES, capacity, media[1:])
    turns = [(f"{IMAGE}{IMAGE}\nWhat changed?", "Rate.")]
    rows = [
        expand(encode(OWN, "bare", turns, num_media=2), two, 120),
        expand(encode(OWN, "bare", [(f"{IMAGE}\nRate?", "90.")]), one, 120),
    ]
    batch = stack(ANYRES, capacity, rows, [media, media[1:]])
    assert batch.ecg.shape[:2] == (2, 2) and batch.image.shape[:2] == (2, 10)
    for number, record in enumerate(records):
        array = ecg_array(record, ANYRES.ecg)
        np.testing.assert_array_equal(batch.ecg[0, number], array)
    tiles = [image_tiles(Image.open(file), ANYRES) for file in files]
    np.testing.assert_array_equal(batch.image[0, :8], np.concatenate(tiles))
    assert not batch.image[0, 8:].any() and not batch.image[1, 5:].any()
    assert not batch.ecg[1, 1].any()
    ecg_tokens, tile = ANYRES.ecg_tokens, ANYRES.image_tokens
    shown = batch.media_index[0][batch.media_index[0] >= 0]
    expected = [np.arange(ecg_tokens), 2 * ecg_tokens + np.arange(3 * tile)]
    expected += [ecg_tokens + np.arange(ecg_tokens), 2 * ecg_tokens + np.arange(3 * tile, 8 * tile)]
    assert sorted(shown.tolist()) == sorted(np.concatenate(expected).tolist())
    np.testing.assert_array_equal(shown[: ecg_tokens + 3 * tile], np.concatenate(expected[:2]))


def test_t02_media_and_placeholders_that_differ_in_number_are_refused_by_the_records_id():
    for count in (0, 1, 3):
        turns = [(f"{IMAGE}{IMAGE} Which is faster?", "The first.")]
        with pytest.raises(TokenError, match=f"rec/7: got 2 <image> .* expected {count}"):
            encode(OWN, "bare", turns, num_media=count, id="rec/7")


def test_rows_without_media_stand_beside_rows_with_them_or_alone():
    medium = medium_of(tiny.MODEL, Exhibit(ecg()[0]))
    capacity = room_for(tiny.MODEL, 1)
    rows = [
        expand(
            encode(OWN, "bare", [(f"{IMAGE}\nRate?", "72.")]),
            features_of(tiny.MODEL, capacity, [medium]),
            80,
        ),
        expand(encode(OWN, "bare", [("What is a lead?", "A view.")]), [], 80),
    ]
    batch = stack(tiny.MODEL, capacity, rows, [[medium], []])
    assert batch.ecg[0].any() and not batch.ecg[1].any()
    assert (batch.media_index[1] == -1).all()
    alone = stack(tiny.MODEL, room_for(tiny.MODEL, 0), rows[1:], [[]])
    assert alone.ecg is None and alone.image is None
    params = tiny.params()
    shown = logits_of(tiny.MODEL, params, batch)[1, : rows[1].length]
    bare = logits_of(tiny.MODEL, params, alone)[0, : rows[1].length]
    np.testing.assert_allclose(shown, bare, rtol=0, atol=1e-5)


def test_what_a_model_takes_decides_what_is_shown(tmp_path):
    record, _ = ecg()
    page = tmp_path / "page.png"
    Image.new("RGB", (50, 40), "white").save(page)
    pulse = dataclasses.replace(tiny.MODEL, ecg=None, ecg_projector="identity")
    assert medium_of(pulse, Exhibit(None, page)).ecg is None
    assert medium_of(pulse, Exhibit(record)).ecg is None
    with pytest.raises(BadInput, match=r"page.png: got a picture alone, expected the ECG's record"):
        medium_of(tiny.MODEL, Exhibit(None, page))
    with pytest.raises(BadInput, match="got none and no picture"):
        medium_of(pulse, Exhibit(None))
    alone = dataclasses.replace(pulse, vision=None, mm_projector="identity")
    with pytest.raises(ConfigError, match="got a language model alone"):
        medium_of(alone, Exhibit(record))
    assert room_for(alone, 1) == Capacity(0, 0) and max_features(alone) == 0


def test_a_page_is_drawn_with_the_pixels_that_the_encoder_resolves():
    record, _ = ecg()
    large = dataclasses.replace(
        ANYRES,
        vision=dataclasses.replace(ANYRES.vision, image_size=336, patch_size=14),
        grid_pinpoints=((672, 336), (336, 672)),
        max_length=4096,
    )
    assert page_of(Exhibit(record), tiny.MODEL).width == 220
    assert page_of(Exhibit(record), large).width >= 672


@pytest.mark.parametrize("merge", ["flat", "spatial", "spatial_unpad"])
def test_no_page_becomes_more_tokens_than_there_is_room_for(merge):
    config = dataclasses.replace(ANYRES, patch_merge=merge, image_newline=True)
    sizes = [(w, h) for w in (20, 64, 97, 300) for h in (20, 64, 97, 300)]
    counts = []
    for size in sizes:
        tiles = image_tiles(Image.new("RGB", size), config)
        medium = Medium(np.zeros((12, 1000), np.float32), tiles, size)
        counts += [len(one) for one in features_of(config, room_for(config, 1), [medium])]
    assert max(counts) == max_features(config)
    assert min(counts) < max(counts)
