"""The verbs import and export: one parameter at a time, all or nothing, dtypes on request."""

from __future__ import annotations

import dataclasses
import json
import shutil
import weakref
from collections import Counter
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from gem_jax import checkpoint, cli, orbax_leaves
from gem_jax.checkpoint import CheckpointError, locate, read_model_config
from gem_jax.config import to_dict
from gem_jax.models.gem import abstract_params
from gem_jax.weights import filling, load, save
from gem_jax.weights.dtypes import converted, retyped
from gem_jax.weights.files import INDEX, SINGLE, WeightsError, open_folder
from gem_jax.weights.read import read_gem
from gem_jax.weights.stream import start_folder
from gem_jax.weights.write import write_gem

GOLDENS = Path(__file__).parent / "goldens"
LLAMA = GOLDENS / "gem_llama_tiny"


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> Path:
    dest = tmp_path_factory.mktemp("imported") / "checkpoint"
    load.main(LLAMA, dest)
    return dest


def same_tensors(left: Path, right: Path) -> bool:
    ours, theirs = open_folder(left), open_folder(right)
    return ours.entries.keys() == theirs.entries.keys() and all(
        entry.dtype == theirs.entries[name].dtype
        and ours.read(name).tobytes() == theirs.read(name).tobytes()
        for name, entry in ours.entries.items()
    )


# One at a time.


class Watched:
    """Counts the parameters that are still in memory whenever the next one is made."""

    def __init__(self, module, name, monkeypatch):
        self.before: list[int] = []
        self.made: list[weakref.ref] = []
        make = getattr(module, name)

        def watch(*args):
            self.before.append(sum(ref() is not None for ref in self.made))
            made = make(*args)
            (array,) = made.values() if isinstance(made, dict) else [made]
            self.made.append(weakref.ref(array))
            return made

        monkeypatch.setattr(module, name, watch)


def test_import_holds_one_parameter_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(orbax_leaves, "BATCH_BYTES", 1)
    watched = Watched(filling, "_leaf", monkeypatch)
    load.main(LLAMA, tmp_path / "checkpoint")
    assert len(watched.before) > 50
    assert max(watched.before) == 0
    # The control: a whole tree is held.
    watched = Watched(filling, "_leaf", monkeypatch)
    _, params = read_gem(LLAMA)
    assert max(watched.before) == len(watched.made) - 1 and params


def test_export_holds_one_parameter_at_a_time(imported, tmp_path, monkeypatch):
    monkeypatch.setattr(orbax_leaves, "BATCH_BYTES", 1)
    watched = Watched(orbax_leaves, "load", monkeypatch)
    save.main(imported, tmp_path / "exported")
    assert len(watched.before) > 50
    assert max(watched.before) == 0
    assert same_tensors(tmp_path / "exported", LLAMA)
    # The control.
    located = locate(imported)
    watched = Watched(orbax_leaves, "load", monkeypatch)
    kept = list(checkpoint.leaves(located, checkpoint.saved_shapes(located)))
    assert max(watched.before) == len(kept) - 1


def test_a_step_of_a_run_is_exported_as_a_model_alone(imported, tmp_path):
    config, params = checkpoint.load_params(imported)
    run = tmp_path / "run"
    checkpoint.write_config(run, {"model": to_dict(config)})
    shutil.copytree(locate(imported).tokenizer, run / "tokenizer")
    more = {"params": params | {"head": {"kernel": np.ones(3)}}, "optimizer": {"step": 4}}
    with checkpoint.checkpointer(run, keep=1) as writer:
        writer.save_checkpointables(4, more)
    save.main(run / "checkpoints" / "4", tmp_path / "exported")
    assert same_tensors(tmp_path / "exported", LLAMA)


# All or nothing.


def test_what_breaks_on_the_way_leaves_nothing_behind(imported, tmp_path, monkeypatch):
    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(orbax_leaves, "BATCH_BYTES", 50_000)
    (tmp_path / "verbs").mkdir()
    for module, name, main, source, error in (
        (filling, "_leaf", load.main, LLAMA, OSError),
        (orbax_leaves, "load", save.main, imported, CheckpointError),
    ):
        make, count = getattr(module, name), iter(range(100))
        monkeypatch.setattr(
            module, name, lambda *a, m=make, c=count: m(*a) if next(c) < 5 else broken()
        )
        with pytest.raises(error, match=r"disk full|cannot be read"):
            main(source, tmp_path / "verbs" / "dest")
        assert next(count) == 6
        assert not list((tmp_path / "verbs").iterdir())
        monkeypatch.setattr(module, name, make)
        main(source, tmp_path / "verbs" / "dest")
        shutil.rmtree(tmp_path / "verbs" / "dest")


def test_progress_is_told_on_stderr(imported, tmp_path, capsys):
    save.main(imported, tmp_path / "exported")
    *_, shown, said = capsys.readouterr().err.splitlines()
    assert shown.startswith("export 0.0/0.0 GB ") and " in 0:0" in shown
    assert said.startswith(f"{tmp_path / 'exported'}: exported 566,656 parameters (")


# The original's shards.


def test_export_fills_the_originals_shards(imported, tmp_path):
    config, params = checkpoint.load_params(imported)
    write_gem(tmp_path / "out", config, params, locate(imported).tokenizer, shard_bytes=490_000)
    files = sorted(path.name for path in LLAMA.glob("model*"))
    assert len(files) == 6 and INDEX in files
    assert sorted(path.name for path in (tmp_path / "out").glob("model*")) == files
    for file in files:
        assert (tmp_path / "out" / file).read_bytes() == (LLAMA / file).read_bytes(), file


# Dtypes.


def in_dtype(folder: Path, dtype: str) -> Path:
    """Rewrites the golden's tensors in `dtype`, rounded, as one file."""
    shutil.copytree(LLAMA, folder, ignore=shutil.ignore_patterns("model*"))
    for part in (".", "clip_vision"):
        shards = open_folder(LLAMA / part)
        plan = {name: (entry.shape, dtype) for name, entry in shards.entries.items()}
        (folder / part / SINGLE).unlink(missing_ok=True)
        writer = start_folder(folder / part, plan)
        for name in plan:
            writer.write(name, shards.read(name).astype(dtype))
        writer.finish()
    return folder


@pytest.fixture(scope="module")
def halved(tmp_path_factory) -> Path:
    return in_dtype(tmp_path_factory.mktemp("halved") / "official", "bfloat16")


@pytest.mark.parametrize("wide_at", ["import", "export"])
def test_bfloat16_is_the_same_after_a_way_through_float32(wide_at, halved, tmp_path):
    first, wide, second, back = (tmp_path / name for name in ("1", "wide", "2", "back"))
    load.main(halved, first, dtype="float32" if wide_at == "import" else "keep")
    config = read_model_config(locate(first))
    expected = "float32" if wide_at == "import" else "bfloat16"
    for part in (config.ecg, config.vision, config.llm):
        assert (part.param_dtype, part.dtype) == (expected, expected)
    save.main(first, wide, dtype="float32")
    assert {entry.dtype for entry in open_folder(wide).entries.values()} == {"float32"}
    assert json.loads((wide / "config.json").read_text())["torch_dtype"] == "float32"
    load.main(wide, second)
    save.main(second, back, dtype="bfloat16")
    assert json.loads((back / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert same_tensors(back, halved)
    # The controls: float32 holds other bits, and the golden's did not fit into bfloat16.
    assert not same_tensors(wide, halved)
    assert not same_tensors(wide, LLAMA)


def test_float16_is_asked_for_and_computed_in_float32(tmp_path):
    load.main(LLAMA, tmp_path / "checkpoint", dtype="float16")
    config, params = checkpoint.load_params(tmp_path / "checkpoint")
    assert config == retyped(read_gem(LLAMA)[0], "float16")
    assert (config.llm.param_dtype, config.llm.dtype) == ("float16", "float32")
    shapes = abstract_params(config)
    assert params["llm"]["norm"]["scale"].dtype == shapes["llm"]["norm"]["scale"].dtype
    save.main(tmp_path / "checkpoint", tmp_path / "exported")
    official = open_folder(LLAMA)
    for name, entry in open_folder(tmp_path / "exported").entries.items():
        expected = official.read(name).astype(np.float16)
        assert entry.read().tobytes() == expected.tobytes(), name


def test_what_float16_cannot_hold_is_refused_by_name(halved, tmp_path, capsys):
    spoilt = Path(shutil.copytree(halved, tmp_path / "spoilt"))
    shards = open_folder(spoilt)
    name = "model.layers.1.mlp.up_proj.weight"
    tensor = shards.read(name)
    tensor[2, 3] = 1e5
    with shards.entries[name].file.open("r+b") as file:
        file.seek(shards.entries[name].start_byte)
        file.write(tensor.tobytes())
    load.main(spoilt, tmp_path / "checkpoint")
    capsys.readouterr()
    for verb, source in (("import", spoilt), ("export", tmp_path / "checkpoint")):
        command = [verb, str(source), str(tmp_path / "dest"), "--dtype", "float16"]
        assert cli.main(command) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert f"{name}: got 99840, expected at most 65504 in float16" in said
        assert "dest" not in {path.name.removesuffix(".partial") for path in tmp_path.iterdir()}
        # The control: without that value it fits.
        command[1] = str(halved)
        assert verb == "export" or cli.main(command) == 0
        shutil.rmtree(tmp_path / "dest", ignore_errors=True)


def test_values_are_rounded_to_nearest_and_infinities_stay():
    values = np.array([1.0009765, -np.inf, 65504, 1e-9, np.nan], np.float32)
    half = converted("a", values, np.dtype(np.float16))
    np.testing.assert_array_equal(half, np.array([1.001, -np.inf, 65504, 0, np.nan], np.float16))
    assert converted("a", values, values.dtype) is values
    with pytest.raises(WeightsError, match=r"a: got 65520, expected at most 65504 in float16"):
        converted("a", np.array([-65520], np.float32), np.dtype(np.float16))
    with pytest.raises(WeightsError, match=r"in bfloat16"):
        converted("a", np.array([3.4e38], np.float32), np.dtype(ml_dtypes.bfloat16))


# The template, and the original's words.


def test_a_template_is_chosen_at_import(imported, tmp_path, capsys):
    load.main(LLAMA, tmp_path / "checkpoint", template="llava_llama_2")
    config = read_model_config(locate(tmp_path / "checkpoint"))
    default = read_model_config(locate(imported))
    assert default.template != "llava_llama_2"
    assert config == dataclasses.replace(default, template="llava_llama_2")
    command = ["import", str(LLAMA), str(tmp_path / "other"), "--template", "vicuna"]
    capsys.readouterr()
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert "--template: got 'vicuna', expected one of bare, llava_llama_2" in said
    assert said.count("\n") == 1 and not (tmp_path / "other").exists()
    # One whose special tokens the tokenizer lacks.
    command[-1] = "mpt"
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert "template 'mpt' needs the special tokens <|im_start|>, <|im_end|>" in said
    assert said.count("\n") == 1 and not (tmp_path / "other").exists()


def test_a_checkpoint_keeps_the_originals_configs_for_its_export(tmp_path):
    folder = Path(shutil.copytree(LLAMA, tmp_path / "my-gem"))
    config = json.loads((folder / "config.json").read_text()) | {"mm_projector_lr": 2e-5}
    generation = json.loads((folder / "generation_config.json").read_text()) | {"top_p": 0.7}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    load.main(folder, tmp_path / "checkpoint")
    kept = json.loads((tmp_path / "checkpoint" / "config.json").read_text())["source"]
    index = json.loads((LLAMA / "model.safetensors.index.json").read_text())
    shards = Counter(index["weight_map"].values())
    assert kept == {
        "layout": "official",
        "name": "my-gem",
        "config": config,
        "generation_config": generation,
        "encoders": {
            "vision": json.loads((LLAMA / "clip_vision" / "config.json").read_text()),
            "ecg": json.loads((LLAMA / "ecg_tower" / "coca_tiny.json").read_text()),
        },
        "shards": [shards[file] for file in sorted(shards)],
    }
    save.main(tmp_path / "checkpoint", tmp_path / "exported")
    out = {
        name: json.loads((tmp_path / "exported" / name).read_text())
        for name in ("config.json", "generation_config.json")
    }
    assert out["generation_config.json"] == generation
    assert out["config.json"] == config
