"""Official files are read as they are; the original's own rows; rows of other shapes listed."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import official
import tiny
from data_prep import records
from data_prep.records import BadInput
from gem_jax.config import ConfigError
from gem_jax.data import train_batches
from gem_jax.instruction_file import Instructions, walk
from gem_jax.media import max_tiles
from gem_jax.preprocess import ecg_array, image_tiles, read_page
from gem_jax.tokenizer import load_tokenizer
from gem_jax.tokens import IGNORED, IMAGE_TOKEN
from gem_jax.weights.hf_config import read_official

LLAMA = official.GOLDEN.parent / "gem_llama_tiny"
MICRO_BATCHES = 20


@pytest.fixture(scope="module")
def tokenizer(prepared):
    return load_tokenizer(prepared / "tokenizer")


@pytest.fixture(scope="module")
def golden():
    with np.load(official.GOLDEN / "batches.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def in_order(tmp_path_factory):
    """The original's file with its rows in the order in which the original drew them."""
    rows = json.loads((official.GOLDEN / "data.json").read_text())
    log = json.loads((official.GOLDEN / "log.json").read_text())
    drawn = [rows[index] for pair in log["order_per_microbatch"] for index in pair]
    return official.write(tmp_path_factory.mktemp("drawn") / "data.json", drawn), drawn


def original(path, **fields):
    model = read_official(LLAMA, None, False).config
    recipe = dataclasses.replace(tiny.instruct(), model=model)
    data = {
        "mixture": (official.source(path),),
        "shuffle": False,
        "augment": False,
        "reading": "original",
        "cut": "original",
        "length": model.max_length,
        "batch_size": 2,
    }
    return tiny.changed(recipe, data=data | fields, train={"steps": MICRO_BATCHES})


def unmerged(batch, row):
    """Returns a row's ids and labels as they were before the features were put in."""
    real = batch.segments[row] > 0
    media = batch.media_index[row][real] >= 0
    learn = np.append(False, batch.loss_mask[row][real][:-1])
    ids = np.where(media, IMAGE_TOKEN, batch.tokens[row][real])
    labels = np.where(learn, ids, IGNORED)
    first = ~media | np.append(True, ~media[:-1])
    return ids[first], labels[first]


def fits(batch, golden, number) -> bool:
    def matches(row):
        mask = golden[f"mb{number}_attention_mask"][row]
        ids, labels = unmerged(batch, row)
        return np.array_equal(ids, golden[f"mb{number}_input_ids"][row][mask]) and np.array_equal(
            labels, golden[f"mb{number}_labels"][row][mask]
        )

    return matches(0) and matches(1)


def test_batches_of_the_originals_run_are_its_micro_batches(in_order, golden):
    path, drawn = in_order
    config, tokenizer = original(path), load_tokenizer(LLAMA)
    made = list(train_batches(config, tokenizer, 0))
    assert len(made) == MICRO_BATCHES
    for number, got in enumerate(made):
        assert got.record_ids == tuple(row["id"] for row in drawn[2 * number : 2 * number + 2])
        assert fits(got.batch, golden, number)
        assert not fits(got.batch, golden, (number + 1) % MICRO_BATCHES), "the control: another"
        labels = golden[f"mb{number}_labels"]
        assert got.num_learnt == (labels != IGNORED).sum()
    record = records.read(official.GOLDEN / "ecg" / drawn[3]["ecg"])
    page = read_page(official.GOLDEN / "img" / drawn[3]["image"])
    shown = made[1].batch
    np.testing.assert_array_equal(shown.ecg[1, 0], ecg_array(record, config.model.ecg, "original"))
    np.testing.assert_array_equal(shown.image[1], image_tiles(page, config.model, "original"))


def test_rows_end_before_padding_and_batches_in_buckets(in_order, golden):
    config, tokenizer = original(in_order[0], bucket=64), load_tokenizer(LLAMA)
    lengths = [got.batch.tokens.shape[1] for got in train_batches(config, tokenizer, 0)]
    media = config.model.num_media_tokens - 1
    longest = [
        golden[f"mb{number}_attention_mask"].sum(axis=1).max() + media
        for number in range(MICRO_BATCHES)
    ]
    assert lengths == [-(-count // 64) * 64 for count in longest]
    assert len(set(lengths)) > 1


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none()), max_size=5))
def test_a_row_is_found_again_by_its_place(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "data.json"
    for indent, ascii_only, mark in ((None, True, ""), (2, False, "\ufeff")):
        text = mark + " " + json.dumps(rows, indent=indent, ensure_ascii=ascii_only) + "\n"
        path.write_text(text, encoding="utf-8")
        walked = list(walk(path))
        assert [row for row, _, _ in walked] == rows
        places = np.array([place for _, *place in walked], np.int64).reshape(-1, 2)
        found = Instructions(official.source(path), places)
        assert [found.row(index) for index in range(len(found))] == rows


@pytest.mark.parametrize("text", ["", "{}", "[{}", "[{} {}]", '{"a": [1]}', "[1, ]", "[1] 2"])
def test_a_file_that_is_no_list_is_refused_by_name(text, tmp_path):
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"data.json: .* expected a JSON list of"):
        list(walk(path))


T07 = {
    2: {"conversations": [{"from": "human", "value": ["<image>"]}, {"from": "gpt", "value": "A"}]},
    4: {"ecg": None},
    5: {"id": None},
    7: {"image": None},
    8: {"conversations": None},
    9: {
        "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "\ud800"}]
    },
}


def test_t07_rows_of_other_shapes_are_listed_by_number_and_keys(prepared, tokenizer, tmp_path):
    rows = [official.row(number, **T07.get(number, {})) for number in range(10)]
    path = official.write(tmp_path / "data.json", rows)
    with pytest.raises(BadInput) as caught:
        train_batches(official.config(prepared, official.source(path)), tokenizer, 0)
    said = str(caught.value)
    assert "got 6 broken records, expected at most 0" in said
    for number in range(10):
        assert (f"data.json: row {number}:" in said) == (number in T07)
    assert "row 4: lacks 'ecg' (its keys: id, image, conversations); give it, or name it" in said
    assert "row 2: conversations: got values [['<image>'], 'A']" in said
    assert "row 5: lacks 'id' (its keys: ecg, image, conversations)" in said
    assert "row 9: a text holds half a surrogate pair, expected whole characters" in said


def test_t07_rows_without_an_ecg_are_shown_as_pages_alone_where_that_is_named(
    prepared, tokenizer, tmp_path
):
    rows = [official.row(number, **({"ecg": None} if number == 1 else {})) for number in range(4)]
    path = official.write(tmp_path / "data.json", rows)
    part = official.source(path, allow_missing=("ecg",))
    config = official.config(prepared, part, shuffle=False)
    got = next(train_batches(config, tokenizer, 0))
    counts = (got.batch.media_index >= 0).sum(axis=1)
    alone = config.model.image_tokens * max_tiles(config.model)
    assert counts.tolist() == [tiny.MEDIA, alone, tiny.MEDIA, tiny.MEDIA]
    assert (got.batch.media_index[1].max(), got.batch.ecg[1].any()) == (tiny.MEDIA - 1, False)
    assert got.batch.image[1].any()


def test_pages_are_drawn_where_no_folder_of_images_is_named(prepared, tokenizer, tmp_path):
    rows = [official.row(number) for number in range(4)]
    path = official.write(tmp_path / "data.json", rows)
    drawn = official.config(prepared, official.source(path, images=""), shuffle=False)
    read = official.config(prepared, official.source(path), shuffle=False)
    pages = [next(train_batches(one, tokenizer, 0)).batch for one in (drawn, read)]
    np.testing.assert_array_equal(pages[0].ecg, pages[1].ecg)
    assert not np.array_equal(pages[0].image, pages[1].image)
    alone = official.write(tmp_path / "alone.json", [official.row(0, ecg=None)])
    part = official.source(alone, images="", allow_missing=("ecg",))
    with pytest.raises(BadInput, match="row 0: lacks 'ecg'"):
        train_batches(official.config(prepared, part), tokenizer, 0)


def test_several_ecgs_in_a_row_need_room(prepared, tokenizer, tmp_path):
    turns = [
        {"from": "human", "value": "<image>\n<image>\nWhich is faster?"},
        {"from": "gpt", "value": "The second."},
    ]
    pair = {"ecg": ["rec1", "rec2"], "image": ["i1.png", "i2.png"], "conversations": turns}
    rows = [official.row(0, **pair), *(official.row(number) for number in range(1, 4))]
    path = official.write(tmp_path / "data.json", rows)
    part = official.source(path)
    with pytest.raises(BadInput, match=r"row 0: shows 2 ECGs, expected at most data.media = 1"):
        train_batches(official.config(prepared, part), tokenizer, 0)
    config = official.config(prepared, part, media=2, shuffle=False)
    got = next(train_batches(config, tokenizer, 0))
    assert got.batch.ecg.shape[:2] == (4, 2) and got.batch.ecg[0, 1].any()
    assert not got.batch.ecg[1, 1].any()
    assert (got.batch.media_index >= 0).sum(axis=1).tolist()[:2] == [2 * tiny.MEDIA, tiny.MEDIA]


def test_augmented_rows_keep_their_words_and_their_signal_but_for_noise(
    prepared, tokenizer, tmp_path
):
    path = official.write(tmp_path / "data.json", [official.row(number) for number in range(4)])
    part = official.source(path)
    plain, changed = (
        next(train_batches(official.config(prepared, part, augment=flag), tokenizer, 0))
        for flag in (False, True)
    )
    assert plain.record_ids == changed.record_ids
    np.testing.assert_array_equal(plain.batch.tokens, changed.batch.tokens)
    noise = changed.batch.ecg - plain.batch.ecg
    assert 1e-4 < noise.std() < 0.03 and abs(noise.mean()) < 1e-3
    assert not np.array_equal(plain.batch.image, changed.batch.image)
    for before, after in zip(plain.batch.image, changed.batch.image, strict=True):
        assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.8, "its lines stay in place"


def test_stage_0_reads_no_official_file(prepared, tokenizer, tmp_path):
    path = official.write(tmp_path / "data.json", [official.row(0)])
    config = official.config(prepared, official.source(path))
    config = tiny.changed(config, train={"objective": "pretrain"})
    with pytest.raises(ConfigError, match=r"data.mixture: got .*data.json in stage 0"):
        train_batches(config, tokenizer, 0)
