"""Generation: the cached decoder says what the whole forward pass says, whoever sits beside it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gem_jax.generate import generate
from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.models.gem import Batch, Gem, GemConfig
from gem_jax.models.llm import LlmConfig

CONFIG = GemConfig(
    ecg=EcgConfig(400, 12, 100, 16, 2, 8, 2.0, 8),
    vision=ClipConfig(32, 16, 16, 2, 2, 32),
    llm=LlmConfig(60, 32, 2, 4, 2, 8, 48, 10_000.0, 1e-5),
    ecg_projector="linear",
    mm_projector="mlp2x_gelu",
    bos_token_id=1,
    eos_token_id=2,
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
        ecg=ecg.astype(np.float32),
        image=image.astype(np.float32),
    )
    return jax.tree.map(jnp.asarray, arrays)


@pytest.fixture(scope="module")
def params():
    made = jax.jit(Gem(CONFIG).init)(jax.random.key(0), batch_of([20]))["params"]
    # Wider than the initialiser's: the greedy choice then depends on the prompt.
    return jax.tree.map(lambda leaf: leaf * 2.5, made)


def greedy(params, batch, new, num_tokens=60, config=CONFIG):
    return generate(config, params, batch, max_new_tokens=new, num_tokens=num_tokens)


def uncached(params, batch, new):
    """Greedy tokens of one row by the whole forward pass each time."""
    logits_of = jax.jit(lambda batch: Gem(CONFIG).apply({"params": params}, batch))
    said = []
    for end in range(int(batch.segments.sum()), int(batch.segments.sum()) + new):
        token = int(logits_of(batch)[0, end - 1].argmax())
        if token == CONFIG.eos_token_id:
            break
        said.append(token)
        tokens, segments = batch.tokens.at[0, end].set(token), batch.segments.at[0, end].set(1)
        batch = batch.replace(tokens=tokens, segments=segments)
    return tuple(said)


def test_the_cache_changes_nothing(params):
    batch = batch_of([15])
    assert greedy(params, batch, 8)[0].tokens == uncached(params, batch, 8) != ()


def test_neighbours_and_padding_change_no_token(params):
    together = greedy(params, batch_of([15, 24, 18]), 8)
    wide = greedy(params, batch_of([15, 24, 18], length=31), 8)
    assert [one.tokens for one in together] == [one.tokens for one in wide]
    alone = jax.tree.map(lambda leaf: leaf[:1], batch_of([15, 24, 18]))
    assert greedy(params, alone, 8)[0].tokens == together[0].tokens
    assert len({one.tokens for one in together}) > 1


def test_another_ecg_gives_another_answer(params):
    batch = batch_of([15, 15])
    same_text = batch.replace(tokens=batch.tokens[:1].repeat(2, 0))
    first, second = greedy(params, same_text, 8)
    assert first.tokens != second.tokens
    blind = same_text.replace(media_index=jnp.full_like(batch.media_index, -1))
    first, second = greedy(params, blind, 8)
    assert first.tokens == second.tokens


def test_the_end_token_ends_and_is_left_out(params):
    batch = batch_of([15])
    token = greedy(params, batch, 8)[0].tokens[2]
    ending = dataclasses.replace(CONFIG, eos_token_id=token)
    answer = greedy(params, batch, 8, config=ending)[0]
    assert token not in answer.tokens and len(answer.tokens) <= 2 and answer.reason == "eos"
    assert greedy(params, batch, 2)[0].reason == "length"


def test_rows_beyond_the_tokenizer_are_never_chosen(params):
    free = {t for one in greedy(params, batch_of([15, 24, 18]), 8) for t in one.tokens}
    known = max(free)
    bound = greedy(params, batch_of([15, 24, 18]), 8, num_tokens=known)
    assert all(token < known for one in bound for token in one.tokens)
