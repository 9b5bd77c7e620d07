"""What a run starts from: a checkpoint's parts, and at random those that the recipe names."""

from __future__ import annotations

import numpy as np
import pytest

import tiny
from gem_jax.config import ConfigError
from gem_jax.models.gem import abstract_params
from gem_jax.optimizer import flat, split
from gem_jax.start import initial_params, param_shapes


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
    with pytest.raises(ConfigError, match=r"init_parts: got \['llm'\].*lacks: \[\]"):
        initial_params(config_of(train={"init_parts": ("llm",)}), start)
    without = {part: tree for part, tree in start.items() if part != "llm"}
    with pytest.raises(ConfigError, match=r"init_parts: got \[\].*lacks: \['llm'\]; give --init"):
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
