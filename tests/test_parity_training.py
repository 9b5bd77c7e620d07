"""Ten steps of the original's own training loop: each step's loss, rate and norm, and the weights.

From the same files, by our readers: batches of four rows, in two micro-batches.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import tiny
from gem_jax.config import SourceConfig
from gem_jax.data import train_batches
from gem_jax.optimizer import merge, optimizer, schedule, split
from gem_jax.step import fresh_state, train_step
from gem_jax.tokenizer import load_tokenizer
from gem_jax.weights.read import read_gem
from official_names import apart, official

START = Path(__file__).parent / "goldens" / "gem_llama_tiny"
GOLDEN = Path(__file__).parent / "goldens" / "train_tiny"
LOG = json.loads((GOLDEN / "log.json").read_text())
STEPS = 10


@pytest.fixture(scope="module")
def start():
    return read_gem(START)


@pytest.fixture(scope="module")
def recipe(start, tmp_path_factory):
    """The original's hyperparameters on its file, rows as its loader drew them.

    Ours puts every second row into a micro-batch, the original neighbours.
    """
    rows = json.loads((GOLDEN / "data.json").read_text())
    drawn = np.reshape(LOG["order_per_microbatch"], (STEPS, 2, 2)).swapaxes(1, 2).ravel()
    file = tmp_path_factory.mktemp("drawn") / "data.json"
    file.write_text(json.dumps([rows[index] for index in drawn]))
    source = SourceConfig(str(file), ecgs=str(GOLDEN / "ecg"), images=str(GOLDEN / "img"))
    data = {
        "mixture": (source,),
        "shuffle": False,
        "augment": False,
        "reading": "original",
        "length": 384,
        "batch_size": 4,
    }
    rates = {"learning_rate": 1e-3, "warmup_steps": 1, "final_fraction": 0.0, "weight_decay": 0.0}
    train = {"steps": STEPS, "accumulate": 2, "loss_weighting": "microbatch", "loss_chunk": 100}
    config = dataclasses.replace(tiny.instruct(), model=start[0])
    return tiny.changed(config, data=data, optimizer=rates, train=train)


@pytest.fixture(scope="module")
def batches(recipe):
    return [got.batch for got in train_batches(recipe, load_tokenizer(START), 0)]


def trained(config, params, batches):
    """(metrics of each step, parameters after the last)."""
    tx = optimizer(config.optimizer, config.train.steps)
    moving, frozen = split(params, config.train.trainable)
    state = fresh_state(tx, moving)
    step = jax.jit(functools.partial(train_step, config=config, tx=tx))
    told = []
    for batch in batches:
        state, metrics = step(state, frozen, batch, None)
        told.append(jax.device_get(metrics))
    return told, merge(state.moving, frozen)


def test_losses_norms_and_weights_are_the_originals(recipe, start, batches):
    config, params = start
    told, after = trained(recipe, params, batches)
    losses = [float(metrics["loss"]) for metrics in told]
    np.testing.assert_allclose(losses, LOG["step_loss"], atol=1e-4)
    norms = [clip["norm_before"] for clip in LOG["clip"]]
    np.testing.assert_allclose([metrics["grad_norm"] for metrics in told], norms, rtol=1e-4)
    final = load_file(GOLDEN / "final_trainable.safetensors")
    before, ours = official(config, params), official(config, after)
    for name in ours.keys() - final.keys():
        assert name.startswith(("model.ecg_tower.", "model.vision_tower.")), name
        assert ours[name].tobytes() == before[name].tobytes(), name
    far = apart({name: ours[name] for name in final}, final)
    assert max(far.values()) < 1e-4, far
    moved = apart({name: before[name] for name in final}, final)
    assert min(moved.values()) > 1e-3, "the control: the bound is far below what training moves"


def test_rates_are_the_originals(recipe):
    rates = schedule(recipe.optimizer, STEPS)
    after = [float(rates(step)) for step in range(STEPS + 1)]
    assert after[0] == 0.0
    np.testing.assert_allclose(after[1:], [row["lr_after"] for row in LOG["lr"]], atol=1e-9)


def test_weighting_by_token_is_another_loss(recipe, start, batches):
    config = tiny.changed(recipe, train={"loss_weighting": "token"})
    (metrics,), _ = trained(config, start[1], batches[:1])
    assert abs(float(metrics["loss"]) - LOG["step_loss"][0]) > 1e-3
