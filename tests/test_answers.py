"""Answers: each question by what it shows, whoever is asked beside it."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

import tiny
from gem_jax import answers
from gem_jax.answers import Model, Question, answer, prompt, prompt_length
from gem_jax.inputs import Exhibit
from gem_jax.models.gem import abstract_params
from gem_jax.templates import IMAGE, TokenError
from gem_jax.tokenizer import train_tokenizer
from synthetic import ecg

OWN = train_tokenizer(["Rate 72 bpm. Axis normal. USER: ASSISTANT: Describe this ECG."], 400)
RECORDS = [ecg(rate_bpm=rate, t_mv=height)[0] for rate, height in ((60.0, 0.3), (110.0, -0.6))]
MODES = {
    "pad": {"image_mode": "pad"},
    "flat": {"image_mode": "anyres"},
    "unpad": {"image_mode": "anyres", "patch_merge": "spatial_unpad", "image_newline": True},
}


def model(**fields) -> Model:
    config = dataclasses.replace(tiny.MODEL, grid_pinpoints=((64, 32), (32, 64)), **fields)
    # Wider than they are drawn: what such a model says depends on what it is shown.
    params = jax.tree.map(lambda leaf: leaf * 2.5, tiny.drawn(abstract_params(config)))
    return Model(config, params, OWN)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for number, size in enumerate(((120, 40), (40, 120))):
        noise = np.random.default_rng(number).integers(0, 255, (*size[::-1], 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return [folder / "0.png", folder / "1.png"]


def texts(model, questions, **options) -> list[str]:
    return [one.answer for one in answer(model, questions, max_new_tokens=6, **options)]


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_depends_on_what_is_shown_and_on_no_neighbour(mode, pages):
    made = model(**MODES[mode])
    record = RECORDS[0]
    asked = [
        Question("Rate?", (Exhibit(record, pages[0]),)),
        Question("Rate?", (Exhibit(record, pages[1]),)),
        Question("Rate?", (Exhibit(RECORDS[1], pages[0]),)),
        Question("What is the rate of this ECG?", (Exhibit(record, pages[0]),)),
    ]
    said = texts(made, asked, batch_size=3)
    assert len(set(said)) == 4
    assert texts(made, asked[::-1], batch_size=3) == said[::-1]
    assert texts(made, asked[3:], batch_size=3) == said[3:]


def test_a_question_shows_several_ecgs_or_none(pages):
    made = model(**MODES["unpad"])
    first, second = (Exhibit(record, page) for record, page in zip(RECORDS, pages, strict=True))
    asked = [
        Question("Which is faster?", (first, second)),
        Question("Which is faster?", (second, first)),
        Question("Which is faster?", (first,)),
        Question("Which is faster?"),
        Question(f"{IMAGE} Which is faster, this or {IMAGE}?", (first, second)),
    ]
    said = texts(made, asked, batch_size=5)
    assert len(set(said)) == 5
    assert texts(made, asked[3:4], batch_size=1) == said[3:4], "text alone: no media in the batch"


def test_t02_a_question_with_more_or_fewer_places_than_exhibits_is_refused():
    made = model()
    for text, count in ((f"{IMAGE} Rate?", 0), (f"{IMAGE}{IMAGE} Rate?", 1), (f"{IMAGE} A?", 2)):
        question = Question(text, (Exhibit(RECORDS[0]),) * count, "rec/7")
        places = text.count(IMAGE)
        with pytest.raises(TokenError, match=f"rec/7: got {places} .* expected {count}"):
            next(answer(made, [question], max_new_tokens=2))


def test_t06_a_question_that_leaves_no_room_is_refused_and_never_cut():
    made = model()
    long = Question("Rate? " * 60, (Exhibit(RECORDS[0]),), "rec/9")
    with pytest.raises(TokenError, match=r"rec/9: got \d+ tokens, .* expected at most 175"):
        next(answer(made, [long], max_new_tokens=2))


def test_a_prompt_ends_at_the_cue_and_shows_its_medium_first():
    made = model()
    told = prompt(made, Question("Describe this ECG.", (Exhibit(RECORDS[0]),)))
    assert not told.learn.any() and told.num_placeholders == 1
    assert made.tokenizer.decode(told.ids[told.ids >= 0].tolist()).endswith("ASSISTANT:")
    named = prompt(made, Question(f"{IMAGE}\nDescribe this ECG.", (Exhibit(RECORDS[0]),)))
    np.testing.assert_array_equal(named.ids, told.ids)
    length = prompt_length(made.config, [told])
    needed = len(told.ids) - 1 + tiny.MEDIA
    assert length % answers.BUCKET == 0 and 0 <= length - needed < answers.BUCKET
