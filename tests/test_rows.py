"""Rows: features where the ids say, padding by length, nothing cut unless asked to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_jax.rows import expand, merge
from gem_jax.templates import IMAGE, TokenError
from gem_jax.tokenizer import load_tokenizer, train_tokenizer
from gem_jax.tokens import IGNORED, IMAGE_TOKEN, Encoded, encode, one_sided_turns_of

GOLDENS = Path(__file__).parent / "goldens"
OWN = train_tokenizer(["Rate 72 bpm. Axis normal.", "USER: \nDescribe this ECG. ASSISTANT:"], 400)
TURNS = [(f"{IMAGE}\nRate?", "72.")]
FEATURES = np.arange(5)


def told(turns=TURNS, **options):
    return encode(OWN, "bare", turns, id="rec/7", **options)


def test_a_placeholder_becomes_its_features_and_the_rest_stays():
    encoded = told()
    row = expand(encoded, [np.array([7, 3, 9])], 60)
    at = int(np.argmax(encoded.ids == IMAGE_TOKEN))
    assert row.media_index[at : at + 3].tolist() == [7, 3, 9]
    assert (np.delete(row.media_index, range(at, at + 3)) == -1).all()
    text = np.delete(row.tokens[: row.length], range(at, at + 3))
    assert text.tolist() == encoded.ids[encoded.ids != IMAGE_TOKEN].tolist()


def test_two_placeholders_receive_each_its_own():
    encoded = told([(f"{IMAGE}\nRate?", "72."), (f"{IMAGE} Axis?", "ok")])
    row = expand(encoded, [np.arange(2), np.arange(5, 9)], 90)
    assert row.media_index[row.media_index >= 0].tolist() == [0, 1, 5, 6, 7, 8]
    gap = np.flatnonzero(row.media_index >= 0)
    assert (np.diff(gap) > 1).sum() == 1


def test_without_features_the_row_is_the_text_alone():
    row = expand(told(), [FEATURES[:0]], 60)
    assert (row.media_index == -1).all()
    assert row.length == len(told().ids) - 1


@given(st.integers(0, 6), st.sampled_from(["right", "left"]))
def test_targets_are_the_next_tokens_of_what_is_learnt(count, side):
    encoded = told()
    merged = merge(encoded, [np.arange(count)])
    row = expand(encoded, [np.arange(count)], 60, padding_side=side)
    labels = np.where(row.loss_mask, row.targets, IGNORED)
    shown = slice(60 - row.length, 60) if side == "left" else slice(0, row.length)
    assert labels[shown][:-1].tolist() == merged.labels[1:].tolist()
    assert row.targets[shown][:-1].tolist() == row.tokens[shown][1:].tolist()
    assert OWN.decode(row.targets[row.loss_mask].tolist(), skip_special=False) == " 72.</s>"


def test_left_padding_holds_the_same_row_further_right():
    right, left = (expand(told(), [FEATURES], 60, padding_side=side) for side in ("right", "left"))
    by = 60 - right.length
    for name in ("tokens", "segments", "media_index", "targets", "loss_mask"):
        np.testing.assert_array_equal(np.roll(getattr(right, name), by), getattr(left, name))
    assert left.positions[by:].tolist() == list(range(right.length))


@pytest.mark.parametrize("media", [[], [FEATURES, FEATURES]])
def test_t02_media_and_placeholders_must_be_as_many(media):
    with pytest.raises(TokenError, match=f"rec/7: got 1 placeholders, expected {len(media)}"):
        expand(told(), media, 60)


def test_t04_features_stand_where_the_ids_say_and_not_where_a_value_is_zero():
    asked = told([(f"<unk>{IMAGE}\n<unk>Rate?", "72.<unk>")])
    assert (asked.ids == 0).sum() == 3  # the ids of text that a feature's token has too
    row = expand(asked, [FEATURES], 60)
    zeros = row.tokens[: row.length] == 0
    assert zeros.sum() == 3 + len(FEATURES)
    assert (row.media_index >= 0).sum() == len(FEATURES)
    assert (row.media_index[: row.length][zeros] == -1).sum() == 3


def test_t05_token_0_in_a_text_of_qwen_is_no_padding():
    qwen = load_tokenizer(GOLDENS / "tokenizer_qwen")
    encoded = encode(qwen, "qwen_2", [("Rate!", "72!!")])
    assert (encoded.ids == qwen.token_id("!")).sum() == 3
    assert qwen.token_id("!") == 0
    row = expand(encoded, [], 80)
    assert row.segments.tolist() == [1] * len(encoded.ids) + [0] * (80 - len(encoded.ids))
    assert (row.targets[row.loss_mask] == 0).sum() == 2


@pytest.mark.parametrize("answer_open", [False, True], ids=["training", "asking"])
def test_t06_a_row_that_is_too_long_is_refused_and_never_half_a_block(answer_open):
    encoded = told(answer_open=answer_open)
    needed = len(encoded.ids) - 1 + len(FEATURES)
    assert expand(encoded, [FEATURES], needed).length == needed
    message = f"rec/7: got {needed} tokens, 5 of them features, expected at most {needed - 1}"
    with pytest.raises(TokenError, match=message):
        expand(encoded, [FEATURES], needed - 1)


def test_t06_the_originals_cut_falls_anywhere_when_it_is_asked_for():
    encoded = told(answer_open=True)
    start = int(np.argmax(encoded.ids == IMAGE_TOKEN))
    row = expand(encoded, [FEATURES], start + 2, cut="original")
    assert row.length == start + 2
    assert row.num_cut == len(encoded.ids) - 1 + len(FEATURES) - row.length
    assert row.media_index[row.media_index >= 0].tolist() == [0, 1]


def test_t06_a_cut_that_leaves_nothing_to_learn_is_refused():
    with pytest.raises(TokenError, match="rec/7: cut at 12 tokens, before its first answer"):
        expand(told(), [FEATURES], 12, cut="original")


def golden_rows(name, case):
    """Encoded rows of a reference, and what the original made of them."""
    with np.load(GOLDENS / name / "reference.npz") as stored:
        parts = ("input_ids", "labels", "attention_mask", "merged_labels", "merged_attention_mask")
        ids, labels, mask, merged, merged_mask = (stored[f"{case}.{part}"] for part in parts)
    rows = [
        Encoded(ids[row][mask[row]], (labels[row] != IGNORED)[mask[row]], f"{case} {row}")
        for row in range(len(ids))
    ]
    return rows, merged, merged_mask


@pytest.mark.parametrize("name", ["gem_llama_tiny", "gem_qwen_tiny"])
@pytest.mark.parametrize("case", ["main", "two", "trunc", "left"])
def test_merged_masks_and_labels_are_the_originals(name, case):
    rows, merged_labels, merged_mask = golden_rows(name, case)
    length = merged_labels.shape[1]
    features = np.arange(101 + 16)
    for encoded, labels, mask in zip(rows, merged_labels, merged_mask, strict=True):
        media = [features] * encoded.num_placeholders
        merged = merge(encoded, media).cut(length)
        assert merged.labels.tolist() == labels[mask].tolist()
        options = {"cut": "original", "padding_side": "left" if case == "left" else "right"}
        if encoded.learn.any() and not merged.learn.any():
            with pytest.raises(TokenError, match="before its first answer"):
                expand(encoded, media, length, **options)
            continue
        row = expand(encoded, media, length, **options)
        assert (row.segments > 0).tolist() == mask.tolist()


def test_another_layout_gives_other_labels():
    rows, merged_labels, merged_mask = golden_rows("gem_llama_tiny", "main")
    merged = merge(rows[0], [np.arange(101 + 15)] * rows[0].num_placeholders)
    assert merged.labels.tolist() != merged_labels[0][merged_mask[0]].tolist()


@pytest.mark.parametrize("case", json.loads((GOLDENS / "text.json").read_text())["collator"])
def test_batches_before_merging_are_the_originals(case, tmp_path):
    text = json.loads((GOLDENS / "text.json").read_text())
    folder = GOLDENS / f"tokenizer_{case['tokenizer']}"
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    legacy = {"legacy": case["legacy"]} if case["legacy"] is not None else {}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, **legacy}))
    tokenizer = load_tokenizer(tmp_path)
    for number, name in enumerate(case["names"]):
        talk = next(one["conversation"] for one in text["cases"] if one["name"] == name)
        encoded = encode(tokenizer, case["template"], one_sided_turns_of(talk))
        mask = np.array(case["attention_mask"][number], bool)
        kept = slice(0, case["model_max_length"])
        assert encoded.ids[kept].tolist() == np.array(case["input_ids"][number])[mask].tolist()
        assert encoded.labels[kept].tolist() == np.array(case["labels"][number])[mask].tolist()
