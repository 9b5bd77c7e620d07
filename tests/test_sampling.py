"""Drawing tokens: temperature, top-k and top-p against a plain reading of their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_jax.sampling import Sampling, choose, kept

LOGITS = np.array([[0.5, 3.0, -1.0, 2.0, 2.5, -np.inf], [1.0, 1.0, 4.0, 0.0, -2.0, -np.inf]])


def drawn(sampling, draws=4000, logits=LOGITS):
    """The share of each token among many draws, rows × vocabulary."""
    wide = jnp.asarray(np.repeat(logits, draws, 0), jnp.float32)
    seeds = jnp.full(len(wide), sampling.seed, jnp.uint32)
    chosen = choose(wide, sampling, seeds, jnp.arange(len(wide)))
    rows = np.asarray(chosen).reshape(len(logits), draws)
    return np.stack([np.bincount(row, minlength=logits.shape[1]) / draws for row in rows])


def reference(logits, temperature, top_k, top_p):
    """The probabilities of one row, token by token from the likeliest."""
    weight = {v: np.exp(x / temperature) for v, x in enumerate(logits) if np.isfinite(x)}
    ranked = sorted(weight, key=weight.__getitem__, reverse=True)[: top_k or None]
    total = sum(weight[v] for v in ranked)
    nucleus, reached = [], 0.0
    for v in ranked:
        if reached >= top_p:
            break
        nucleus.append(v)
        reached += weight[v] / total
    share = np.zeros(len(logits))
    share[nucleus] = [weight[v] for v in nucleus]
    return share / share.sum()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.0, 2, 1.0), (1.0, 0, 0.8), (1.5, 4, 0.6), (1.0, 0, 1e-6)],
)
def test_draws_follow_the_definition(temperature, top_k, top_p):
    share = drawn(Sampling(temperature, top_p, top_k))
    expected = np.stack([reference(row, temperature, top_k, top_p) for row in LOGITS])
    assert np.abs(share - expected).max() < 0.04
    np.testing.assert_array_equal(share[expected == 0], 0)


def test_the_check_of_draws_can_fail():
    share = drawn(Sampling(1.0, 1.0, 0))
    other = np.stack([reference(row, 2.0, 0, 1.0) for row in LOGITS])
    assert np.abs(share - other).max() > 0.1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 8), st.floats(0.05, 0.95), st.floats(0.3, 3.0))
def test_the_same_tokens_are_kept_as_by_the_definition(seed, top_k, top_p, temperature):
    ranked = -np.sort(-np.random.default_rng(seed).normal(size=(1, 8)).astype(np.float32))
    own = np.isfinite(kept(jnp.asarray(ranked), Sampling(temperature, top_p, top_k)))[0]
    expected = reference(ranked[0].astype(float), temperature, top_k, top_p) > 0
    # Where a sum reaches top-p but for rounding, either side is right.
    assert abs(int(own.sum()) - int(expected.sum())) <= 1 and own[0]
    assert (own == expected).all() or np.isclose(
        np.cumsum(reference(ranked[0].astype(float), temperature, top_k, 1.0)), top_p, atol=1e-5
    ).any()


def test_temperature_0_is_the_likeliest_and_divides_nothing():
    with jax.debug_nans(True):
        chosen = choose(jnp.asarray(LOGITS), Sampling(), jnp.zeros(2, jnp.uint32), jnp.arange(2))
    assert chosen.tolist() == [1, 2]
    assert (drawn(Sampling(1e-5), draws=50)[[0, 1], [1, 2]] == 1).all()


def test_a_draw_depends_on_seed_and_position_alone():
    wide = jnp.zeros((6, 50))
    seeds = jnp.array([7, 8, 7, 8, 7, 7], jnp.uint32)
    positions = jnp.array([3, 3, 3, 3, 4, 5])
    hot = Sampling(1.0)
    first, other, again, too, later, last = choose(wide, hot, seeds, positions).tolist()
    assert (first, other) == (again, too)
    assert len({first, other, later, last}) > 1
    alone = choose(wide[:1], hot, seeds[1:2], positions[1:2])
    assert alone.tolist() == [other]


def test_what_cannot_be_drawn_is_refused_by_name():
    with pytest.raises(ValueError, match=r"temperature.*top_p.*top_k.*seed"):
        Sampling(-1.0, 0.0, -1, 2**32)
    for wrong in ({"temperature": float("nan")}, {"temperature": 1e-9}, {"top_p": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Sampling(**wrong)
