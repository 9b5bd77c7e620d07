"""An exported config.json is the imported one, but for what the model no longer is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.models.gem import GemConfig
from gem_jax.weights import load, save
from gem_jax.weights.files import open_file, open_folder
from gem_jax.weights.hf_config import read_model, read_official
from gem_jax.weights.hf_export import config_json, generation_json
from gem_jax.weights.names import NEWLINE, gem_slots
from gem_jax.weights.tower_export import write_vision
from published import LANGUAGE_MODELS, LLAVA_MODELS

GOLDENS = Path(__file__).parent / "goldens"
GEMS = ("gem_llama_tiny", "gem_qwen_tiny", "gem_anyres_tiny")
# They point to the towers that an export writes beside config.json.
POINTERS = {"mm_ecg_tower", "mm_vision_tower"}


def source_of(values: dict, generation: dict | None = None, layout: str = "official") -> dict:
    kept = {} if generation is None else {"generation_config": generation}
    return {"layout": layout, "name": "somewhere", "config": values, **kept}


def imported(folder: Path) -> GemConfig:
    """Returns the config as import makes it: the dtype is that of the tensors."""
    config = read_official(folder, None, NEWLINE in names_in(folder)).config
    values = json.loads((folder / "config.json").read_text())
    return of_dtype(config, values.get("dtype", values.get("torch_dtype")))


def names_in(folder: Path) -> list[str]:
    return list(open_folder(folder).entries) if list(folder.glob("*model*")) else []


def of_dtype(config: GemConfig, dtype: str) -> GemConfig:
    return dataclasses.replace(config, llm=dataclasses.replace(config.llm, param_dtype=dtype))


def with_llm(config: GemConfig, **fields) -> GemConfig:
    return dataclasses.replace(config, llm=dataclasses.replace(config.llm, **fields))


def differing(left: dict, right: dict) -> set[str]:
    return {key for key in left | right if left.get(key, "absent") != right.get(key, "absent")}


@pytest.mark.parametrize("name", GEMS)
def test_a_golden_comes_back_as_it_was(name):
    folder = GOLDENS / name
    values = json.loads((folder / "config.json").read_text())
    generation = json.loads((folder / "generation_config.json").read_text())
    config, source = imported(folder), source_of(values, generation)
    written = config_json(config, source)
    assert written == values
    assert generation_json(config, source) == generation
    unsourced = differing(config_json(config), values)
    assert {"_name_or_path", "open_clip_config"} < unsourced, "the control: by our own words"


@pytest.fixture(scope="module", params=GEMS)
def there_and_back(request, tmp_path_factory) -> tuple[Path, Path]:
    """A golden's folder and that of its export after an import."""
    root = tmp_path_factory.mktemp(request.param)
    load.main(GOLDENS / request.param, root / "checkpoint")
    save.main(root / "checkpoint", root / "exported")
    return GOLDENS / request.param, root / "exported"


CONFIGS = ("config.json", "generation_config.json", "clip_vision/config.json")


def test_import_and_export_keep_every_config(there_and_back):
    golden, exported = there_and_back
    for file in (*CONFIGS, "ecg_tower/coca_tiny.json"):
        before, after = (json.loads((root / file).read_text()) for root in (golden, exported))
        assert differing(before, after) == set(), file
    assert imported(exported) == imported(golden)


def test_import_and_export_keep_the_split_into_files(there_and_back):
    golden, exported = there_and_back
    if golden.name == "gem_llama_tiny":
        files = sorted(path.name for path in golden.glob("model*"))
        assert sorted(path.name for path in exported.glob("model*")) == files
        for file in files:
            assert (exported / file).read_bytes() == (golden / file).read_bytes()
    else:
        assert (exported / "model.safetensors").is_file(), "one file stays one"


def test_the_original_reads_the_exported_ecg_encoder(there_and_back):
    """As it does: by torch.load, below `state_dict`, what `module.ecg.` begins."""
    torch = pytest.importorskip("torch", reason="install the `parity` extra")
    golden, exported = there_and_back
    file = json.loads((exported / "config.json").read_text())["mm_ecg_tower"]
    written = torch.load(exported / file, map_location="cpu")["state_dict"]
    pretrained = open_file(GOLDENS / "gem_llama_tiny" / file)
    encoder = [name for name in pretrained.entries if name.startswith("module.ecg.")]
    assert sorted(written) == sorted(encoder)
    tower = open_folder(golden)
    for name in encoder:
        ours = tower.read("model.ecg_tower.ecg_tower." + name.removeprefix("module.ecg."))
        assert written[name].numpy().tobytes() == ours.tobytes()


def test_what_export_converts_is_told(tmp_path):
    load.main(GOLDENS / GEMS[0], tmp_path / "checkpoint")
    save.main(tmp_path / "checkpoint", tmp_path / "half", dtype="bfloat16")
    before = json.loads((GOLDENS / GEMS[0] / "config.json").read_text())
    half = json.loads((tmp_path / "half" / "config.json").read_text())
    assert differing(before, half) == {"torch_dtype"}
    assert half["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_language_model_comes_back_as_it_was(name, tmp_path):
    values = LANGUAGE_MODELS[name]
    generation = {"do_sample": True, "temperature": 0.6, "eos_token_id": values["eos_token_id"]}
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    config = imported(tmp_path)
    source = source_of(values, generation)
    assert config_json(config, source) == values
    assert generation_json(config, source) == generation
    grown = with_llm(config, vocab_size=152070, param_dtype="float64")
    spelled = "dtype" if "dtype" in values else "torch_dtype"
    expected = values | {"vocab_size": 152070, spelled: "float64"}
    assert config_json(grown, source) == expected


OPTIONAL = sorted(
    set(LANGUAGE_MODELS["unsloth/Llama-3.2-1B-Instruct"])
    - {"architectures", "hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"}
    - {"num_attention_heads", "max_position_embeddings", "eos_token_id", "bos_token_id"}
)


@given(left_out=st.sets(st.sampled_from(OPTIONAL)), nulled=st.booleans())
@settings(max_examples=40, deadline=None)
def test_whatever_a_config_leaves_out_stays_left_out(left_out, nulled):
    whole = LANGUAGE_MODELS["unsloth/Llama-3.2-1B-Instruct"]
    values = {key: found for key, found in whole.items() if key not in left_out}
    if nulled and "rope_scaling" in left_out:
        values["rope_scaling"] = None
    config = of_dtype(read_model(values, {}, Path("config.json"), None), "bfloat16")
    assert config_json(config, source_of(values)) == values


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with the official image encoder's sizes and no weights."""
    clip = tmp_path / "openai" / "clip-vit-large-patch14-336"
    clip.mkdir(parents=True)
    write_vision(clip, ClipConfig.vit_l_14_336())
    return tmp_path


@pytest.mark.parametrize("name", LLAVA_MODELS)
def test_a_llava_or_gem_comes_back_as_it_was(name, folder):
    values = LLAVA_MODELS[name]
    (folder / "config.json").write_text(json.dumps(values))
    config = imported(folder)
    written = config_json(config, source_of(values))
    assert differing(written, values) == POINTERS & values.keys()
    assert written["mm_vision_tower"] == "clip_vision"
    changed = dataclasses.replace(config, template="v0", image_mode="pad", max_length=3000)
    written = config_json(changed, source_of(values))
    moved = {"conversation_template", "image_aspect_ratio", "tokenizer_model_max_length"}
    moved -= {"image_aspect_ratio"} if values["image_aspect_ratio"] == "pad" else set()
    assert differing(written, values) == moved | POINTERS & values.keys()
    assert written["tokenizer_model_max_length"] == 3000


def test_a_llava_that_became_a_gem_says_so(folder):
    values = LLAVA_MODELS["PULSE-ECG/PULSE-7B"]
    (folder / "config.json").write_text(json.dumps(values))
    gem = dataclasses.replace(
        imported(folder),
        ecg=EcgConfig.coca_vit_b_32(),
        ecg_projector="mlp2x_gelu",
        template="llava_v1",
    )
    written = config_json(gem, source_of(values))
    expected = {"ecg_projector_type", "mm_ecg_tower", "mm_vision_tower", "open_clip_config"}
    assert differing(written, values) == expected
    assert written["mm_ecg_tower"] == "ecg_tower/coca_ViT-B-32.pt"


def test_a_tower_that_is_named_as_missing_stays_so(folder):
    values = LLAVA_MODELS["PULSE-ECG/PULSE-7B"] | {"mm_ecg_tower": None}
    (folder / "config.json").write_text(json.dumps(values))
    written = config_json(imported(folder), source_of(values))
    assert differing(written, values) == {"mm_vision_tower"}
    whole = LLAVA_MODELS["LANSG/GEM"]
    assert "mm_ecg_tower" not in config_json(imported(folder), source_of(whole))


def test_changed_special_tokens_are_written_into_both_files(tmp_path):
    values = LANGUAGE_MODELS["meta-llama/Llama-3.1-8B-Instruct"]
    generation = {"do_sample": True, "eos_token_id": [128001, 128008, 128009], "top_p": 0.9}
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = dataclasses.replace(imported(tmp_path), eos_token_ids=(7, 128001), pad_token_id=9)
    source = source_of(values, generation)
    written = config_json(config, source)
    assert differing(written, values) == {"eos_token_id", "pad_token_id"}
    assert (written["eos_token_id"], written["pad_token_id"]) == (7, 9)
    ids = {"bos_token_id": 128000, "eos_token_id": [7, 128001], "pad_token_id": 9}
    assert generation_json(config, source) == {"do_sample": True, "top_p": 0.9} | ids


def test_what_is_no_official_config_is_not_kept(folder):
    values = LLAVA_MODELS["LANSG/GEM"]
    (folder / "config.json").write_text(json.dumps(values))
    config = imported(folder)
    ours = config_json(config)
    assert "_name_or_path" not in ours
    assert config_json(config, source_of(values, layout="transformers")) == ours
    assert config_json(config, {"layout": "official", "name": "older"}) == ours
    other = LANGUAGE_MODELS["lmsys/vicuna-7b-v1.5"]
    assert config_json(config, source_of(other)) == ours
    unsafe = source_of(values | {"open_clip_config": "../../coca", "mm_ecg_tower": "../.."})
    assert config_json(config, unsafe)["mm_ecg_tower"] == "ecg_tower/coca_ViT-B-32.pt"


@pytest.mark.parametrize("name", GEMS)
def test_tensors_are_named_in_the_order_of_the_originals_state_dict(name):
    """A pickle keeps that order; the shards of safetensors keep it from one to the next."""
    folder = GOLDENS / name
    names = list(gem_slots(imported(folder)))
    entries = open_folder(folder).entries
    assert set(names) == set(entries)
    if name == "gem_qwen_tiny":
        assert names == list(entries)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = json.loads(index.read_text())["weight_map"]
        order = [files[tensor] for tensor in names]
        assert order == sorted(order) and len(set(order)) > 1
