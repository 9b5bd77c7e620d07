"""Encoders alone: imported and exported bit for bit, a start of training, refused elsewhere."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tiny
from gem_jax import checkpoint, cli, train
from gem_jax.checkpoint import CheckpointError
from gem_jax.config import ConfigError
from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.paths import flat
from gem_jax.start import initial_params
from gem_jax.weights import load, save
from gem_jax.weights.files import WeightsError, open_file, open_folder
from gem_jax.weights.read import read_gem
from gem_jax.weights.towers import plan_tower

GOLDENS = Path(__file__).parent / "goldens"
LLAMA = GOLDENS / "gem_llama_tiny"
ECG = LLAMA / "ecg_tower" / "cpt_wfep_epoch_20.pt"
ECG_CONFIG = LLAMA / "ecg_tower" / "coca_tiny.json"
VISION = LLAMA / "clip_vision"
WHOLE_CLIP = GOLDENS / "clip_full"


def same_tensors(ours: Path, theirs: dict[str, np.ndarray]) -> bool:
    found = open_folder(ours) if ours.is_dir() else open_file(ours)
    return found.entries.keys() == theirs.keys() and all(
        found.read(name).tobytes() == tensor.tobytes()
        and found.entries[name].dtype == tensor.dtype.name
        for name, tensor in theirs.items()
    )


def gem_jax(*args) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "gem_jax.cli", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def towers(tmp_path_factory) -> Path:
    """A folder with both encoders, imported."""
    folder = tmp_path_factory.mktemp("towers")
    load.main(VISION, folder / "vision")
    load.main(ECG, folder / "ecg")
    return folder


# Bit for bit.


@pytest.mark.parametrize("kind", ["vision", "ecg"])
def test_an_encoder_alone_has_the_whole_models_parameters(kind, towers):
    located = checkpoint.locate_any(towers / kind)
    config, params = read_gem(LLAMA)
    assert checkpoint.read_encoder_config(located) == getattr(config, kind)
    ours, part = checkpoint.load_tree(located), f"{kind}_tower"
    assert ours.keys() == {part}
    expected = flat(params[part])
    assert flat(ours[part]).keys() == expected.keys()
    for path, leaf in flat(ours[part]).items():
        assert np.asarray(leaf).tobytes() == expected[path].tobytes(), path
    assert not (towers / kind / "tokenizer").exists()


def test_an_image_encoder_comes_back_as_it_was(towers, tmp_path):
    save.main(towers / "vision", tmp_path / "clip")
    assert same_tensors(tmp_path / "clip", load_file(VISION / "model.safetensors"))
    theirs = json.loads((VISION / "config.json").read_text())
    ours = json.loads((tmp_path / "clip" / "config.json").read_text())
    # Of the text half that was once beside it.
    assert {key for key in theirs if ours.get(key) != theirs[key]} <= {"projection_dim"}
    name = "preprocessor_config.json"
    theirs, ours = VISION / name, tmp_path / "clip" / name
    assert json.loads(ours.read_text()) == json.loads(theirs.read_text())


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_of_a_whole_clip_the_vision_half_is_taken(kind, tmp_path):
    clip = Path(shutil.copytree(WHOLE_CLIP, tmp_path / "clip"))
    theirs = load_file(clip / "model.safetensors")
    (clip / {"safetensors": "pytorch_model.bin", "bin": "model.safetensors"}[kind]).unlink()
    load.main(clip, tmp_path / "ours")
    save.main(tmp_path / "ours", tmp_path / "exported")
    half = {name: value for name, value in theirs.items() if name.startswith("vision_model.")}
    assert len(half) < len(theirs)
    assert same_tensors(tmp_path / "exported", half)
    # The control: one value.
    half["vision_model.pre_layrnorm.bias"][0] += 1
    assert not same_tensors(tmp_path / "exported", half)


def test_an_ecg_encoder_comes_back_as_gem_reads_it(towers, tmp_path):
    done = gem_jax("export", towers / "ecg", tmp_path / "tower", "--layout", "official")
    assert done.returncode == 0, done.stderr
    assert "an encoder alone" in done.stderr
    files = sorted(path.name for path in (tmp_path / "tower").iterdir())
    assert files == ["ecg_encoder.json", "ecg_encoder.pt"]
    file = tmp_path / "tower" / "ecg_encoder.pt"
    pretrained = open_file(ECG)
    names = [name for name in pretrained.entries if name.startswith("module.ecg.")]
    assert same_tensors(file, {name: pretrained.read(name) for name in names})
    (config,) = ECG.parent.glob("*.json")
    written = json.loads((tmp_path / "tower" / "ecg_encoder.json").read_text())
    assert written == json.loads(config.read_text()), "with the text towers, which GEM builds too"
    # And is an ECG encoder's file again.
    load.main(file, tmp_path / "again")
    before = flat(checkpoint.load_tree(checkpoint.locate_any(towers / "ecg")))
    after = flat(checkpoint.load_tree(checkpoint.locate_any(tmp_path / "again")))
    assert all(np.array_equal(before[path], after[path]) for path in before)


def test_another_dtype_is_rounded_on_request(towers, tmp_path):
    load.main(ECG, tmp_path / "half", dtype="bfloat16")
    config = checkpoint.read_encoder_config(checkpoint.locate_any(tmp_path / "half"))
    assert isinstance(config, EcgConfig)
    assert (config.param_dtype, config.dtype) == ("bfloat16", "bfloat16")
    save.main(towers / "vision", tmp_path / "clip", dtype="float16")
    entries = open_folder(tmp_path / "clip").entries
    assert {entry.dtype for entry in entries.values()} == {"float16"}
    values = json.loads((tmp_path / "clip" / "config.json").read_text())
    assert values["torch_dtype"] == "float16"


# What it serves, and what it does not.


def test_a_start_of_training_takes_the_encoder_and_nothing_else(towers):
    _, params = read_gem(LLAMA)
    start = checkpoint.load_tree(checkpoint.locate_any(towers / "vision"))
    config = checkpoint.read_encoder_config(checkpoint.locate_any(towers / "vision"))
    assert isinstance(config, ClipConfig)
    model = dataclasses.replace(tiny.MODEL, vision=config)
    others = ("ecg_tower", "ecg_projector", "mm_projector", "llm")
    recipe = tiny.changed(tiny.instruct(), train={"init_parts": others})
    made = initial_params(dataclasses.replace(recipe, model=model), start)
    assert set(made) == {*others, "vision_tower"}
    kernel = np.asarray(made["vision_tower"]["patch_embedding"]["kernel"])
    assert kernel.tobytes() == params["vision_tower"]["patch_embedding"]["kernel"].tobytes()


def test_a_run_begins_with_the_encoder_and_needs_a_tokenizer_of_the_recipes(prepared, tmp_path):
    part = {"vision_tower": tiny.params()["vision_tower"]}
    checkpoint.write_encoder(tmp_path / "init", tiny.MODEL.vision, flat(part).items(), {})
    others = ("ecg_tower", "ecg_projector", "mm_projector", "llm")
    recipe = tiny.changed(
        tiny.instruct(), train={"init_parts": others, "steps": 1, "trainable": ("mm_projector",)}
    )
    bare = tiny.changed(tiny.on(prepared, recipe), data={"tokenizer": ""})
    with pytest.raises(ConfigError, match=r"got no tokenizer.* name its folder by data.tokenizer"):
        train.run(bare, tmp_path / "bare", tmp_path / "init")
    assert not (tmp_path / "bare").exists()
    run = train.run(tiny.on(prepared, recipe), tmp_path / "run", tmp_path / "init")
    trained = flat(checkpoint.load_tree(checkpoint.locate(run))["vision_tower"])
    for path, leaf in flat(part["vision_tower"]).items():
        np.testing.assert_array_equal(trained[path], leaf)


@pytest.mark.parametrize("kind", ["vision", "ecg"])
def test_every_other_verb_refuses_it_by_name(kind, towers, capsys):
    what = {"vision": "an image encoder alone", "ecg": "an ECG encoder alone"}[kind]
    ckpt = str(towers / kind)
    reference = str(LLAMA / "reference.npz")
    for args in (["verify", ckpt, reference], ["interpret", "--checkpoint", ckpt]):
        assert cli.main(args) == 2
        said = capsys.readouterr().err.strip()
        assert f"got {what}, expected a whole model" in said, said
        assert "\n" not in said
    with pytest.raises(CheckpointError, match="it serves `gem-jax train --init`"):
        checkpoint.locate(towers / kind)  # as evaluate does before anything is written


def test_a_models_options_are_refused(tmp_path):
    done = gem_jax("import", ECG, tmp_path / "ours", "--template", "vicuna_v1")
    assert (done.returncode, done.stdout) == (2, "")
    assert "got an encoder alone, expected no option but --dtype" in done.stderr
    assert not (tmp_path / "ours").exists()


# What is spoilt.


def test_the_sizes_beside_the_file_are_found_among_other_json(tmp_path):
    shutil.copyfile(ECG, tmp_path / "encoder.pt")
    shutil.copyfile(ECG_CONFIG, tmp_path / "coca_tiny.json")
    (tmp_path / "grad_norms.json").write_text("[1, 2]")
    (tmp_path / "meta.json").write_text('{"torch": "2"}')
    assert plan_tower(tmp_path / "encoder.pt").config == read_gem(LLAMA)[0].ecg
    shutil.copyfile(ECG_CONFIG, tmp_path / "other.json")
    with pytest.raises(WeightsError, match=r"got coca_tiny.json, other.json, expected one .json"):
        plan_tower(tmp_path / "encoder.pt")
    # None at all: the official sizes, which this file has not.
    for name in ("coca_tiny.json", "other.json"):
        (tmp_path / name).unlink()
    with pytest.raises(WeightsError, match=r"module.ecg.conv1.weight: got shape"):
        plan_tower(tmp_path / "encoder.pt")


def test_missing_and_unknown_tensors_are_told_at_once(tmp_path):
    pretrained = open_file(ECG)
    tensors = {name: pretrained.read(name) for name in pretrained.entries}
    tensors["module.ecg.extra"] = tensors.pop("module.ecg.proj")
    save_file(tensors, tmp_path / "encoder.safetensors")
    shutil.copyfile(ECG_CONFIG, tmp_path / "coca_tiny.json")
    assert cli.main(["import", str(tmp_path / "encoder.safetensors"), str(tmp_path / "o")]) == 2
    with pytest.raises(WeightsError) as refused:
        load.main(tmp_path / "encoder.safetensors", tmp_path / "ours")
    assert "1 tensor is missing: module.ecg.proj" in str(refused.value)
    assert "1 unknown tensor: module.ecg.extra" in str(refused.value)
    assert not (tmp_path / "ours").exists()
