"""Batches: functions of seed and step; texts true of the records as they were changed."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest

import tiny
from data_prep import augment
from data_prep.claims import check, parse
from data_prep.shards import read_shard, shard_files
from gem_jax import shard_rows, train_rows
from gem_jax.config import ConfigError
from gem_jax.data import ids_hash, train_batches
from gem_jax.inputs import Exhibit, features_of, medium_of, stack
from gem_jax.media import Capacity, max_tiles
from gem_jax.models.gem import Gem, abstract_params
from gem_jax.preprocess import ecg_array
from gem_jax.rows import expand
from gem_jax.shard_rows import augmented
from gem_jax.templates import TokenError
from gem_jax.tokenizer import load_tokenizer
from gem_jax.tokens import encode, turns_of

EOS = tiny.MODEL.eos_token_ids[0]


@pytest.fixture(scope="module")
def tokenizer(prepared):
    return load_tokenizer(prepared / "tokenizer")


@pytest.fixture(scope="module")
def examples(prepared):
    return list(read_shard(shard_files(prepared, "train")[0]))


def batches(prepared, tokenizer, first=0, recipe=tiny.instruct, **fields):
    config = tiny.changed(tiny.on(prepared, recipe()), data={"batch_size": 2, **fields})
    return list(train_batches(config, tokenizer, first))


@pytest.fixture(scope="module")
def whole(prepared, tokenizer):
    return batches(prepared, tokenizer)


def made_of(config, tokenizer, example):
    rng = np.random.default_rng(0)
    return train_rows.row_of(config, tokenizer, shard_rows.told(example, config, rng), rng)


def same(one, other) -> bool:
    leaves = zip(jax.tree.leaves(one.batch), jax.tree.leaves(other.batch), strict=True)
    return one.record_ids == other.record_ids and all(np.array_equal(a, b) for a, b in leaves)


def test_a_run_has_a_batch_for_each_step(whole, examples):
    assert len(whole) == tiny.instruct().train.steps
    seen = [name for made in whole for name in made.record_ids]
    epoch = len(examples)
    for first in range(0, len(seen), epoch):
        assert sorted(seen[first : first + epoch]) == sorted(one.id for one in examples)
    assert seen[:epoch] != seen[epoch : 2 * epoch], "another order in each epoch"


@pytest.mark.parametrize("first", [1, 5, 12])
def test_a_continued_run_sees_what_the_uninterrupted_saw(first, whole, prepared, tokenizer):
    later = batches(prepared, tokenizer, first)
    assert len(later) == len(whole) - first
    assert all(map(same, later, whole[first:]))
    assert not any(map(same, later[1:], whole[first:])), "the control: a step off"


def test_another_seed_gives_other_batches(whole, prepared, tokenizer):
    other = batches(prepared, tokenizer, seed=4)
    assert [made.record_ids for made in other] != [made.record_ids for made in whole]
    assert not any(map(same, other, whole))


def test_a_record_is_changed_anew_each_time(whole):
    ecgs: dict[str, list[np.ndarray]] = {}
    for made in whole:
        for name, ecg in zip(made.record_ids, made.batch.ecg, strict=True):
            ecgs.setdefault(name, []).append(ecg)
    seen = next(each for each in ecgs.values() if len(each) > 1)
    assert not np.array_equal(seen[0], seen[1])


def test_without_augmentation_the_record_is_itself(prepared, tokenizer, examples):
    made = batches(prepared, tokenizer, 10, augment=False)[0]
    known = {one.id: one for one in examples}
    for row, name in enumerate(made.record_ids):
        record = known[name].signal()
        shown = medium_of(tiny.MODEL, Exhibit(record))
        np.testing.assert_array_equal(made.batch.ecg[row, 0], ecg_array(record, tiny.MODEL.ecg))
        np.testing.assert_array_equal(made.batch.image[row], shown.tiles)
        told = tokenizer.decode(made.batch.targets[row][made.batch.loss_mask[row]].tolist())
        assert told.strip() == known[name].conversations[1]["value"]


def test_rows_have_their_media_and_their_answer(whole):
    made = whole[0]
    batch = made.batch
    longest = batch.segments.sum(axis=1).max()
    assert batch.tokens.shape == (2, 128 if longest <= 128 else tiny.LENGTH)
    for row in range(2):
        places = np.flatnonzero(batch.media_index[row] >= 0)
        assert batch.media_index[row, places].tolist() == list(range(tiny.MEDIA))
        labels = batch.targets[row][batch.loss_mask[row]]
        assert labels[-1] == EOS
        assert EOS not in labels[:-1]
        assert batch.loss_mask[row].argmax() > places[-1], "the question carries no loss"
    lengths = batch.segments.sum(axis=1)
    assert made.num_tokens == lengths.sum()
    assert made.squared_lengths == (lengths**2).sum()


def test_stage_0_has_dense_targets_and_text_alone(prepared, tokenizer):
    made = batches(prepared, tokenizer, recipe=tiny.pretrain)[0]
    assert (made.batch.media_index == -1).all()
    assert made.dense is not None
    assert made.dense.waves.shape == (2, 10, 12, 3)
    assert 0.1 < made.dense.waves.mean() < 0.9
    assert np.isfinite(made.dense.summary[:, 0]).all()


def drawn(examples, config, count=4):
    for number, example in enumerate(examples):
        for seed in range(count):
            rng = np.random.default_rng([number, seed])
            yield example, *augmented(example, config, rng)


def test_texts_are_true_of_the_changed_record(prepared, examples):
    config = tiny.on(prepared, tiny.instruct())
    stale = []
    for example, _, measured, turns in drawn(examples, config):
        verdicts = check(parse(turns[0][1]), measured)
        assert len(verdicts) >= 4
        assert [one for one in verdicts if one.verdict != "supported"] == []
        old = check(parse(example.conversations[1]["value"]), measured)
        stale.append(any(one.verdict == "contradicted" for one in old))
    assert np.mean(stale) > 0.5, "the control: the text of the record as it was is false"


def test_rates_span_what_the_time_scale_allows(prepared, examples):
    config = tiny.on(prepared, tiny.instruct())
    ratios = [
        measured.summary["heart_rate_bpm"] / example.measured().summary["heart_rate_bpm"]
        for example, _, measured, _ in drawn(examples, config, 8)
    ]
    assert min(ratios) < 0.85 and max(ratios) > 1.2
    slowest, fastest = 1 / augment.TIME_SCALE[1], 1 / augment.TIME_SCALE[0]
    within = [slowest * 0.93 < ratio < fastest * 1.07 for ratio in ratios]
    assert np.mean(within) > 0.9  # a shorter window holds other beats


@pytest.mark.parametrize(
    "fields",
    [
        {"patch_merge": "flat"},
        {"patch_merge": "spatial"},
        {"patch_merge": "spatial_unpad", "image_newline": True},
    ],
    ids=lambda fields: fields["patch_merge"],
)
def test_tiles_are_trained_with_as_the_model_answers_with_them(
    fields, prepared, tokenizer, examples
):
    """A batch of the run gives the logits of the same rows with room for nothing more."""
    grid = {"image_mode": "anyres", "grid_pinpoints": ((64, 32), (32, 128))}
    model = dataclasses.replace(tiny.MODEL, **grid, **fields)
    recipe = tiny.changed(
        tiny.on(prepared, dataclasses.replace(tiny.instruct(), model=model)),
        data={"batch_size": 2, "augment": False, "bucket": tiny.LENGTH},
    )
    made = next(train_batches(recipe, tokenizer, 0))
    assert made.batch.image.shape == (2, max_tiles(model), 32, 32, 3)
    known = {one.id: one for one in examples}
    media = [[medium_of(model, Exhibit(known[name].signal()))] for name in made.record_ids]
    (tiles,) = {len(own[0].tiles) for own in media}
    exact = Capacity(1, tiles)
    assert tiles == 3 < max_tiles(model), "the page is wide: two tiles fewer than there is room for"
    rows = [
        expand(
            encode(tokenizer, "bare", turns_of(known[name].conversations)),
            features_of(model, exact, own),
            tiny.LENGTH,
        )
        for name, own in zip(made.record_ids, media, strict=True)
    ]
    batch = stack(model, exact, rows, media)
    params = tiny.drawn(abstract_params(model))
    logits_of = jax.jit(lambda batch: Gem(model).apply({"params": params}, batch))
    real = batch.segments > 0
    expected = np.asarray(logits_of(batch))[real]
    np.testing.assert_array_equal(made.batch.segments > 0, real)
    assert np.abs(np.asarray(logits_of(made.batch))[real] - expected).max() < 1e-4
    turned = made.batch.replace(image=made.batch.image[:, [0, 2, 1, 3, 4]])
    assert np.abs(np.asarray(logits_of(turned))[real] - expected).max() > 1e-3


def test_t02_a_record_names_its_media_as_a_text_or_a_list(examples):
    example = examples[0]

    def naming(**fields):
        return dataclasses.replace(example, record={**example.record, **fields})

    assert (
        shard_rows.num_media(example)
        == 1
        == shard_rows.num_media(naming(ecg=["a/b"], image=["c.png"]))
    )
    assert shard_rows.num_media(naming(ecg=None, image=None)) == 0
    with pytest.raises(TokenError, match=f"{example.id}: names 2 ecgs and 1 images, expected"):
        shard_rows.num_media(naming(ecg=["a", "b"]))


@pytest.mark.parametrize("augment", [False, True])
def test_a_text_without_an_ecg_is_a_row_of_text(augment, prepared, tokenizer, examples):
    config = tiny.changed(tiny.on(prepared, tiny.instruct()), data={"augment": augment})
    turns = [{"from": "human", "value": "What is a lead?"}, {"from": "gpt", "value": "A view."}]
    text = dataclasses.replace(
        examples[0],
        record={**examples[0].record, "ecg": None, "image": None, "conversations": turns},
    )
    made = [made_of(config, tokenizer, one) for one in (text, examples[1])]
    batch = stack(
        config.model,
        train_rows.room(config),
        [one["row"] for one in made],
        [one["media"] for one in made],
    )
    assert (batch.media_index[0] == -1).all() and (batch.media_index[1] >= 0).any()
    assert not batch.ecg[0].any() and batch.ecg[1].any()
    said = batch.targets[0][batch.loss_mask[0]].tolist()
    assert tokenizer.decode(said).strip() == "A view."


@pytest.mark.parametrize("places", [0, 2])
def test_t02_a_row_whose_places_do_not_fit_its_media_ends_with_its_id(
    places, prepared, tokenizer, examples
):
    config = tiny.changed(tiny.on(prepared, tiny.instruct()), data={"augment": False})
    question = {"from": "human", "value": "<image>" * places + "Rate?"}
    turns = [question, {"from": "gpt", "value": "72."}]
    wrong = dataclasses.replace(examples[0], record={**examples[0].record, "conversations": turns})
    message = f"{wrong.id}: got {places} <image> in the questions, expected 1"
    with pytest.raises(TokenError, match=message):
        made_of(config, tokenizer, wrong)


def test_t06_a_row_that_is_too_long_is_refused_with_its_counts(prepared, tokenizer, examples):
    config = tiny.changed(
        tiny.on(prepared, tiny.instruct()), data={"augment": False, "length": tiny.MEDIA + 10}
    )
    message = rf"{examples[0].id}: got \d+ tokens, {tiny.MEDIA} of them features, expected at most"
    with pytest.raises(TokenError, match=message):
        made_of(config, tokenizer, examples[0])


def test_t06_rows_cut_as_the_originals_are_counted(prepared, tokenizer):
    whole = batches(prepared, tokenizer, 10, augment=False)
    short = batches(prepared, tokenizer, 10, augment=False, cut="original", length=tiny.MEDIA + 50)
    for one, other in zip(whole, short, strict=True):
        lengths = one.batch.segments.sum(axis=1)
        kept = other.batch.tokens.shape[1]
        assert one.rows_cut == 0 and other.rows_cut == (lengths > kept).sum()
        np.testing.assert_array_equal(other.batch.segments, one.batch.segments[:, :kept])
        np.testing.assert_array_equal(other.batch.media_index, one.batch.media_index[:, :kept])
    assert sum(one.rows_cut for one in short) > 0


def test_rows_are_padded_where_the_model_pads(prepared, tokenizer):
    left = dataclasses.replace(
        tiny.instruct(), model=dataclasses.replace(tiny.MODEL, padding_side="left")
    )
    made = batches(prepared, tokenizer, 11, recipe=lambda: left)[0]
    right = batches(prepared, tokenizer, 11)[0]
    assert made.batch.segments[:, -1].all() and not made.batch.segments[:, 0].any()
    loss_of = jax.jit(functools.partial(tiny.mean_loss, tiny.instruct(), tiny.params()))
    losses = [float(loss_of(one.batch)) for one in (made, right)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_the_hash_tells_the_records_and_their_order():
    assert ids_hash(("a", "b")) == ids_hash(("a", "b"))
    assert len({ids_hash(names) for names in (("a", "b"), ("b", "a"), ("a",), ("ab",))}) == 4


def test_a_folder_without_shards_is_refused(tmp_path, tokenizer):
    config = tiny.changed(tiny.instruct(), data={"shards": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"data.shards: got .*expected a folder"):
        list(train_batches(config, tokenizer, 0))
