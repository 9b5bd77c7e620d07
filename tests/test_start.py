"""What a run starts from: a checkpoint's parts, and at random those that the recipe names."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from gem_jax import checkpoint, cli, sharding, train
from gem_jax.config import Config, ConfigError, LoraConfig, MeshConfig
from gem_jax.models.gem import abstract_params
from gem_jax.optimizer import split
from gem_jax.paths import flat
from gem_jax.start import initial_params, param_shapes, placed_params


def config_of(**sections):
    return tiny.changed(tiny.instruct(), **sections)


def test_a_start_gives_its_parts_and_the_recipe_names_the_rest():
    config = config_of(train={"init_parts": ("ecg_projector",)})
    start = {**tiny.params()}
    extra = {**start, "dense_head": {}}
    missing = {part: tree for part, tree in extra.items() if part != "ecg_projector"}
    made = initial_params(config, missing)
    assert set(made) == set(start)
    assert made["llm"]["norm"]["scale"] is start["llm"]["norm"]["scale"]
    kernel = made["ecg_projector"]["linear"]["kernel"]
    assert kernel.shape == start["ecg_projector"]["linear"]["kernel"].shape
    again = initial_params(config, missing)["ecg_projector"]["linear"]["kernel"]
    np.testing.assert_array_equal(again, kernel)


def test_parts_that_are_named_wrongly_are_refused():
    start = tiny.params()
    with pytest.raises(ConfigError, match=r"got \['llm'\].*\[\]; say --train.init-parts with no"):
        initial_params(config_of(train={"init_parts": ("llm",)}), start)
    without = {part: tree for part, tree in start.items() if part != "llm"}
    with pytest.raises(ConfigError, match=r"got \[\].*\['llm'\]; say --train.init-parts llm"):
        initial_params(config_of(train={"init_parts": ()}), without)
    with pytest.raises(ConfigError, match=r"train.trainable: got \['dense_head'\]"):
        split(start, ("llm", "dense_head"))


def test_a_part_of_another_shape_is_refused_by_its_path():
    start = dict(tiny.params())
    start["mm_projector"] = {"0": start["mm_projector"]["0"], "4": start["mm_projector"]["2"]}
    narrow = {"kernel": np.zeros((16, 8), np.float32), "bias": np.zeros(8, np.float32)}
    start["ecg_projector"] = {"linear": narrow}
    with pytest.raises(ConfigError) as refused:
        initial_params(config_of(train={"init_parts": ()}), start)
    for said in (
        "ecg_projector/linear/kernel has (16, 8) instead of (16, 16)",
        "mm_projector/2/bias is missing",
        "mm_projector/4/kernel is unknown",
    ):
        assert said in str(refused.value)
    assert "llm" not in str(refused.value)


def test_the_shapes_are_those_of_the_objective():
    assert flat(param_shapes(tiny.instruct())) == flat(abstract_params(tiny.MODEL))
    assert set(param_shapes(tiny.pretrain())) == {"ecg_tower", "llm", "dense_head"}


def untied(rows: int = 400, **train) -> Config:
    """A recipe whose model has two tables of the vocabulary."""
    llm = dataclasses.replace(tiny.MODEL.llm, vocab_size=rows, tie_embeddings=False)
    config = config_of(train={"init_parts": (), **train})
    return dataclasses.replace(config, model=dataclasses.replace(config.model, llm=llm))


@pytest.mark.parametrize("added", [1, 5])
def test_a_vocabulary_grows_by_the_mean_of_its_rows(added, prepared, tmp_path):
    """W-05: rows that are added are initialised on purpose, on the mesh and in its dtype."""
    start = tiny.drawn(param_shapes(untied()))
    old = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), start)
    source = (tmp_path / "start", untied().model, old, prepared / "tokenizer", {})
    checkpoint.save_model(*source)
    config = untied(400 + added, grow_vocab=True)
    mesh = sharding.make_mesh(MeshConfig(1, 2, 4))
    located = checkpoint.locate(tmp_path / "start")
    grown = flat(placed_params(config, located, mesh))
    for path, axis in (("llm/embed_tokens/embedding", 0), ("llm/lm_head/kernel", 1)):
        table = np.moveaxis(np.asarray(grown[path]), axis, 0)
        before = np.moveaxis(np.asarray(flat(old)[path]).astype(np.float32), axis, 0)
        assert table.shape == (400 + added, 32)
        assert table[:400].tobytes() == before.tobytes()
        np.testing.assert_allclose(table[400:], np.tile(before.mean(0), (added, 1)), atol=1e-6)
    where = flat(sharding.param_shardings(mesh, param_shapes(config)))
    for path, leaf in grown.items():
        assert (leaf.dtype, leaf.sharding) == (np.float32, where[path]), path
    with pytest.raises(ConfigError, match=r"embedding has .*\(train.grow_vocab adds rows\)"):
        placed_params(untied(400 + added), located, mesh)


def test_a_vocabulary_never_shrinks():
    start = tiny.drawn(param_shapes(untied()))
    with pytest.raises(ConfigError, match=r"embedding has \(400, 32\) instead of \(399, 32\);"):
        initial_params(untied(399, grow_vocab=True), start)


def test_a_grown_model_is_trained_and_exported_with_its_rows(prepared, tmp_path):
    """W-05: config.vocab_size is the number of rows."""
    start = tiny.drawn(param_shapes(untied()))
    checkpoint.save_model(tmp_path / "start", untied().model, start, prepared / "tokenizer", {})
    config = tiny.on(prepared, untied(405, grow_vocab=True, steps=1))
    train.run(config, tmp_path / "run", tmp_path / "start")
    assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 405


def test_a_start_is_read_onto_any_mesh_and_the_rest_is_made_alike(prepared, tmp_path):
    """C-01, W-12: values do not depend on where they lie, those at random neither."""
    checkpoint.save_model(tmp_path / "a", tiny.MODEL, tiny.params(), prepared / "tokenizer", {})
    located, config = checkpoint.locate(tmp_path / "a"), config_of(train={"init_parts": ()})
    random = config_of()
    alone = tiny.changed(config, train={"trainable": ("mm_projector",)})
    lora = dataclasses.replace(alone, lora=LoraConfig(2, 4.0))
    for recipe, start in ((config, located), (random, None), (lora, located)):
        one, other = (
            flat(placed_params(recipe, start, sharding.make_mesh(MeshConfig(*sizes))))
            for sizes in ((8, 1, 1), (1, 4, 2))
        )
        assert not other["llm/layers/mlp/up_proj/kernel"].sharding.is_fully_replicated
        for path in one:
            np.testing.assert_array_equal(one[path], other[path], err_msg=path)
    expected = flat(tiny.params())
    for path in expected:
        np.testing.assert_array_equal(other[path], expected[path], err_msg=path)
    assert {path for path in other if path.endswith("_lora_a")}
    assert not any(np.any(leaf) for path, leaf in other.items() if path.endswith("_lora_b"))
