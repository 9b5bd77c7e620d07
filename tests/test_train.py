"""Training: what moves, what rests, and a run that was stopped ends as if it had not been."""

from __future__ import annotations

import dataclasses
import re

import jax
import pytest

import tiny
from gem_jax import checkpoint, run_folder, sharding, train
from gem_jax.config import ConfigError, read_json, to_dict
from gem_jax.optimizer import optimizer
from gem_jax.templates import TokenError
from gem_jax.tokenizer import load_tokenizer
from gem_jax.tokens import require_template


def config_of(**sections):
    return tiny.changed(tiny.instruct(), **sections)


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
    kept = run.tokenizer / "tokenizer.json"
    kept.write_text("its own")
    run_folder.write_run(config, run.root, tokenizer, run)
    assert read_json(run.root / "config.json")["source"] == source, "it goes on, and keeps them"
    assert kept.read_text() == "its own", "its tokenizer is never half of one"
    run_folder.write_run(config, run.root, tokenizer, start)
    assert kept.read_text() != "its own", "the control: a run that begins anew"
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
