"""Every recipe fits together at full size, by shape alone, and takes real steps when shrunk."""

from __future__ import annotations

import dataclasses
import functools
import math
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import tiny
from experiments.demo import shrink
from gem_jax import checkpoint, log, resume, sharding, train
from gem_jax.config import Config, ConfigError, MeshConfig
from gem_jax.lora import is_factor, kernel_of
from gem_jax.models.gem import abstract_batch, abstract_params
from gem_jax.models.pretrain import DenseTargets
from gem_jax.optimizer import PARTS, optimizer, split
from gem_jax.paths import flat
from gem_jax.recipes import load_recipe
from gem_jax.run_folder import metrics_file
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
# What `gem-jax import` makes of LLaVA or PULSE, and of Qwen2, with the encoders' files.
LLAVA = ("ecg_tower", "vision_tower", "mm_projector", "image_newline", "llm")
QWEN = ("ecg_tower", "vision_tower", "llm")


def dense_shapes(config: Config) -> DenseTargets | None:
    if config.train.objective != "pretrain":
        return None
    rows, ecg = config.data.batch_size, config.model.ecg
    each = (rows, ecg.num_tokens - 1, ecg.num_leads, 3)
    shape = jax.ShapeDtypeStruct
    return DenseTargets(shape(each, bool), shape(each, "float32"), shape((rows, 6), "float32"))


def test_the_demo_has_its_three_stages():
    assert {recipe.rpartition(":")[2] for recipe in RECIPES} >= {"pretrain", "align", "finetune"}


@pytest.mark.parametrize("spec", RECIPES, ids=lambda spec: spec.rpartition("/")[2])
def test_a_step_of_the_recipe_keeps_every_shape(spec):
    config = load_recipe(spec)
    named = {*config.train.trainable, *config.train.init_parts}
    assert {path.split("/")[0] for path in named} <= set(PARTS)
    template(config.model.template)
    moving, frozen = split(param_shapes(config), config.train.trainable)
    tx = optimizer(config.optimizer, config.train.steps)
    state = jax.eval_shape(functools.partial(fresh_state, tx), moving)
    batch = abstract_batch(config.model, config.data.batch_size, config.data.length)
    update = functools.partial(train_step, config=config, tx=tx)
    after, metrics = jax.eval_shape(update, state, frozen, batch, dense_shapes(config))
    assert after == state
    assert metrics["loss"].shape == metrics["grad_norm"].shape == ()


@pytest.mark.parametrize("spec", RECIPES, ids=lambda spec: spec.rpartition("/")[2])
def test_the_recipe_has_a_place_for_everything(spec):
    config = load_recipe(spec)
    mesh = sharding.make_mesh(config.mesh)
    assert config.data.batch_size % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0
    for each in (mesh, sharding.make_mesh(MeshConfig(2, 2, 2))):
        moving, frozen = split(param_shapes(config), config.train.trainable)
        tx = optimizer(config.optimizer, config.train.steps)
        fresh = jax.eval_shape(functools.partial(fresh_state, tx), moving)
        state = (resume.saved_state(fresh), frozen)
        placed = sharding.state_shardings(each, state, param_shapes(config))
        jax.tree.map(lambda leaf, where: where.shard_shape(leaf.shape), state, placed)


def unlike() -> list[str]:
    """The recipes without those that differ from another only by what they start from.

    Of the variants on Qwen2 one will do: its biases are all that is new to the step.
    """
    first = {shrink(load_recipe(spec)): spec for spec in reversed(RECIPES)}
    again = ("align_qwen2", "lora_qwen2")
    return sorted(spec for spec in first.values() if not spec.endswith(again))


@pytest.mark.parametrize("spec", unlike(), ids=lambda spec: spec.rpartition("/")[2])
def test_the_shrunk_recipe_takes_real_steps_and_goes_on_bit_for_bit(spec, prepared, tmp_path):
    """C-06: stopped after a step that moved something, it ends as the uninterrupted run."""
    # Warm-up begins at 0: the second step is the first that moves something.
    short = {"steps": 3, "checkpoint_every": 1}
    config = tiny.changed(shrunk(spec, prepared), train=short)
    run_dir = train.run(config, tmp_path / "run")
    rows, expected = told(run_dir), saved(run_dir, 3)
    for row in rows:
        assert np.isfinite([row["loss"], row["grad_norm"], row["param_norm"]]).all()
        assert row["grad_norm"] > 0
    assert rows[0]["learning_rate"] == 0 < min(rows[1]["learning_rate"], rows[2]["learning_rate"])
    shutil.rmtree(checkpoint.steps_dir(run_dir) / "3")
    train.run(config, run_dir)
    assert told(run_dir) == rows
    assert saved(run_dir, 3) == expected
    before = saved(run_dir, 2)
    moved = {path for path, content in expected.items() if before[path] != content}
    moving, frozen = map(flat, split(param_shapes(config), config.train.trainable))
    # What is read has its factors merged.
    adapted = {kernel_of(path) for path in moving if is_factor(path)}
    assert not moved & (frozen.keys() - adapted)
    assert {path.split("/")[0] for path in moved} == {path.split("/")[0] for path in moving}


def told(run_dir: Path) -> list[dict]:
    """Returns what a run tells of its steps, without what depends on the clock."""
    same = ("step", "loss", "grad_norm", "param_norm", "learning_rate", "record_ids_hash")
    return [{name: row[name] for name in same} for row in log.read_metrics(metrics_file(run_dir))]


def saved(run_dir: Path, step: int) -> dict[str, bytes]:
    """Returns the bits of a step's parameters."""
    tree = checkpoint.load_tree(checkpoint.Located(run_dir, step))
    return {path: np.asarray(leaf).tobytes() for path, leaf in flat(tree).items()}


def shrunk(spec: str, prepared: Path) -> Config:
    """Returns the recipe at the demo's sizes, on the shards and the tokenizer of the tests."""
    config, shards = shrink(load_recipe(spec)), str(prepared / "shards")
    mixture = tuple(dataclasses.replace(source, path=shards) for source in config.data.mixture)
    data = {
        "shards": shards if config.data.shards else "",
        "mixture": mixture,
        "tokenizer": str(prepared / "tokenizer"),
        # The tests' tokenizer has learnt fewer words than the demo's.
        "length": config.model.max_length,
    }
    return tiny.changed(config, data=data)


def test_shrinking_keeps_what_a_recipe_decides():
    for spec in RECIPES:
        config, small = load_recipe(spec), shrink(load_recipe(spec))
        size = sum(leaf.size for leaf in jax.tree.leaves(param_shapes(small)))
        assert size < 1e6
        for same in ("trainable", "objective", "loss_weighting", "frozen_dtype"):
            assert getattr(small.train, same) == getattr(config.train, same), spec
        for same in ("family", "remat", "dtype", "param_dtype"):
            assert getattr(small.model.llm, same) == getattr(config.model.llm, same), spec
        assert small.optimizer.learning_rates == config.optimizer.learning_rates
        assert (small.lora is None) == (config.lora is None)
        assert len(small.data.mixture) == len(config.data.mixture)


def of_gem(name: str) -> Config:
    return load_recipe(next(spec for spec in RECIPES if spec.endswith(f"gem.py:{name}")))


def test_the_papers_stage_has_the_papers_values():
    config = of_gem("gem")
    optimizer, train = config.optimizer, config.train
    assert (config.data.batch_size, config.data.length, config.data.cut) == (256, 4096, "original")
    assert config.data.batch_size / train.accumulate == 16  # rows of one of its devices
    assert train.loss_weighting == "microbatch"
    assert train.steps == (1_156_110 + 30_000) // 256
    assert optimizer.warmup_steps == math.ceil(0.03 * train.steps)
    assert (optimizer.learning_rate, optimizer.final_fraction) == (2e-5, 0.0)
    assert (optimizer.b1, optimizer.b2, optimizer.eps) == (0.9, 0.999, 1e-8)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (0.0, 1.0)
    assert set(train.trainable) == {"ecg_projector", "mm_projector", "llm"}
    assert config.model.llm.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("stages", "start"),
    [
        (("gem",), LLAVA),
        (("gem_pulse",), LLAVA),
        (("align", "finetune"), LLAVA),
        (("align", "finetune_vision"), LLAVA),
        (("align", "lora"), LLAVA),
        (("align_pulse", "finetune"), LLAVA),
        (("lora_gem",), LLAVA),
        (("align_qwen2", "finetune_qwen2"), QWEN),
        (("align_qwen2", "lora_qwen2"), QWEN),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_each_stage_of_gem_makes_what_its_start_lacks(stages, start):
    held = set(start)
    for stage in map(of_gem, stages):
        assert {*param_shapes(stage)} - held == {*stage.train.init_parts}
        held = {*param_shapes(stage)}
    assert len({of_gem(stage).model for stage in stages}) == 1


def test_gem_has_the_official_number_of_parameters():
    def count(config: Config) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(abstract_params(config.model)["llm"]))

    assert count(of_gem("gem")) == 6_738_415_616  # Vicuna-7B's
    assert count(of_gem("finetune_qwen2")) == 7_615_616_512  # Qwen2-7B's


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
