"""Our side of benchmarks/train_step.py: the step as `train` runs it, and `generate`."""

import functools
import time
from typing import Any

import jax
import numpy as np

from benchmarks import step_shapes
from gem_jax import log, sharding, train
from gem_jax.config import Config
from gem_jax.flops import formula, llm_matmul_weights, passes, step_flops
from gem_jax.generate import generate
from gem_jax.models.gem import Batch
from gem_jax.optimizer import merge, optimizer, split
from gem_jax.step import TrainState, fresh_state, train_step


def trained(shape: step_shapes.Shape) -> dict[str, Any]:
    """Returns the first loss, tokens/s of the steps after it, and the model's FLOPs of a step."""
    config = step_shapes.recipe(shape)
    mesh, tx = sharding.make_mesh(config.mesh), optimizer(config.optimizer, config.train.steps)
    with jax.set_mesh(mesh):
        moving, frozen = split(
            step_shapes.tree(step_shapes.weights(config)), config.train.trainable
        )
        state = jax.jit(functools.partial(fresh_state, tx))(moving)
        batch = step_shapes.text_batch(step_shapes.tokens(shape))
        return measured(config, tx, mesh, state, frozen, batch)


def trained_on_card(kind: str) -> dict[str, Any]:
    """Returns the same of GEM-7B's step, `full` or `lora`, with MFU and the card's memory."""
    config = step_shapes.card_recipe(kind)
    mesh, tx = sharding.make_mesh(config.mesh), optimizer(config.optimizer, config.train.steps)
    with jax.set_mesh(mesh):
        state, frozen = train.begin(config, None, tx, mesh)
        said = measured(config, tx, mesh, state, frozen, step_shapes.card_batch(config))
    memory = [device.memory_stats() or {} for device in jax.devices()]
    peak = max((each.get("peak_bytes_in_use", 0) for each in memory), default=0)
    return said | {"peak_bytes": peak, "device": jax.devices()[0].device_kind}


def measured(
    config: Config,
    tx: Any,
    mesh: jax.sharding.Mesh,
    state: TrainState,
    frozen: dict,
    batch: Batch,
) -> dict[str, Any]:
    """Returns what a run of the recipe's steps on one batch takes, the first ones left out."""
    rows, length = batch.tokens.shape
    params = merge(state.moving, frozen)
    weights, k = llm_matmul_weights(params), passes(config, params)
    del params
    where = sharding.batch_sharding(mesh)
    step = jax.jit(functools.partial(train_step, config=config, tx=tx), donate_argnums=0)
    losses = []
    for number in range(config.train.steps):
        if number == step_shapes.WARM_UP:
            jax.block_until_ready(state)
            began = time.perf_counter()
        state, metrics = step(state, frozen, jax.device_put(batch, where), None)
        losses.append(metrics["loss"])
    jax.block_until_ready(state)
    seconds = (time.perf_counter() - began) / (config.train.steps - step_shapes.WARM_UP)
    flops = step_flops(config.model, weights, rows * length, rows * length**2, k)
    return {
        "loss": float(losses[0]),
        "tokens_per_s": rows * length / seconds,
        "flops_per_s": flops / seconds,
        "mfu": log.mfu(flops, seconds),
        "formula": formula(config.model, weights, k),
    }


def decoded(shape: step_shapes.Shape) -> dict[str, Any]:
    """Returns new tokens/s of greedy answers of one length, the prompts read included."""
    config = step_shapes.recipe(shape)
    params = step_shapes.tree(step_shapes.weights(config))
    prompts = step_shapes.tokens(shape)[:, : shape.length // 2 + 1]
    ask = functools.partial(
        generate,
        *(config.model, params, step_shapes.text_batch(prompts)),
        max_new_tokens=shape.new_tokens,
        num_tokens=step_shapes.VOCAB_SIZE,
        eos_token_ids=(),
    )
    ask()  # compiles
    began = time.perf_counter()
    answers = ask()
    seconds = time.perf_counter() - began
    new = np.array([answer.tokens for answer in answers])
    return {"tokens_per_s": new.size / seconds, "first": new[:, 0].tolist()}
