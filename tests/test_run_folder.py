"""What may change when a run goes on, and what of its folder is damaged or another run's."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

import tiny
from gem_jax import checkpoint, cli
from gem_jax.config import Config, ConfigError, MeshConfig, SourceConfig, to_dict
from gem_jax.data import train_mixture
from gem_jax.recipes import load_recipe
from gem_jax.run_folder import refuse_another_config, refuse_other_data, write_data
from gem_jax.tokenizer import load_tokenizer, save_tokenizer

GEM = Path(__file__).parents[1] / "experiments" / "gem.py"
SOURCE = SourceConfig("old/a.json", ecgs="old/ecgs", images="old/images", task="a")


def begun(config: Config, run_dir: Path) -> Path:
    checkpoint.write_config(run_dir, to_dict(config) | {"source": {"name": "LLaVA"}})
    return run_dir


def llm(config: Config, **fields) -> Config:
    inner = dataclasses.replace(config.model.llm, **fields)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, llm=inner))


def test_each_field_that_differs_is_named_with_both_values(tmp_path):
    config = tiny.instruct()
    run_dir = begun(config, tmp_path)
    other = tiny.changed(config, train={"seed": 6}, optimizer={"learning_rate": 1e-3})
    told = (
        "is another run's config: optimizer.learning_rate: got 0.001, expected 0.003; "
        "train.seed: got 6, expected 5; name a new --run-dir"
    )
    with pytest.raises(ConfigError, match=re.escape(told)):
        refuse_another_config(other, run_dir)
    blind = dataclasses.replace(
        config, model=dataclasses.replace(config.model, ecg=None, ecg_projector="identity")
    )
    with pytest.raises(ConfigError, match=r"model\.ecg\.width: got none, expected 16"):
        refuse_another_config(blind, run_dir)
    refuse_another_config(config, run_dir)


def test_how_the_same_is_computed_may_change(tmp_path):
    config = tiny.instruct()
    run_dir = begun(config, tmp_path)
    refuse_another_config(llm(config, remat="full", attention="whole"), run_dir)
    refuse_another_config(tiny.changed(config, train={"loss_chunk": 7, "accumulate": 4}), run_dir)
    with pytest.raises(ConfigError, match=r"model\.llm\.dtype: got 'bfloat16', expected 'float32'"):
        refuse_another_config(llm(config, dtype="bfloat16"), run_dir)
    original = tiny.changed(config, train={"loss_weighting": "microbatch", "accumulate": 2})
    run_dir = begun(original, tmp_path / "original")
    with pytest.raises(ConfigError, match=r"train\.accumulate: got 4, expected 2"):
        refuse_another_config(tiny.changed(original, train={"accumulate": 4}), run_dir)


@pytest.mark.parametrize("name", ["align", "finetune", "finetune_vision", "lora", "lora_qwen2"])
def test_a_recipe_goes_on_with_more_devices(name, tmp_path):
    """32 take 8 × 32 rows: 16 × 32 are more than a batch."""
    config = load_recipe(f"{GEM}:{name}")
    wide = tiny.changed(config, train={"accumulate": 8})
    refuse_another_config(
        dataclasses.replace(wide, mesh=MeshConfig(data=1, fsdp=32)), begun(config, tmp_path)
    )


def test_data_may_lie_elsewhere_but_not_be_read_otherwise(tmp_path):
    config = tiny.changed(tiny.instruct(), data={"mixture": (SOURCE,), "held_out": (SOURCE,)})
    run_dir = begun(config, tmp_path)
    moved = dataclasses.replace(SOURCE, path="new/a.json", ecgs="new/ecgs", images="new/images")
    refuse_another_config(
        tiny.changed(config, data={"mixture": (moved,), "held_out": (moved,)}), run_dir
    )
    for changed, told in (
        ({"images": ""}, r"data\.mixture\.0\.images: got '', expected 'a place'"),
        ({"weight": 2.0}, r"data\.mixture\.0\.weight: got 2\.0, expected None"),
    ):
        other = dataclasses.replace(SOURCE, **changed)
        with pytest.raises(ConfigError, match=told):
            refuse_another_config(tiny.changed(config, data={"mixture": (other,)}), run_dir)
    with pytest.raises(ConfigError, match=r"data\.mixture\.1\.path: got 'a place', expected none"):
        refuse_another_config(tiny.changed(config, data={"mixture": (SOURCE, moved)}), run_dir)


def test_shards_are_known_by_their_content_wherever_they_lie(prepared, tmp_path):
    config, moved = tiny.on(prepared, tiny.instruct()), tmp_path / "moved"
    write_data(tmp_path, train_mixture(config))
    shutil.copytree(prepared / "shards", moved)
    elsewhere = tiny.changed(config, data={"shards": str(moved)})
    refuse_other_data(tmp_path, train_mixture(elsewhere))
    earlier = [told.split(":")[0] for told in train_mixture(config).fingerprints()]
    (file,) = moved.glob("train*")
    content = bytearray(file.read_bytes())
    content[len(content) - 5] ^= 1
    opened = train_mixture(elsewhere)
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"{moved} changed since the run began"):
        refuse_other_data(tmp_path, opened)
    (tmp_path / "data.json").write_text(json.dumps(earlier))
    refuse_other_data(tmp_path, opened)  # it knew names and sizes


def test_an_older_versions_config_is_the_same_recipe(tmp_path):
    config = tiny.instruct()
    values = to_dict(config)
    del values["train"]["frozen_dtype"], values["data"]["held_out_rows"]
    checkpoint.write_config(tmp_path, values)
    refuse_another_config(config, tmp_path)
    with pytest.raises(ConfigError, match=r"train\.frozen_dtype: got 'bfloat16', expected None"):
        refuse_another_config(tiny.changed(config, train={"frozen_dtype": "bfloat16"}), tmp_path)


@pytest.mark.parametrize("content", ['{"train": {"st', "[1]", "\x00\x00"])
@pytest.mark.parametrize("name", ["config.json", "data.json"])
def test_a_damaged_file_is_told_in_one_line(name, content, prepared, tmp_path, capsys):
    config = tiny.on(prepared, tiny.instruct())
    run_dir = begun(config, tmp_path)
    (run_dir / name).write_text(content if name == "config.json" else content.replace("[1]", "{}"))
    recipe = f"{Path(tiny.__file__)}:instruct"
    flags = ["--data.shards", config.data.shards, "--data.tokenizer", config.data.tokenizer]
    assert cli.main(["train", recipe, "--run-dir", str(run_dir), *flags]) == 2
    told = capsys.readouterr().err
    assert f"{run_dir / name}: got " in told
    assert "put a copy back" in told
    assert told.count("\n") == 1


def test_the_tokenizer_may_lie_elsewhere_but_not_be_another(prepared, tmp_path):
    config = tiny.on(prepared, tiny.instruct())
    run_dir, moved = begun(config, tmp_path / "run"), tmp_path / "moved"
    save_tokenizer(load_tokenizer(prepared / "tokenizer"), run_dir / "tokenizer", 99)
    shutil.copytree(prepared / "tokenizer", moved)
    elsewhere = tiny.changed(config, data={"tokenizer": str(moved)})
    (run_dir / "checkpoints" / "4").mkdir(parents=True)
    refuse_another_config(elsewhere, run_dir)
    refuse_another_config(tiny.changed(config, data={"tokenizer": ""}), run_dir)
    pieces = json.loads((moved / "tokenizer.json").read_text())
    pieces["model"]["merges"].pop()
    (moved / "tokenizer.json").write_text(json.dumps(pieces))
    with pytest.raises(ConfigError, match=r"data\.tokenizer: got .*moved, expected the files of"):
        refuse_another_config(elsewhere, run_dir)
    shutil.rmtree(run_dir / "checkpoints")
    refuse_another_config(elsewhere, run_dir)  # it begins anew, and writes its tokenizer
