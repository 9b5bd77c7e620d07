"""The dry run: every field by its flag's name, and exactly what flags have changed marked."""

from __future__ import annotations

import dataclasses

import tiny
from gem_jax import dry_run


def test_what_is_as_the_recipe_says_is_not_marked():
    told = dry_run.told(tiny.instruct(), tiny.instruct()).splitlines()
    assert told[-1] == "as the recipe says"
    assert not [line for line in told if line.startswith("*")]
    assert "  train.steps = 12" in told
    assert "  model.llm.hidden_dim = 32" in told


def test_a_changed_field_is_marked_with_the_recipes_value():
    recipe = tiny.instruct()
    config = tiny.changed(recipe, train={"steps": 3}, optimizer={"eps": 1e-3})
    marked = [line for line in dry_run.told(recipe, config).splitlines() if line.startswith("*")]
    assert marked == [
        "* optimizer.eps = 0.001  (recipe: 1e-08)",
        "* train.steps = 3  (recipe: 12)",
    ]


def test_a_part_that_is_gone_or_new_is_told():
    recipe = tiny.instruct()
    model = dataclasses.replace(recipe.model, ecg=None, ecg_projector="identity")
    config = dataclasses.replace(recipe, model=model)
    there, back = dry_run.told(recipe, config), dry_run.told(config, recipe)
    assert "* model.ecg.width is gone  (recipe: 16)" in there
    assert "* model.ecg = None" in there
    assert "* model.ecg.width = 16" in back


def test_a_number_of_another_kind_is_a_change():
    recipe = tiny.instruct()
    config = tiny.changed(recipe, train={"steps": True})
    assert "* train.steps = True  (recipe: 12)" in dry_run.told(recipe, config)
