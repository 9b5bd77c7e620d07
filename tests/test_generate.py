"""Generation: the cached decoder says what the whole forward pass says, whoever sits beside it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gem_jax.generate import PromptError, generate
from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.models.gem import Batch, Gem, GemConfig
from gem_jax.models.llm import LlmConfig
from gem_jax.sampling import Sampling

CONFIG = GemConfig(
    ecg=EcgConfig(400, 12, 100, 16, 2, 8, 2.0, 8),
    vision=ClipConfig(32, 16, 16, 2, 2, 32),
    llm=LlmConfig(60, 32, 2, 4, 2, 8, 48, 10_000.0, 1e-5),
    ecg_projector="linear",
    mm_projector="mlp2x_gelu",
    bos_token_id=1,
    eos_token_ids=(2,),
    pad_token_id=0,
    image_mode="pad",
    max_length=64,
)
MEDIA = CONFIG.num_media_tokens


def batch_of(lengths, length=24, seed=0):
    rng = np.random.default_rng(seed)
    tokens = np.zeros((len(lengths), length), np.int32)
    segments = np.zeros_like(tokens)
    media = np.full_like(tokens, -1)
    for row, count in enumerate(lengths):
        tokens[row, :count] = np.random.default_rng(row).integers(3, 60, count)
        segments[row, :count] = 1
        media[row, 1 : 1 + MEDIA] = np.arange(MEDIA)
    ecg = np.stack([np.random.default_rng(r).normal(size=(12, 400)) for r in range(len(lengths))])
    image = rng.normal(size=(1, 32, 32, 3)).repeat(len(lengths), 0)
    arrays = Batch(
        tokens=tokens,
        positions=np.arange(length, dtype=np.int32)[None].repeat(len(lengths), 0),
        segments=segments,
        media_index=media,
        targets=np.zeros_like(tokens),
        loss_mask=np.zeros_like(tokens, bool),
        ecg=ecg[:, None].astype(np.float32),
        image=image[:, None].astype(np.float32),
    )
    return jax.tree.map(jnp.asarray, arrays)


@pytest.fixture(scope="module")
def params():
    made = jax.jit(Gem(CONFIG).init)(jax.random.key(0), batch_of([20]))["params"]
    # Wider than the initialiser's: the greedy choice then depends on the prompt.
    return jax.tree.map(lambda leaf: leaf * 2.5, made)


def answers(params, batch, new, num_tokens=60, config=CONFIG, **options):
    return generate(config, params, batch, max_new_tokens=new, num_tokens=num_tokens, **options)


def uncached(params, batch, new, config=CONFIG):
    """Greedy tokens of one row by the whole forward pass each time."""
    logits_of = jax.jit(lambda batch: Gem(config).apply({"params": params}, batch))
    said = []
    for end in range(int(batch.segments.sum()), int(batch.segments.sum()) + new):
        token = int(logits_of(batch)[0, end - 1].argmax())
        if token in config.eos_token_ids:
            break
        said.append(token)
        tokens, segments = batch.tokens.at[0, end].set(token), batch.segments.at[0, end].set(1)
        batch = batch.replace(tokens=tokens, segments=segments)
    return tuple(said)


def test_the_cache_changes_nothing(params):
    batch = batch_of([15])
    assert answers(params, batch, 8)[0].tokens == uncached(params, batch, 8) != ()


def test_neighbours_and_padding_change_no_token(params):
    together = answers(params, batch_of([15, 24, 18]), 8)
    wide = answers(params, batch_of([15, 24, 18], length=31), 8)
    assert [one.tokens for one in together] == [one.tokens for one in wide]
    alone = jax.tree.map(lambda leaf: leaf[:1], batch_of([15, 24, 18]))
    assert answers(params, alone, 8)[0].tokens == together[0].tokens
    assert len({one.tokens for one in together}) > 1


def test_another_ecg_gives_another_answer(params):
    batch = batch_of([15, 15])
    same_text = batch.replace(tokens=batch.tokens[:1].repeat(2, 0))
    first, second = answers(params, same_text, 8)
    assert first.tokens != second.tokens
    blind = same_text.replace(media_index=jnp.full_like(batch.media_index, -1))
    first, second = answers(params, blind, 8)
    assert first.tokens == second.tokens


def test_the_window_slides_over_prompt_and_answer_alike(params):
    """Padding between prompt and answer takes no place in the window."""
    narrow = dataclasses.replace(CONFIG, llm=dataclasses.replace(CONFIG.llm, sliding_window=6))
    for length in (24, 31):
        batch = batch_of([15], length=length)
        said = answers(params, batch, 8, config=narrow)[0].tokens
        assert said == uncached(params, batch, 8, narrow)
    assert said != answers(params, batch, 8)[0].tokens


def test_a_prompt_without_media_and_a_language_model_alone(params):
    batch = batch_of([15, 12])
    text = batch.replace(media_index=jnp.full_like(batch.media_index, -1), ecg=None, image=None)
    alone = dataclasses.replace(
        CONFIG, ecg=None, vision=None, ecg_projector="identity", mm_projector="identity"
    )
    said = answers(params, text, 6)
    assert [one.tokens for one in said] == [
        one.tokens for one in answers({"llm": params["llm"]}, text, 6, config=alone)
    ]
    assert said[0].tokens != answers(params, batch, 6)[0].tokens


def test_each_end_token_ends_and_is_left_out(params):
    """G-03: every one of several; an argument takes the place of the config's."""
    batch = batch_of([15, 24, 18])
    free = answers(params, batch, 8)
    ends = (free[0].tokens[2], free[1].tokens[4])
    ending = dataclasses.replace(CONFIG, eos_token_ids=(2, *ends))
    ended = answers(params, batch, 8, config=ending)
    for row, one in enumerate(free):
        at = min([i for i, token in enumerate(one.tokens) if token in ends], default=8)
        assert ended[row].tokens == one.tokens[:at]
        assert ended[row].reason == ("eos" if at < 8 else "length")
        assert ended[row].end_token == (one.tokens[at] if at < 8 else None)
    assert ended[0].reason == ended[1].reason == "eos"
    assert ended == answers(params, batch, 8, eos_token_ids=ending.eos_token_ids)
    assert answers(params, batch, 8, config=ending, eos_token_ids=[2]) == free
    assert answers(params, batch, 2)[0].reason == "length"


def letters(ids):
    """A tokenizer's decode: each token is two characters, so that stops begin inside tokens."""
    return "".join(f"{chr(97 + token // 8)}{token % 8}" for token in ids)


def test_a_stop_text_over_three_tokens_ends_and_is_left_out(params):
    """G-03: found wherever a look of the host falls; what goes on in other rows is the same."""
    batch = batch_of([15, 24, 18])
    free = answers(params, batch, 20, decode=letters)
    for first in (3, 6, 7, 14):
        stop = letters(free[0].tokens[first : first + 3])[1:-1]
        said = answers(params, batch, 20, stop=[stop, "none"], decode=letters)
        at = free[0].text.index(stop)
        assert said[0].text == free[0].text[:at] and said[0].reason == "stop"
        assert letters(said[0].tokens) == said[0].text[: at // 2 * 2]
        for one, other in zip(said[1:], free[1:], strict=True):
            assert other.text.startswith(one.text)
            assert (one == other) == (stop not in other.text)
    assert answers(params, batch, 20, stop=["none"], decode=letters) == free


def test_streamed_text_is_the_answer_and_never_a_part_of_the_stop(params):
    batch = batch_of([15, 24, 18])
    free = answers(params, batch, 20, decode=letters)
    stop = letters(free[1].tokens[6:9])
    heard = {0: "", 1: "", 2: ""}
    pieces = []

    def hear(row, piece):
        heard[row] += piece
        pieces.append(piece)

    said = answers(params, batch, 20, stop=[stop], decode=letters, on_text=hear)
    assert list(heard.values()) == [one.text for one in said]
    assert said[1].reason == "stop" and len(pieces) > 3


def test_the_prompt_is_no_part_of_the_answer(params):
    """G-02: nothing has to be cut off, and an end at once is an empty answer with its reason."""
    batch = batch_of([15])
    first = answers(params, batch, 8)[0].tokens[0]
    empty = answers(params, batch, 8, eos_token_ids=[first], decode=letters)[0]
    assert (empty.tokens, empty.text, empty.reason) == ((), "", "eos")
    assert len(answers(params, batch, 8)[0].tokens) == 8 < int(batch.segments.sum())


def test_a_seed_gives_one_text_in_any_place_of_any_batch(params):
    """G-04: and another seed another; temperature 0 is the greedy answer."""
    hot = Sampling(temperature=1.5, seed=11)
    batch = batch_of([15, 24, 18])
    together = [one.tokens for one in answers(params, batch, 10, sampling=hot)]
    turned = jax.tree.map(lambda leaf: leaf[::-1], batch_of([15, 24, 18], length=31))
    assert [one.tokens for one in answers(params, turned, 10, sampling=hot)] == together[::-1]
    seeded = answers(params, batch, 10, sampling=hot, seeds=[11, 12, 11])
    assert [seeded[row].tokens == together[row] for row in range(3)] == [True, False, True]
    cold = answers(params, batch, 10, sampling=Sampling(temperature=0.0, seed=11))
    assert cold == answers(params, batch, 10) and cold[0].tokens != together[0]


def test_answers_end_where_prompt_and_answer_fill_the_model(params):
    """G-05: at each row's own limit, whatever the padding; a prompt that leaves none is refused."""
    batch = batch_of([15, 24, 18])
    short = dataclasses.replace(CONFIG, max_length=26)
    said = answers(params, batch, 20, config=short)
    assert [len(one.tokens) for one in said] == [11, 2, 8]
    assert {one.reason for one in said} == {"length"}
    free = answers(params, batch, 20)
    assert all(a.tokens == b.tokens[: len(a.tokens)] for a, b in zip(said, free, strict=True))
    with pytest.raises(PromptError, match=r"24 tokens.*model's length .24."):
        answers(params, batch, 1, config=dataclasses.replace(CONFIG, max_length=24))


def test_what_cannot_be_answered_is_refused(params):
    batch = batch_of([15])
    left = batch.replace(segments=batch.segments[:, ::-1])
    wrong = {
        "padding on the right": lambda: answers(params, left, 4),
        "max_new_tokens: got 0": lambda: answers(params, batch, 0),
        "decode: got none": lambda: answers(params, batch, 4, stop=["x"]),
        "stop: got": lambda: answers(params, batch, 4, stop=[""], decode=letters),
    }
    for message, call in wrong.items():
        with pytest.raises(PromptError, match=message):
            call()


def test_rows_beyond_the_tokenizer_are_never_chosen(params):
    free = {t for one in answers(params, batch_of([15, 24, 18]), 8) for t in one.tokens}
    known = max(free)
    bound = answers(params, batch_of([15, 24, 18]), 8, num_tokens=known)
    assert all(token < known for one in bound for token in one.tokens)
