"""The optimizer: schedule, clipping, decay; the tree split by parts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from gem_jax.config import ConfigError, OptimizerConfig
from gem_jax.optimizer import PARTS, merge, optimizer, schedule, split
from gem_jax.paths import flat, nested


def config(**fields) -> OptimizerConfig:
    usual = {"warmup_steps": 10, "final_fraction": 0.1, "weight_decay": 0.0, "clip_norm": 1.0}
    return OptimizerConfig(**{"learning_rate": 0.5, **usual, **fields})


def test_the_rate_rises_from_0_to_the_peak_and_falls_along_a_cosine():
    rates = schedule(config(), 110)
    assert float(rates(0)) == 0.0
    assert float(rates(5)) == pytest.approx(0.25)
    assert float(rates(10)) == pytest.approx(0.5)
    assert float(rates(60)) == pytest.approx(0.5 * (0.1 + 0.9 * 0.5), rel=1e-5)
    assert float(rates(110)) == pytest.approx(0.05)
    falling = [float(rates(step)) for step in range(10, 111)]
    assert falling == sorted(falling, reverse=True)
    assert float(schedule(config(warmup_steps=0), 100)(0)) == pytest.approx(0.5)


def test_a_run_shorter_than_its_warm_up_still_rises():
    rates = schedule(config(), 4)
    assert [float(rates(step)) for step in range(4)] == pytest.approx([0.0, 0.05, 0.1, 0.15])


def updates(options: OptimizerConfig, gradient, params):
    tx = optimizer(options, 100)
    return jax.tree.map(np.asarray, tx.update(gradient, tx.init(params), params)[0])


def test_the_first_update_is_adams():
    params, gradient = {"w": jnp.array([2.0, -3.0])}, {"w": jnp.array([0.3, -0.4])}
    got = updates(config(warmup_steps=0), gradient, params)["w"]
    np.testing.assert_allclose(got, [-0.5, 0.5], rtol=1e-5)
    decayed = updates(config(warmup_steps=0, weight_decay=0.1), gradient, params)["w"]
    np.testing.assert_allclose(decayed, got - 0.5 * 0.1 * np.array([2.0, -3.0]), rtol=1e-5)


def test_norms_and_biases_do_not_decay():
    params = {name: jnp.ones(2) for name in ("kernel", "embedding", "scale", "bias")}
    got = updates(
        config(warmup_steps=0, weight_decay=0.1), jax.tree.map(jnp.zeros_like, params), params
    )
    assert {name for name, update in got.items() if update.any()} == {"kernel", "embedding"}


def test_a_set_has_its_own_rate_and_the_longest_prefix_counts():
    paths = ("llm/norm/scale", "llm/layers/kernel", "llm2/kernel", "mm_projector/0/kernel")
    params = nested({path: jnp.ones(2) for path in paths})
    gradient = jax.tree.map(lambda leaf: 0.3 * leaf, params)
    sets = (("llm", 0.2), ("llm/norm", 0.01), ("mm_projector/0", 1.0))
    options = config(warmup_steps=0, learning_rates=sets)
    got = flat(updates(options, gradient, params))
    np.testing.assert_allclose([-got[path][0] for path in paths], [0.01, 0.2, 0.5, 1.0], rtol=1e-5)
    one = flat(updates(config(warmup_steps=0), gradient, params))
    np.testing.assert_allclose([-one[path][0] for path in paths], [0.5] * 4, rtol=1e-5)
    halfway = optimizer(options, 100), optimizer(config(warmup_steps=0), 100)
    fallen = []
    for tx in halfway:  # the schedule's shape is one for all sets
        state = tx.init(params)
        for _ in range(50):
            update, state = tx.update(gradient, state, params)
        fallen.append(flat(update)["llm/norm/scale"][0])
    assert float(fallen[0] / fallen[1]) == pytest.approx(0.01 / 0.5)


def test_a_set_that_does_not_move_is_refused():
    tx = optimizer(config(learning_rates=(("llm", 0.1), ("ecg_projector", 0.1))), 100)
    with pytest.raises(ConfigError, match=r"optimizer.learning_rates: got \['ecg_projector'\]"):
        tx.init(nested({"llm/norm/scale": jnp.ones(2)}))
    with pytest.raises(ConfigError, match=r"optimizer.learning_rates\[llm\]: got 0"):
        config(learning_rates=(("llm", 0.0),))


def test_clipping_is_by_the_norm_of_all_gradients():
    params = {"v": jnp.zeros(1), "w": jnp.zeros(1)}
    gradient = {"v": jnp.array([30.0]), "w": jnp.array([40.0])}
    # With a large ε the update is proportional to what is left of the gradient.
    options = config(warmup_steps=0, eps=1e6)
    got = updates(options, gradient, params)
    np.testing.assert_allclose(
        [got["v"][0], got["w"][0]], -0.5e-6 * np.array([0.6, 0.8]), rtol=1e-4
    )
    free = updates(config(warmup_steps=0, eps=1e6, clip_norm=1e9), gradient, params)
    np.testing.assert_allclose(free["w"], -0.5e-6 * 40.0, rtol=1e-3)


def test_split_and_merge_are_inverse():
    params = tiny.params()
    moving, frozen = split(params, ("llm", "mm_projector"))
    assert set(moving) == {"llm", "mm_projector"}
    assert set(moving) | set(frozen) == set(params)
    assert not set(moving) & set(frozen)
    assert merge(moving, frozen) == params
    with pytest.raises(ConfigError, match=r"train.trainable: got \['lm'\], expected parts of"):
        split(params, ("llm", "lm"))


def test_every_part_of_the_models_has_its_name():
    newline = {"image_newline"}  # the tiny model merges no tiles
    assert {*tiny.params(), *tiny.params(stage_0=True)} | newline == set(PARTS)


def test_flat_and_nested_are_inverse():
    paths = flat(tiny.params())
    assert "llm/layers/self_attn/q_proj/kernel" in paths
    again = nested(paths)
    assert jax.tree.structure(again) == jax.tree.structure(tiny.params())
