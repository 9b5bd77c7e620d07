"""Training: what moves, what rests, and a run that was stopped ends as if it had not been."""

from __future__ import annotations

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from gem_jax import checkpoint, run_folder, sharding, train
from gem_jax.config import ConfigError, MeshConfig, read_json, to_dict
from gem_jax.objectives import text_loss
from gem_jax.optimizer import flat, merge, optimizer, split
from gem_jax.step import fresh_state, train_step
from gem_jax.templates import TokenError
from gem_jax.tokenizer import load_tokenizer
from gem_jax.tokens import require_template

# One recipe for many tests: its step is compiled once. Adam's ε damps what float noise would flip.
ALL_ROUND = tiny.changed(
    tiny.instruct(),
    optimizer={"learning_rate": 0.02, "warmup_steps": 0, "final_fraction": 0.5, "eps": 1e-3},
    train={"steps": 60},
)


def config_of(**sections):
    return tiny.changed(tiny.instruct(), **sections)


def leaves(tree):
    return {path: np.asarray(leaf) for path, leaf in flat(tree).items()}


@functools.cache
def stepper(config):
    return jax.jit(
        functools.partial(
            train_step, config=config, tx=optimizer(config.optimizer, config.train.steps)
        )
    )


def after(config, params, batches, dense=None):
    """(parameters, losses) after a step on each batch."""
    moving, frozen = split(params, config.train.trainable)
    state = fresh_state(optimizer(config.optimizer, config.train.steps), moving)
    losses = []
    for batch in batches:
        state, metrics = stepper(config)(state, frozen, batch, dense)
        losses.append(float(metrics["loss"]))
    return merge(state.moving, frozen), losses


@pytest.mark.parametrize(
    "trainable", [("ecg_projector", "mm_projector"), ALL_ROUND.train.trainable]
)
def test_frozen_parts_rest_and_the_others_move(trainable):
    config = tiny.changed(ALL_ROUND, train={"trainable": trainable})
    assert config.optimizer.weight_decay > 0
    before = leaves(tiny.params())
    now, _ = after(config, tiny.params(), [tiny.batch(8, seed=n) for n in range(3)])
    for path, leaf in leaves(now).items():
        same = leaf.tobytes() == before[path].tobytes()
        assert same != (path.split("/")[0] in trainable), path


def test_frozen_parts_have_neither_gradient_nor_optimizer_state():
    config = config_of(train={"trainable": ("mm_projector",)})
    tx = optimizer(config.optimizer, config.train.steps)
    moving, frozen = split(tiny.params(), config.train.trainable)
    state = tx.init(moving)
    held = sum(leaf.size for leaf in jax.tree.leaves(state))
    size = sum(leaf.size for leaf in jax.tree.leaves(moving))
    assert held == 2 * size + 2  # two moments, AdamW's count and the schedule's
    assert set(frozen) == set(tiny.params()) - {"mm_projector"}


def test_one_batch_is_learned_by_heart():
    batch = tiny.batch(8)
    _, losses = after(ALL_ROUND, tiny.params(), [batch] * 60)
    assert losses[0] > 4.0
    assert losses[-1] < 0.1
    draws = (np.random.default_rng(n).integers(3, 400, batch.targets.shape) for n in range(60))
    others = [batch.replace(targets=draw.astype(np.int32)) for draw in draws]
    _, losses = after(ALL_ROUND, tiny.params(), others)
    assert losses[-1] > 4.0, "the control: other targets each time cannot be learned"


def test_a_batch_without_labels_has_loss_0_and_moves_nothing_but_decay():
    batch = tiny.batch(8)
    silent = batch.replace(loss_mask=np.zeros_like(batch.loss_mask))
    now, losses = after(ALL_ROUND, tiny.params(), [silent])
    assert losses == [0.0]
    decay = 1 - ALL_ROUND.optimizer.learning_rate * ALL_ROUND.optimizer.weight_decay
    before = leaves(tiny.params())
    trainable = ALL_ROUND.train.trainable
    for path, leaf in leaves(now).items():
        factor = decay if path.split("/")[0] in trainable else 1.0
        np.testing.assert_allclose(leaf, before[path] * factor, rtol=1e-5, err_msg=path)
    assert after(ALL_ROUND, tiny.params(), [batch])[1][0] > 0.0


def test_text_loss_is_the_mean_over_labelled_tokens():
    batch = tiny.batch(3)
    logits = jax.random.normal(jax.random.key(0), (*batch.tokens.shape, 400))
    told = float(text_loss(logits, jax.tree.map(jnp.asarray, batch)))
    said = np.asarray(jax.nn.log_softmax(logits))
    row, at = np.nonzero(batch.loss_mask)
    assert told == pytest.approx(-said[row, at, batch.targets[row, at]].mean(), rel=1e-5)
    assert told != pytest.approx(-said.reshape(-1, 400).mean(), rel=1e-3)


@pytest.mark.parametrize(("sizes", "stage_0"), [((2, 2, 2), False), ((1, 8, 1), True)])
def test_a_sharded_step_is_the_unsharded_one(sizes, stage_0):
    stage = tiny.pretrain().train if stage_0 else ALL_ROUND.train
    config = dataclasses.replace(ALL_ROUND, train=stage)
    params, batch = tiny.params(stage_0), tiny.batch(8)
    dense = tiny.dense(8) if stage_0 else None
    expected, losses = after(config, params, [batch], dense)
    mesh = sharding.make_mesh(MeshConfig(*sizes))
    where = sharding.batch_sharding(mesh)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, sharding.param_shardings(mesh, params))
        batch, dense = jax.device_put((batch, dense), where)
        now, sharded = after(config, placed, [batch], dense)
    assert not now["llm"]["layers"]["mlp"]["up_proj"]["kernel"].sharding.is_fully_replicated
    assert sharded == pytest.approx(losses, abs=1e-5)
    for path, leaf in leaves(now).items():
        np.testing.assert_allclose(leaf, leaves(expected)[path], atol=1e-5, err_msg=path)
    moved = np.abs(leaves(now)["llm/norm/scale"] - leaves(params)["llm/norm/scale"]).max()
    assert moved > 1e-3, "the control: a step is larger than the tolerance"


def test_begin_places_the_moments_as_their_parameters(prepared):
    config = tiny.on(prepared, config_of(mesh={"data": 1, "fsdp": 4, "tensor": 2}))
    mesh = sharding.make_mesh(config.mesh)
    tx = optimizer(config.optimizer, config.train.steps)
    with jax.set_mesh(mesh):
        state, _ = train.begin(config, None, tx, mesh)
    kernel = state.moving["llm"]["layers"]["mlp"]["up_proj"]["kernel"]
    adam = state.opt_state[1][0]
    assert adam.mu["llm"]["layers"]["mlp"]["up_proj"]["kernel"].sharding == kernel.sharding
    assert not kernel.sharding.is_fully_replicated


def test_a_run_keeps_the_files_that_its_start_was_imported_from(prepared, tmp_path):
    config = tiny.on(prepared, tiny.instruct())
    tokenizer = load_tokenizer(prepared / "tokenizer")
    source = {"layout": "official", "name": "LLaVA", "config": {"_name_or_path": "vicuna"}}
    start, run = checkpoint.Located(tmp_path / "start", 0), checkpoint.Located(tmp_path / "run", 0)
    checkpoint.write_config(start.root, {"model": to_dict(config.model), "source": source})
    run_folder.write_run(config, run.root, tokenizer, start)
    assert read_json(run.root / "config.json") == {**to_dict(config), "source": source}
    run_folder.refuse_another_config(config, run.root)
    run_folder.write_run(config, run.root, tokenizer, run)
    assert read_json(run.root / "config.json")["source"] == source, "it goes on, and keeps them"
    with pytest.raises(ConfigError, match="another run's config"):
        run_folder.refuse_another_config(tiny.changed(config, train={"seed": 6}), run.root)
    run_folder.write_run(config, tmp_path / "fresh", tokenizer, None)
    assert read_json(tmp_path / "fresh" / "config.json") == to_dict(config)


def test_what_cannot_be_trained_is_refused_before_anything_is_written(prepared, tmp_path):
    """T-01: a template whose tokens the tokenizer lacks; a model that is shown nothing."""
    recipe = tiny.on(prepared, tiny.instruct())
    chat = dataclasses.replace(tiny.MODEL, template="qwen_2")
    blind = dataclasses.replace(
        tiny.MODEL, ecg=None, vision=None, ecg_projector="identity", mm_projector="identity"
    )
    for model, error, message in (
        (chat, TokenError, "template 'qwen_2' needs the special tokens <|im_start|>, <|im_end|>"),
        (blind, ConfigError, "model: got a language model alone"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            train.run(dataclasses.replace(recipe, model=model), tmp_path / "run")
        assert not (tmp_path / "run").exists()
    tokenizer = load_tokenizer(prepared / "tokenizer")
    require_template(tokenizer, recipe.model.template, "the control: its own template")
