"""Broken records: found before the first step, listed, skipped up to the limit, never silently."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

import official
import tiny
from data_prep.records import BadInput
from data_prep.shards import encode, read_shard, shard_files, write_shard
from gem_jax import broken
from gem_jax.data import train_batches
from gem_jax.preprocess import read_page
from gem_jax.tokenizer import load_tokenizer

ROWS = 100


@pytest.fixture(scope="module")
def tokenizer(prepared):
    return load_tokenizer(prepared / "tokenizer")


@pytest.fixture
def corpus(tmp_path):
    """A hundred rows, each with a record and a page of its own."""
    for folder, kinds in (("ecg", (".hea", ".dat")), ("img", (".png",))):
        (tmp_path / folder).mkdir()
        for number in range(8):
            for kind in kinds:
                name = f"rec{number}" if folder == "ecg" else f"i{number % 5}"
                shutil.copy(
                    official.GOLDEN / folder / f"{name}{kind}",
                    tmp_path / folder / f"{'rec' if folder == 'ecg' else 'i'}{number}{kind}",
                )
    rows = [official.row(number, image=f"i{number % 8}.png") for number in range(ROWS)]
    official.write(tmp_path / "data.json", rows)
    return tmp_path


def own(corpus, number):
    """Gives a row a record and a page that no other row has."""
    rows = [official.row(each, image=f"i{each % 8}.png") for each in range(ROWS)]
    for kind in (".hea", ".dat"):
        made = (corpus / "ecg" / f"rec0{kind}").read_bytes().replace(b"rec0", b"ownr")
        (corpus / "ecg" / f"ownr{kind}").write_bytes(made)
    shutil.copy(corpus / "img" / "i0.png", corpus / "img" / "ownp.png")
    rows[number] |= {"ecg": "ownr", "image": "ownp.png"}
    official.write(corpus / "data.json", rows)


def config(prepared, corpus, **fields):
    part = official.source(
        corpus / "data.json", ecgs=str(corpus / "ecg"), images=str(corpus / "img")
    )
    made = official.config(prepared, part, batch_size=10, **fields)
    return tiny.changed(made, train={"steps": ROWS // 10})


def cut_off(path, share=0.5):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])


def test_d10_a_missing_record_and_a_truncated_page_end_the_run_before_it_begins(
    prepared, tokenizer, corpus, capsys
):
    (corpus / "ecg" / "rec3.hea").unlink()
    cut_off(corpus / "img" / "i5.png")
    wrong = [number for number in range(ROWS) if number % 8 in (3, 5)]
    with pytest.raises(BadInput) as caught:
        train_batches(config(prepared, corpus), tokenizer, 0)
    said = str(caught.value)
    assert f"got {len(wrong)} broken records, expected at most 0" in said
    assert f"data.json: row 3: {corpus / 'ecg' / 'rec3'}: no such record" in said
    assert f"data.json: row 5: {corpus / 'img' / 'i5.png'}: cannot be read" in said
    assert "row 4:" not in said and f"and {len(wrong) - broken.LISTED} more" in said


def test_d10_they_are_skipped_by_the_recipe_and_listed(prepared, tokenizer, corpus, capsys):
    own(corpus, 7)
    (corpus / "ecg" / "ownr.dat").unlink()
    recipe = config(prepared, corpus, max_broken=1)
    made = list(train_batches(recipe, tokenizer, 0))
    assert "skipped: " in (said := capsys.readouterr().err) and "row 7" in said
    assert said.count("skipped: ") == 1
    ids = [id for got in made for id in got.record_ids]
    assert len(ids) == ROWS and made[0].skipped == made[-1].skipped == 1
    assert "row7" not in ids and ids.count("row8") == 2, "the next record takes its place"
    for workers, first in ((2, 0), (0, 5)):
        again = list(train_batches(config_with(recipe, workers), tokenizer, first))
        assert [got.record_ids for got in again] == [got.record_ids for got in made[first:]]


def config_with(recipe, workers):
    return tiny.changed(recipe, data={"workers": workers})


def test_what_shows_only_when_it_is_read_is_skipped_alike(prepared, tokenizer, corpus, capsys):
    own(corpus, 7)
    page = corpus / "img" / "ownp.png"
    damaged = bytearray(page.read_bytes())
    middle = len(damaged) // 2
    damaged[middle : middle + 40] = bytes(40)
    page.write_bytes(damaged)
    broken.check_page(page)
    with pytest.raises(BadInput, match=r"ownp\.png: cannot be read"):
        read_page(page)
    with pytest.raises(BadInput, match=r"max_broken: got 1 broken record, expected at most 0"):
        list(train_batches(config(prepared, corpus), tokenizer, 0))
    capsys.readouterr()
    made = list(train_batches(config(prepared, corpus, max_broken=1), tokenizer, 0))
    assert capsys.readouterr().err.count("skipped: ") == 1
    ids = [id for got in made for id in got.record_ids]
    assert "row7" not in ids and ids.count("row8") == 2
    assert [got.skipped for got in made] == sorted(got.skipped for got in made)
    assert (made[0].skipped, made[-1].skipped) in {(0, 1), (1, 1)}


def test_the_limit_counts_each_record_once_over_the_run(prepared, tokenizer, corpus, capsys):
    own(corpus, 7)
    (corpus / "ecg" / "ownr.hea").unlink()
    recipe = tiny.changed(config(prepared, corpus, max_broken=1), train={"steps": 15})
    assert [got.skipped for got in train_batches(recipe, tokenizer, 0)] == [1] * 15


def test_d06_a_row_without_an_answer_is_broken_and_labels_are_counted(
    prepared, tokenizer, tmp_path
):
    silent = official.row(1, conversations=[{"from": "human", "value": "<image>\nRate?"}])
    rows = [official.row(0), silent, official.row(2), official.row(3)]
    path = official.write(tmp_path / "data.json", rows)
    with pytest.raises(BadInput, match="row 1: conversations: got roles"):
        train_batches(official.config(prepared, official.source(path)), tokenizer, 0)
    recipe = official.config(prepared, official.source(path), max_broken=1)
    for got in train_batches(recipe, tokenizer, 0):
        labels = got.batch.loss_mask.sum(axis=1)
        assert labels.all() and got.num_learnt == labels.sum()


@pytest.mark.parametrize("name", ["i0.png", "page.jpg", "page.gif", "page.bmp"])
def test_whole_pages_pass_and_cut_ones_do_not(name, tmp_path):
    path = tmp_path / name
    page = Image.open(official.GOLDEN / "img" / "i0.png").convert("RGB")
    page.save(path)
    broken.check_page(path)
    cut_off(path, 0.6)
    if path.suffix in (".png", ".jpg"):
        with pytest.raises(BadInput, match="cannot be read"):
            broken.check_page(path)
    path.write_bytes(b"no picture")
    with pytest.raises(BadInput, match="cannot be read"):
        broken.check_page(path)


def test_a_picture_with_something_behind_its_end_is_whole(tmp_path):
    path = tmp_path / "page.png"
    golden = official.GOLDEN / "img" / "i0.png"
    path.write_bytes(golden.read_bytes() + bytes(5000))
    broken.check_page(path)
    np.testing.assert_array_equal(np.asarray(read_page(path)), np.asarray(read_page(golden)))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_shard_that_is_not_whole_ends_the_run_before_it_begins(
    share, prepared, tokenizer, tmp_path
):
    for shard in shard_files(prepared, "train"):
        shutil.copy(shard, tmp_path / shard.name)
        cut_off(tmp_path / shard.name, share)
    recipe = tiny.changed(tiny.on(prepared, tiny.instruct()), data={"shards": str(tmp_path)})
    with pytest.raises(BadInput, match="a shard is no whole ArrayRecord file"):
        train_batches(recipe, tokenizer, 0)


def test_an_element_that_is_no_example_is_skipped_up_to_the_limit(prepared, tokenizer, tmp_path):
    whole = [encode(one) for one in read_shard(shard_files(prepared, "train")[0])]
    write_shard(tmp_path / "train-00000-of-00001.array_record", [*whole, b"no element"])
    data = {"shards": str(tmp_path), "shuffle": False, "batch_size": 7, "augment": False}
    recipe = tiny.changed(
        tiny.on(prepared, tiny.instruct()), data=data | {"max_broken": 1}, train={"steps": 1}
    )
    (got,) = train_batches(recipe, tokenizer, 0)
    assert got.record_ids[6] == got.record_ids[0], "after the last comes the first"
    assert got.skipped == 1
    with pytest.raises(BadInput, match="element 6: shard: an element is no msgpack"):
        list(train_batches(tiny.changed(recipe, data={"max_broken": 0}), tokenizer, 0))
