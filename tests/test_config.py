"""Configs: checked when they are built, and the same after a journey through JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest

import tiny
from gem_jax import config
from gem_jax.config import Config, ConfigError, from_dict, model_from_dict, read_json, to_dict


def test_json_gives_the_same_config():
    for recipe in (tiny.instruct(), tiny.pretrain()):
        again = from_dict(Config, json.loads(json.dumps(to_dict(recipe))), "config")
        assert again == recipe
        assert hash(again) == hash(recipe), "a static argument of jit is hashed"
        assert isinstance(again.train.trainable, tuple)
    assert from_dict(Config, to_dict(tiny.instruct()), "config") != tiny.pretrain()


def test_a_field_that_is_wrong_is_named():
    values = to_dict(tiny.instruct())
    values["model"]["ecg"]["heads"] = 3
    del values["model"]["ecg"]["width"]
    with pytest.raises(ConfigError) as refused:
        from_dict(Config, values, "config")
    assert "config.model.ecg: got unknown fields ['heads']" in str(refused.value)
    assert "missing fields ['width']" in str(refused.value)
    with pytest.raises(ConfigError, match=r"config.model: got int, expected an object"):
        from_dict(Config, {**to_dict(tiny.instruct()), "model": 3}, "config")
    with pytest.raises(ConfigError, match=r"model.ecg: ecg.seq_length: got 1000, expected a mult"):
        model = to_dict(tiny.MODEL)
        model_from_dict({**model, "ecg": {**model["ecg"], "patch_size": 99}})
    with pytest.raises(ConfigError, match=r"^model: "):
        model_from_dict({**to_dict(tiny.MODEL), "max_length": "long"})


def test_a_field_with_a_default_may_be_absent():
    values = to_dict(tiny.instruct())
    del values["train"]["keep"], values["mesh"]["fsdp"]
    assert from_dict(Config, values, "config") == tiny.instruct()


@pytest.mark.parametrize(
    ("section", "fields", "said"),
    [
        ("data", {"length": 0}, "data.length: got 0"),
        ("data", {"batch_size": 0}, "data.batch_size: got 0"),
        ("data", {"length": 177}, "at most model.max_length (176)"),
        ("data", {"length": tiny.MEDIA}, f"more than the {tiny.MEDIA} tokens of an ECG"),
        ("optimizer", {"learning_rate": 0.0}, "optimizer.learning_rate: got 0.0"),
        ("optimizer", {"clip_norm": -1.0}, "optimizer.clip_norm: got -1.0"),
        ("optimizer", {"warmup_steps": -1}, "optimizer.warmup_steps: got -1"),
        ("mesh", {"data": -1, "fsdp": -1}, "mesh: got (-1, -1, 1)"),
        ("mesh", {"tensor": 0}, "mesh: got (-1, 1, 0)"),
        ("train", {"steps": 0}, "train.steps: got 0"),
        ("train", {"trainable": ()}, "train.trainable: got ()"),
        ("train", {"checkpoint_every": 0}, "train.checkpoint_every: got 0"),
        ("train", {"keep": 0}, "train.keep: got 0"),
    ],
)
def test_values_out_of_range_are_refused(section, fields, said):
    with pytest.raises(ConfigError) as refused:
        tiny.changed(tiny.instruct(), **{section: fields})
    assert said in str(refused.value)
    assert "expected" in str(refused.value)


def test_texts_alone_need_no_room_for_an_ecg():
    short = tiny.changed(tiny.pretrain(), data={"length": 10})
    assert short.data.length < tiny.MEDIA


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny.instruct().train.steps = 3  # type: ignore[misc]
    kinds = [kind for kind in vars(config).values() if dataclasses.is_dataclass(kind)]
    assert len(kinds) >= 5
    assert all(kind.__dataclass_params__.frozen for kind in kinds)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100000])
def test_what_is_no_json_object_is_refused(content, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config.json: got .*expected a JSON object"):
        read_json(path)
    with pytest.raises(ConfigError, match="expected a JSON object"):
        read_json(tmp_path / "absent.json")
