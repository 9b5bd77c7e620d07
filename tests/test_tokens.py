"""Conversations become rows: placeholders, labels on the answers alone, nothing cut silently."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_jax.config import ConfigError
from gem_jax.tokens import (
    BOS,
    EOS,
    IMAGE,
    TokenError,
    encode,
    load_tokenizer,
    save_tokenizer,
    template,
    train_tokenizer,
    turns_of,
)

TEXTS = ["Rate 72 bpm. Axis normal, 45 degrees.", f"USER: {IMAGE}\nDescribe this ECG. ASSISTANT:"]
TOKENIZER = train_tokenizer(TEXTS * 4, 400)
BARE = template("bare")


def row_of(turns, **options):
    return encode(TOKENIZER, BARE, turns, **{"num_media": 5, "length": 120, **options})


def learned(row):
    """The text of the tokens that carry loss."""
    return TOKENIZER.decode(list(row.targets[row.loss_mask]), skip_special_tokens=False)


def test_labels_cover_the_answer_and_its_end_alone():
    row = row_of([(f"{IMAGE}\nDescribe.", "Rate 72 bpm.")])
    assert learned(row) == f" Rate 72 bpm.{EOS}"
    assert row.targets[row.loss_mask][-1] == TOKENIZER.token_to_id(EOS)


def test_every_turn_is_learned():
    row = row_of([(f"{IMAGE}\nA?", "one"), ("B?", "two")])
    assert learned(row) == f" one{EOS} two{EOS}"


@pytest.mark.parametrize("answer", ["", "USER: no ASSISTANT: no", "é ♥ \n"])
def test_odd_answers_are_learned_whole(answer):
    assert learned(row_of([(f"{IMAGE}\nA?", answer)])) == f" {answer}{EOS}"


def test_placeholders_are_numbered_where_the_image_stands():
    row = row_of([(f"{IMAGE}\nDescribe.", "yes")])
    media = row.media_index[row.media_index >= 0]
    assert media.tolist() == [0, 1, 2, 3, 4]
    assert not row.loss_mask[row.media_index >= 0].any()
    before = TOKENIZER.decode(list(row.tokens[: int(np.argmax(row.media_index >= 0))]), False)
    assert before == f"{BOS}USER: "


def test_a_row_of_text_alone_has_no_placeholder():
    assert (row_of([(f"{IMAGE}\nA?", "b")], num_media=0).media_index == -1).all()


def test_a_prompt_is_the_beginning_of_the_whole_row():
    turns = [(f"{IMAGE}\nA?", "Rate 72 bpm.")]
    whole, prompt = row_of(turns), row_of(turns, answer_open=True)
    assert prompt.length < whole.length
    np.testing.assert_array_equal(whole.tokens[: prompt.length], prompt.tokens[: prompt.length])
    assert not prompt.loss_mask.any()


def test_padding_comes_from_the_length_and_not_from_an_id():
    row = row_of([(f"{IMAGE}\nA?", "b")])
    assert row.segments.tolist() == [1] * row.length + [0] * (120 - row.length)
    assert not row.loss_mask[row.length - 1 :].any()


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([("no picture", "b")], "expected <image> once"),
        ([(f"{IMAGE}{IMAGE}", "b")], "expected <image> once"),
        ([(f"{IMAGE}", f"see {IMAGE}")], "in an answer"),
        ([(f"{IMAGE}\nA?", "word " * 200)], "expected at most 120"),
    ],
)
def test_conversations_that_fit_nothing_are_refused(turns, message):
    with pytest.raises(TokenError, match=message):
        row_of(turns)


def test_roles_must_alternate():
    with pytest.raises(TokenError, match="alternating"):
        turns_of([{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}])


def test_an_unknown_template_is_refused_by_name():
    with pytest.raises(ConfigError, match="vicuna_v1"):
        template("vicuna")


@given(st.text(max_size=40))
def test_the_tokenizer_gives_every_text_back(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


def test_digits_are_single_pieces():
    pieces = TOKENIZER.encode("Rate 172 bpm").tokens
    assert [piece for piece in pieces if piece.strip("Ġ").isdigit()] == ["1", "7", "2"]


def test_a_saved_tokenizer_reads_the_same_also_for_transformers(tmp_path):
    from transformers import AutoTokenizer

    save_tokenizer(TOKENIZER, tmp_path, 120)
    ids = TOKENIZER.encode(TEXTS[0]).ids
    assert load_tokenizer(tmp_path).encode(TEXTS[0]).ids == ids
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.encode(TEXTS[0]) == ids
    assert (theirs.pad_token_id, theirs.eos_token_id) == (0, 2)


def test_a_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
