"""Every recipe builds, and its step, optimizer and mesh fit together: no memory, no weights."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import pytest

from gem_jax import resume, sharding
from gem_jax.config import Config, ConfigError, MeshConfig
from gem_jax.models.gem import abstract_batch, abstract_params
from gem_jax.models.pretrain import DenseTargets
from gem_jax.optimizer import PARTS, optimizer, split
from gem_jax.recipes import load_recipe
from gem_jax.start import param_shapes
from gem_jax.step import fresh_state, train_step
from gem_jax.templates import template

FILES = sorted((Path(__file__).parents[1] / "experiments").glob("*.py"))


def recipes() -> list[str]:
    """Every function of experiments/ that says it returns a Config and needs nothing."""
    found = []
    for file in FILES:
        source = file.read_text(encoding="utf-8").splitlines()
        names = [line[4:].split("(")[0] for line in source if line.endswith("() -> Config:")]
        found += [f"{file}:{name}" for name in names]
    return found


RECIPES = recipes()


def dense_shapes(config: Config) -> DenseTargets | None:
    if config.train.objective != "pretrain":
        return None
    rows, ecg = config.data.batch_size, config.model.ecg
    each = (rows, ecg.num_tokens - 1, ecg.num_leads, 3)
    shape = jax.ShapeDtypeStruct
    return DenseTargets(shape(each, bool), shape(each, "float32"), shape((rows, 6), "float32"))


def test_the_demo_has_its_three_stages():
    assert {recipe.rpartition(":")[2] for recipe in RECIPES} >= {"pretrain", "align", "finetune"}


@pytest.mark.parametrize("spec", RECIPES, ids=[spec.rpartition("/")[2] for spec in RECIPES])
def test_a_step_of_the_recipe_keeps_every_shape(spec):
    config = load_recipe(spec)
    assert {*config.train.trainable, *config.train.init_parts} <= set(PARTS)
    template(config.model.template)
    moving, frozen = split(param_shapes(config), config.train.trainable)
    tx = optimizer(config.optimizer, config.train.steps)
    state = jax.eval_shape(functools.partial(fresh_state, tx), moving)
    batch = abstract_batch(config.model, config.data.batch_size, config.data.length)
    update = functools.partial(train_step, config=config, tx=tx)
    after, metrics = jax.eval_shape(update, state, frozen, batch, dense_shapes(config))
    assert after == state
    assert metrics["loss"].shape == metrics["grad_norm"].shape == ()


@pytest.mark.parametrize("spec", RECIPES, ids=[spec.rpartition("/")[2] for spec in RECIPES])
def test_the_recipe_has_a_place_for_everything(spec):
    config = load_recipe(spec)
    mesh = sharding.make_mesh(config.mesh)
    assert config.data.batch_size % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0
    for each in (mesh, sharding.make_mesh(MeshConfig(2, 2, 2))):
        moving, frozen = split(param_shapes(config), config.train.trainable)
        tx = optimizer(config.optimizer, config.train.steps)
        fresh = jax.eval_shape(functools.partial(fresh_state, tx), moving)
        state = resume.saved_state(fresh, frozen)
        placed = sharding.state_shardings(each, state, param_shapes(config))
        jax.tree.map(lambda leaf, where: where.shard_shape(leaf.shape), state, placed)


def test_the_demos_gem_has_about_half_a_million_parameters():
    config = load_recipe(next(spec for spec in RECIPES if spec.endswith("demo.py:finetune")))
    leaves = jax.tree.leaves(abstract_params(config.model))
    assert 0.4e6 < sum(leaf.size for leaf in leaves) < 0.6e6
    assert 16 <= config.model.vision.num_tokens <= 25


def test_the_demos_stages_follow_each_other():
    stages = [
        load_recipe(next(spec for spec in RECIPES if spec.endswith(f"demo.py:{stage}")))
        for stage in ("pretrain", "align", "finetune")
    ]
    assert len({stage.model for stage in stages}) == 1
    assert set(stages[1].train.trainable) == {"ecg_projector", "mm_projector"}
    assert set(stages[2].train.trainable) == {"ecg_projector", "mm_projector", "llm"}
    held: set[str] = set()
    for stage in stages:
        shapes = set(param_shapes(stage))
        assert shapes - held == set(stage.train.init_parts)
        held = shapes


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("demo", "expected FILE.py:function of a file that exists"),
        ("absent.py:one", "expected FILE.py:function of a file that exists"),
        ("{recipe}", "expected FILE.py:function"),
        ("{recipe}:absent", "got 'absent', expected a function"),
        ("{recipe}:number", "got 'number', expected a function"),
        ("{recipe}:wrong", "got 'wrong', expected a function"),
    ],
)
def test_what_is_no_recipe_is_refused(spec, said, tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text("number = 3\ndef wrong():\n    return {}\n")
    with pytest.raises(ConfigError) as refused:
        load_recipe(spec.format(recipe=recipe))
    assert said in str(refused.value)


def test_the_control_a_recipe_with_a_part_too_few_is_noticed():
    config = load_recipe(RECIPES[0])
    shapes = param_shapes(config)
    shapes.pop(config.train.trainable[0])
    with pytest.raises(ConfigError, match=r"train.trainable"):
        split(shapes, config.train.trainable)
