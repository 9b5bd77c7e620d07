"""Attention in blocks is the plain one: values, gradients, and what a wrong mask would change."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from gem_jax.models import causal
from gem_jax.models.causal import cached_attention, causal_attention
from gem_jax.models.layers import attention, causal_mask
from gem_jax.models.llm import Llm
from test_step import sizes


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    monkeypatch.setattr(causal, "BLOCK", 16)


def drawn(length, heads=4, kv_heads=2, dtype="float32", rows=2):
    """(q, k, v, a cotangent), of heads 8 wide."""
    keys = jax.random.split(jax.random.key(length), 4)
    counts = (heads, kv_heads, kv_heads, heads)
    return [
        jax.random.normal(key, (rows, length, count, 8), dtype)
        for key, count in zip(keys, counts, strict=True)
    ]


def mask_of(length, window=None):
    """Two segments and padding in the first row, one segment in the second."""
    segments = np.ones((2, length), int)
    segments[0, length // 3 :] = 2
    segments[0, length - length // 5 :] = 0
    return causal_mask(jnp.asarray(segments), window)


def results(attend, q, k, v, ct, mask):
    """(values, the cotangents of q, k and v) in float32."""
    out, back = jax.vjp(lambda *given: attend(*given, mask), q, k, v)
    return [np.asarray(leaf, np.float32) for leaf in (out, *back(ct))]


def apart(got, expected) -> float:
    return max(float(np.abs(one - other).max()) for one, other in zip(got, expected, strict=True))


@pytest.mark.parametrize(
    ("length", "kv_heads", "window"),
    [(1, 2, None), (16, 1, None), (41, 4, None), (41, 2, None), (41, 1, 5), (41, 2, 20)],
)
def test_blocks_are_the_whole(length, kv_heads, window):
    given, mask = drawn(length, kv_heads=kv_heads), mask_of(length, window)
    assert apart(results(causal_attention, *given, mask), results(attention, *given, mask)) < 5e-6


def test_blocks_in_bfloat16_are_the_whole_within_its_steps():
    given, mask = drawn(41, dtype="bfloat16"), mask_of(41)
    exact = results(attention, *(leaf.astype("float32") for leaf in given), mask)
    ours, plain = results(causal_attention, *given, mask), results(attention, *given, mask)
    assert apart(ours, exact) < 1.5 * apart(plain, exact) < 0.1
    assert causal_attention(*given[:3], mask).dtype == jnp.bfloat16


@pytest.mark.parametrize("at", [(0, 30, 29), (0, 30, 10), (1, 17, 0)])
def test_one_wrong_place_of_the_mask_is_seen(at):
    row, query, key = at
    given, mask = drawn(41), mask_of(41)
    wrong = mask.at[row, 0, query, key].set(~mask[row, 0, query, key])
    assert apart(results(causal_attention, *given, wrong), results(attention, *given, mask)) > 1e-3


def test_a_block_that_ends_too_early_is_seen(monkeypatch):
    given, mask = drawn(41), mask_of(41)
    own = [(rows, slice(rows.start, rows.stop)) for rows, _ in causal._blocks(41)]
    monkeypatch.setattr(causal, "_blocks", lambda length: own)
    assert apart(results(causal_attention, *given, mask), results(attention, *given, mask)) > 1e-2


def test_what_lies_ahead_changes_nothing():
    q, k, v, _ = drawn(41)
    far = k.at[:, 30:].set(1e4), v.at[:, 30:].set(jnp.nan)
    whole = causal_attention(q, k, v, mask_of(41))
    assert np.array_equal(causal_attention(q, *far, mask_of(41))[:, :16], whole[:, :16])


def test_no_block_makes_all_probabilities():
    given, mask = drawn(64), mask_of(64)

    def gradients(q, k, v, ct):
        return jax.vjp(lambda *leaves: causal_attention(*leaves, mask), q, k, v)[1](ct)

    made = sizes(jax.make_jaxpr(gradients)(*given).jaxpr)
    assert not [shape for shape in made if shape[-2:] == (64, 64)]
    assert [shape for shape in made if shape[-2:] == (16, 64)]


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_attention_to_a_cache_is_the_plain_one(kv_heads):
    q, k, v, _ = drawn(33, kv_heads=kv_heads)
    mask, first = mask_of(33)[:, :, -3:], q[:, -3:]
    got = cached_attention(first, k.swapaxes(1, 2), v.swapaxes(1, 2), mask)
    np.testing.assert_allclose(got, attention(first, k, v, mask), atol=1e-6)


def test_the_model_says_the_same_in_blocks_and_whole():
    batch, params = tiny.batch(2), tiny.params()["llm"]
    hidden = jax.random.normal(jax.random.key(0), (2, batch.tokens.shape[1], 32))
    mask, said = causal_mask(jnp.asarray(batch.segments)), {}
    for way in ("blocks", "whole", "auto"):
        model = Llm(dataclasses.replace(tiny.MODEL.llm, attention=way))
        said[way] = model.apply({"params": params}, hidden, jnp.asarray(batch.positions), mask)[0]
    np.testing.assert_allclose(said["blocks"], said["whole"], atol=1e-5)
    assert np.array_equal(said["auto"], said["blocks"]), "the tests run on the CPU"
    with pytest.raises(ValueError, match=r"llm.attention: got 'flash', expected one of"):
        dataclasses.replace(tiny.MODEL.llm, attention="flash")
