"""Conversations as tokens: ids and labels of the original's, labels on the answers alone."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_jax.config import ConfigError
from gem_jax.templates import IMAGE, TEMPLATES, TokenError, Turn, template
from gem_jax.tokenizer import EOS, load_tokenizer, train_tokenizer
from gem_jax.tokens import (
    IGNORED,
    IMAGE_TOKEN,
    encode,
    media_paths,
    one_sided_turns_of,
    placeholder_first,
    texts_of,
    turns_of,
)

GOLDENS = Path(__file__).parent / "goldens"
TEXT = json.loads((GOLDENS / "text.json").read_text())
# What the original cannot label: it counts the tokens of rounds, loses its count and masks all.
LOST = {
    *itertools.product(
        ("vicuna_v1", "llava_v1"),
        (True, False),
        ("last_turn_is_human", "answer_with_sep2", "question_with_ASSISTANT"),
    ),
    *(("llava_llama_2", True, name) for name in ("last_turn_is_human", "answer_with_sep2")),
    *(("mpt", True, case["name"]) for case in TEXT["cases"] if case["template"] == "mpt"),
}
STOPS = {"vicuna_v1": "</s>", "llava_v1": "</s>", "llava_llama_2": " </s>", "mpt": "<|im_end|>"}
OWN = train_tokenizer(["Rate 72 bpm. Axis normal.", "USER: \nDescribe this ECG. ASSISTANT:"], 400)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    later = tmp_path_factory.mktemp("later")
    for path in (GOLDENS / "tokenizer_llama").iterdir():
        (later / path.name).write_bytes(path.read_bytes())
    settings = json.loads((later / "tokenizer_config.json").read_text())
    (later / "tokenizer_config.json").write_text(json.dumps({**settings, "legacy": False}))
    return {
        True: load_tokenizer(GOLDENS / "tokenizer_llama"),
        False: load_tokenizer(later),
        None: load_tokenizer(GOLDENS / "tokenizer_qwen"),
    }


def key_of(case):
    return case["template"], case["legacy"], case["name"]


def encoded(case, tokenizers):
    turns = one_sided_turns_of(case["conversation"])
    return encode(tokenizers[case["legacy"]], case["template"], turns, any_tokenizer=True)


def learnt(tokenizer, made):
    return tokenizer.decode(made.ids[made.learn].tolist(), skip_special=False)


@pytest.mark.parametrize("case", TEXT["cases"], ids=lambda case: "-".join(map(str, key_of(case))))
def test_ids_and_labels_are_the_originals(case, tokenizers):
    made = encoded(case, tokenizers)
    assert made.ids.tolist() == case["input_ids"]
    if key_of(case) in LOST:
        assert set(case["labels"]) == {IGNORED}
    else:
        assert made.labels.tolist() == case["labels"]


@pytest.mark.parametrize(
    "case",
    [case for case in TEXT["cases"] if key_of(case) in LOST],
    ids=lambda case: "-".join(map(str, key_of(case))),
)
def test_t01_where_the_original_masks_everything_the_answers_and_their_stop_are_learnt(
    case, tokenizers
):
    made, turns = encoded(case, tokenizers), one_sided_turns_of(case["conversation"])
    answers = [turn.answer for turn in turns if turn.answer is not None and turn.question]
    told = learnt(tokenizers[case["legacy"]], made).replace(" ", "")
    expected = "".join(answer + STOPS[case["template"]] for answer in answers)
    assert told == expected.replace(" ", "")


@pytest.mark.parametrize("case", TEXT["eval_prompts"], ids=lambda case: case["template"])
def test_prompts_are_those_of_the_original_asking(case, tokenizers):
    name = case["template"].split("(")[0]
    turns = [(f"{IMAGE}\n{case['question']}", "")]
    if name == "v0":  # the original asks after an example of its own
        _, asked, said, *_ = case["prompt"].split("###")
        turns = [(asked.removeprefix("Human: "), said.removeprefix("Assistant: ")), *turns]
    tokenizer = tokenizers[case.get("legacy")]
    made = encode(tokenizer, name, turns, answer_open=True, any_tokenizer=True)
    assert made.ids.tolist() == case["input_ids"]
    assert not made.learn.any()


def test_a_swapped_answer_gives_other_ids(tokenizers):
    case = next(case for case in TEXT["cases"] if case["name"] == "one_turn_image")
    other = [case["conversation"][0], {"from": "gpt", "value": "The rhythm is paced."}]
    made = encoded({**case, "conversation": other}, tokenizers)
    assert made.ids.tolist() != case["input_ids"]


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize(
    "answers",
    [("",), ("USER: no ASSISTANT: no",), ("so</s> it is",), ("one", "two", "three"), (" a ",)],
    ids=str,
)
def test_t01_labels_cover_each_answer_and_its_stop_token(legacy, answers, tokenizers):
    tokenizer = tokenizers[legacy]
    turns = [(f"{IMAGE}\nQ?" if not place else "Q?", a) for place, a in enumerate(answers)]
    made = encode(tokenizer, "vicuna_v1", turns)
    told = learnt(tokenizer, made).replace(" ", "")
    assert told == "".join(f"{answer}</s>" for answer in answers).replace(" ", "")
    stops = (made.ids == tokenizer.eos_id) & made.learn
    assert stops.sum() == "".join(answers).count("</s>") + len(answers)


def test_t01_with_and_without_a_begin_token_the_same_is_learnt(tokenizers, tmp_path):
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((GOLDENS / "tokenizer_llama" / name).read_bytes())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings["add_bos_token"] = False
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    turns = [(f"{IMAGE}\nRate?", "72.")]
    plain = encode(load_tokenizer(tmp_path), "vicuna_v1", turns)
    begun = encode(tokenizers[True], "vicuna_v1", turns)
    assert begun.ids.tolist() == [1, *plain.ids]
    assert begun.labels.tolist() == [IGNORED, *plain.labels]


@pytest.mark.parametrize(("name", "legacy"), [("vicuna_v1", None), ("qwen_2", True), ("mpt", True)])
def test_t01_a_template_that_is_not_the_tokenizers_is_refused(name, legacy, tokenizers):
    with pytest.raises(TokenError, match=f"'{name}' needs the special tokens .*the tokenizer has"):
        encode(tokenizers[legacy], name, [("a", "b")])


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - {"plain", "v0"}))
def test_t01_a_conversation_without_an_answer_is_refused(name, tokenizers):
    tokenizer = tokenizers[None] if name in ("qwen_2", "mpt") else tokenizers[True]
    with pytest.raises(TokenError, match="rec/7: got no answer to learn"):
        encode(tokenizer, name, [("Rate?", None)], id="rec/7")


@pytest.mark.parametrize(
    ("question", "answer", "num_media", "message"),
    [
        ("no picture", "b", 1, "r9: got 0 <image> in the questions, expected 1"),
        (f"{IMAGE}", "b", 0, "r9: got 1 <image> in the questions, expected 0"),
        (f"{IMAGE}{IMAGE}", "b", 1, "r9: got 2 <image> in the questions, expected 1"),
        (f"{IMAGE}", f"see {IMAGE}", 1, "r9: got <image> in an answer"),
    ],
)
def test_t02_placeholders_that_do_not_fit_their_media_are_refused(
    question, answer, num_media, message, tokenizers
):
    with pytest.raises(TokenError, match=message):
        encode(tokenizers[True], "vicuna_v1", [(question, answer)], num_media=num_media, id="r9")


@pytest.mark.parametrize("count", [0, 1, 2])
def test_t02_as_many_placeholders_as_media_are_taken(count, tokenizers):
    made = encode(tokenizers[True], "vicuna_v1", [(IMAGE * count + "?", "b")], num_media=count)
    assert made.num_placeholders == count


def test_t02_a_path_is_a_list_of_one():
    assert media_paths("a/b.png", "r9") == ["a/b.png"]
    assert media_paths(["a.png", "b.png"], "r9") == ["a.png", "b.png"]
    assert media_paths(None, "r9") == []
    with pytest.raises(TokenError, match="r9: got media 3"):
        media_paths(3, "r9")


@pytest.mark.parametrize("case", TEXT["cases"][:13], ids=lambda case: case["name"])
def test_t02_a_placeholder_moves_to_the_front_as_in_the_original(case):
    values = [turn["value"] for turn in case["conversation"]]
    expected = [turn["value"] for turn in case["after_preprocess_multimodal"]]
    assert [placeholder_first(text) if IMAGE in text else text for text in values] == expected


def test_t02_it_moves_in_that_mode_only(tokenizers):
    turns = [(f"Look {IMAGE} here", "yes")]
    kept = encode(tokenizers[True], "vicuna_v1", turns, image_first=False)
    moved = encode(tokenizers[True], "vicuna_v1", turns)
    assert np.argmax(kept.ids == IMAGE_TOKEN) > np.argmax(moved.ids == IMAGE_TOKEN)
    two = f"{IMAGE} and {IMAGE}"
    assert placeholder_first(two) == two


@given(st.text(st.sampled_from("ab 1.\n(é✓:'"), max_size=12), st.text(max_size=12))
def test_a_prompt_is_the_beginning_of_the_whole(question, answer):
    if IMAGE in answer + question:
        return
    turns = [(f"{IMAGE}\n{question}", answer)]
    whole = encode(OWN, "bare", turns)
    prompt = encode(OWN, "bare", turns, answer_open=True)
    assert whole.ids[: len(prompt.ids)].tolist() == prompt.ids.tolist()
    assert not prompt.learn.any()
    assert learnt(OWN, whole) == f" {answer}{EOS}"


def test_a_small_models_row_is_cut_into_tokens_as_its_pieces_were():
    ids = [OWN.bos_id, *OWN.encode("USER: ").ids, IMAGE_TOKEN]
    ids += [*OWN.encode("\nRate? ASSISTANT:").ids, *OWN.encode(" 72.").ids, OWN.eos_id]
    ids += [*OWN.encode("USER: Sure? ASSISTANT:").ids, *OWN.encode(" yes").ids, OWN.eos_id]
    turns = [(f"{IMAGE}\nRate?", "72."), ("Sure?", "yes")]
    assert encode(OWN, "bare", turns).ids.tolist() == ids


def test_the_texts_for_a_tokenizer_hold_no_special_token():
    texts = texts_of("bare", [(f"{IMAGE}\nRate?", "72.")])
    assert texts == ["USER: ", "\nRate? ASSISTANT:", " 72."]


@pytest.mark.parametrize(
    ("roles", "one_sided"),
    [(("gpt", "human"), True), (("human",), True), (("human", "human"), False), ((), False)],
)
def test_roles_must_alternate_from_a_question_to_an_answer(roles, one_sided):
    conversation = [{"from": role, "value": "a"} for role in roles]
    with pytest.raises(TokenError, match="alternating"):
        turns_of(conversation)
    if one_sided:
        assert one_sided_turns_of(conversation)
    else:
        with pytest.raises(TokenError, match="alternating"):
            one_sided_turns_of(conversation)


def test_a_value_that_is_no_text_is_refused():
    with pytest.raises(TokenError, match="expected texts"):
        turns_of([{"from": "human", "value": ["a"]}, {"from": "gpt", "value": "b"}])


def test_plain_takes_one_question_and_answer(tokenizers):
    with pytest.raises(TokenError, match="one question and answer in plain"):
        encode(tokenizers[True], "plain", [("a", "b"), ("c", "d")])


def test_mistrals_words_have_no_system_sentence_and_no_second_begin(tokenizers):
    form = template("mistral_instruct")
    turns = [Turn(f"{IMAGE}\nRate?", "72."), Turn("Sure?", "yes")]
    parts = form.parts(form.system, turns, False)
    told = f"[INST] {IMAGE}\nRate? [/INST] 72. </s>[INST] Sure? [/INST] yes </s>"
    assert "".join(part.text for part in parts) == told
    open_parts = form.parts(form.system, turns[:1], True)
    assert "".join(part.text for part in open_parts) == f"[INST] {IMAGE}\nRate? [/INST]"
    made = encode(tokenizers[True], "mistral_instruct", turns)
    assert (made.ids == tokenizers[True].bos_id).sum() == 1
    assert learnt(tokenizers[True], made).split() == ["72.", "</s>", "yes", "</s>"]


def test_an_unknown_template_is_refused_by_name():
    with pytest.raises(ConfigError, match="vicuna_v1"):
        template("vicuna")
