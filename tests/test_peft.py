"""Adapters in PEFT's layout: the same bytes there and back, the same logits, nothing overlooked."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gem_jax import checkpoint, lora, orbax_leaves
from gem_jax.config import LoraConfig, to_dict
from gem_jax.models.gem import Batch, Gem, GemConfig, abstract_params
from gem_jax.models.llm import LlmConfig
from gem_jax.paths import flat, nested
from gem_jax.weights import load, save
from gem_jax.weights.files import WeightsError, open_file, open_folder
from gem_jax.weights.peft import PREFIX, WEIGHTS, read_adapter, read_factors
from gem_jax.weights.peft_config import CONFIG
from gem_jax.weights.peft_export import write_adapter
from gem_jax.weights.read import Added, plan_import, read_gem, read_with
from gem_jax.weights.write import write_gem

GEM = Path(__file__).parent / "goldens" / "gem_llama_tiny"
LLM = LlmConfig(97, 32, 2, 4, 2, 8, 48, 10_000.0, 1e-5)
ALONE = GemConfig(None, None, LLM, "identity", "identity", 1, (2,), 0, "pad", 64, template="bare")
ATTENTION = LoraConfig(4, 8.0, ("llm/layers/self_attn/[qv]_proj",))
ALL = LoraConfig(4, 8.0)


def factors_of(config: GemConfig, adapters: LoraConfig, parts=(), seed=0) -> dict:
    """Returns random float32 factors by path, and the whole of `parts`."""
    rng = np.random.default_rng(seed)
    made = {}
    for path, leaf in flat(abstract_params(config)).items():
        module = path.removesuffix("/kernel")
        if any(re.fullmatch(target, module) for target in adapters.targets):
            *stack, inputs, outputs = leaf.shape
            made[path + lora.A] = rng.normal(0, 0.3, (*stack, inputs, adapters.rank))
            made[path + lora.B] = rng.normal(0, 0.3, (*stack, adapters.rank, outputs))
        if path.split("/")[0] in parts:
            made[path] = rng.normal(0, 0.1, leaf.shape)
    return {path: leaf.astype(np.float32) for path, leaf in made.items()}


def written(dest: Path, config: GemConfig, adapters: LoraConfig, leaves: dict, base="base") -> Path:
    shapes = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in leaves.items()}
    write_adapter(dest, config, adapters, base, shapes, leaves.items())
    return dest


def edited(folder: Path, **changes) -> Path:
    path = folder / CONFIG
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(values))
    return folder


def read(folder: Path, config: GemConfig = ALONE):
    return read_adapter(folder, config, flat(abstract_params(config)))


def test_names_and_config_are_peft_s(tmp_path):
    folder = written(tmp_path / "a", ALONE, ATTENTION, factors_of(ALONE, ATTENTION))
    entries = open_file(folder / WEIGHTS).entries
    names = [
        f"base_model.model.model.layers.{layer}.self_attn.{name}_proj.lora_{letter}.weight"
        for layer in (0, 1)
        for name in "qv"
        for letter in "AB"
    ]
    assert sorted(entries) == sorted(names)
    assert entries[names[0]].shape == (4, 32)
    assert entries[names[3]].shape == (16, 4), "v_proj's B has its two heads"
    said = json.loads((folder / CONFIG).read_text())
    assert said["target_modules"] == ["q_proj", "v_proj"]
    expected = {"r": 4, "lora_alpha": 8, "peft_type": "LORA", "task_type": "CAUSAL_LM"}
    assert expected.items() <= said.items()
    assert said["base_model_name_or_path"] == "base"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("adapters", [ATTENTION, ALL, LoraConfig(2, 3.5, ("llm/lm_head",))])
def test_there_and_back_the_bytes_are_the_same(adapters, dtype, tmp_path):
    leaves = {p: np.asarray(x, jnp.dtype(dtype)) for p, x in factors_of(ALONE, adapters).items()}
    first = written(tmp_path / "first", ALONE, adapters, leaves)
    found = read(first)
    back = read_factors(found)
    assert back.keys() == leaves.keys()
    assert all(back[path].tobytes() == leaf.tobytes() for path, leaf in leaves.items())
    assert (found.lora.rank, found.lora.alpha) == (adapters.rank, adapters.alpha)
    second = written(tmp_path / "second", ALONE, found.lora, back)
    for name in (CONFIG, WEIGHTS):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_the_image_encoder_s_layers_of_the_same_name_are_not_meant(tmp_path):
    config, _ = read_gem(GEM)
    leaves = factors_of(config, ATTENTION)
    folder = written(tmp_path / "a", config, ATTENTION, leaves)
    targets = json.loads((folder / CONFIG).read_text())["target_modules"]
    assert "model.layers.0.self_attn.q_proj" in targets and "q_proj" not in targets
    # LLaVA's own adapters name them shortly.
    edited(folder, target_modules=["q_proj", "v_proj"])
    assert read_factors(read(folder, config)).keys() == leaves.keys()
    edited(folder, target_modules=r"model\.layers\.\d+\.self_attn\.(q|v)_proj")
    assert read_factors(read(folder, config)).keys() == leaves.keys()


REFUSED = {
    "use_dora": True,
    "bias": "all",
    "layers_to_transform": [0],
    "rank_pattern": {"q_proj": 8},
    "alpha_pattern": {"q_proj": 8},
    "init_lora_weights": "pissa",
    "peft_type": "LOHA",
    "fan_in_fan_out": True,
    "trainable_token_indices": [1],
    "a_new_option": 1,
}


def test_options_that_are_not_computed_are_refused_by_name(tmp_path):
    folder = written(tmp_path / "a", ALONE, ATTENTION, factors_of(ALONE, ATTENTION))
    read(edited(folder, lora_dropout=0.1, revision=None, inference_mode=False))
    with pytest.raises(WeightsError) as refused:
        read(edited(folder, **dict(list(REFUSED.items())[:6])))
    assert all(f"{key}: " in str(refused.value) for key in list(REFUSED)[:6])
    for key, wrong in REFUSED.items():
        alone = written(tmp_path / key, ALONE, ATTENTION, factors_of(ALONE, ATTENTION))
        with pytest.raises(WeightsError, match=f"{CONFIG}: .*{key}: "):
            read(edited(alone, **{key: wrong}))


def test_missing_and_unknown_tensors_are_named_together(tmp_path):
    folder = written(tmp_path / "a", ALONE, ATTENTION, factors_of(ALONE, ATTENTION))
    with pytest.raises(WeightsError) as refused:
        read(edited(folder, target_modules=["v_proj", "o_proj"]))
    for said in (
        "4 tensors are missing: base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight",
        "4 unknown tensors: base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
    ):
        assert said in str(refused.value)
    edited(folder, target_modules=["q_proj", "v_proj"], r=8)
    with pytest.raises(WeightsError, match=r"lora_A.weight: got shape \(4, 32\), expected \(8, 3"):
        read(folder)
    with pytest.raises(WeightsError, match=r"target_modules: got \('c_attn',\), expected modules"):
        read(edited(folder, target_modules=["c_attn"]))
    (folder / WEIGHTS).unlink()
    with pytest.raises(WeightsError, match=r"got no adapter, expected adapter_model"):
        read(edited(folder, target_modules=["q_proj"]))


def test_a_rank_stabilised_scale_is_computed(tmp_path):
    folder = written(tmp_path / "a", ALONE, ATTENTION, factors_of(ALONE, ATTENTION))
    assert read(edited(folder, use_rslora=True)).lora.alpha == 16.0


# On import and export.


def imported(source: Path, dest: Path, **options) -> dict:
    load.main(source, dest, **options)
    return flat(jax.device_get(checkpoint.load_params(dest)[1]))


def test_an_adapter_is_merged_on_import(tmp_path):
    config, base = read_gem(GEM)
    leaves = factors_of(config, ALL, parts=("mm_projector",))
    folder = written(tmp_path / "adapter", config, ALL, leaves)
    assert json.loads((folder / CONFIG).read_text())["modules_to_save"] == ["mm_projector"]
    found = imported(GEM, tmp_path / "checkpoint", adapter=folder)
    expected = flat(lora.merged(nested(flat(base) | leaves), ALL))
    for path, leaf in expected.items():
        assert found[path].tobytes() == np.asarray(leaf, found[path].dtype).tobytes(), path
    changed = {path for path in found if found[path].tobytes() != flat(base)[path].tobytes()}
    assert changed == {lora.kernel_of(path) for path in leaves}


def test_a_llava_adapter_brings_its_projector_in_a_file_of_its_own(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is missing: pip install 'gem_jax[parity]'")
    config, base = read_gem(GEM)
    leaves = factors_of(config, ATTENTION)
    folder = written(tmp_path / "adapter", config, ATTENTION, leaves)
    name = "model.mm_projector.0.weight"
    brought = np.full(open_folder(GEM).entries[name].shape, 0.25, np.float32)
    torch.save({PREFIX + name: torch.from_numpy(brought)}, folder / "non_lora_trainables.bin")
    _, params = read_with(GEM, Added(adapter=folder))
    assert (params["mm_projector"]["0"]["kernel"] == 0.25).all()
    assert np.array_equal(
        params["mm_projector"]["2"]["kernel"], base["mm_projector"]["2"]["kernel"]
    )
    torch.save(
        {"mm_projector.0.weight": torch.from_numpy(brought)}, folder / "non_lora_trainables.bin"
    )
    with pytest.raises(WeightsError, match=r"1 unknown tensor: mm_projector\.0"):
        plan_import(GEM, Added(adapter=folder))


def test_a_llava_adapter_may_lie_over_the_language_model_alone(tmp_path):
    """As LLaVA and GEM save it: config.json and everything that is not Vicuna's beside factors."""
    torch = pytest.importorskip("torch", reason="torch is missing: pip install 'gem_jax[parity]'")
    config, params = read_gem(GEM)
    alone = dataclasses.replace(
        config, ecg=None, vision=None, ecg_projector="identity", mm_projector="identity"
    )
    (tmp_path / "tokenizer").mkdir()
    shutil.copyfile(GEM / "tokenizer.model", tmp_path / "tokenizer" / "tokenizer.model")
    write_gem(tmp_path / "vicuna", alone, {"llm": params["llm"]}, tmp_path / "tokenizer")
    folder = written(tmp_path / "adapter", config, ATTENTION, factors_of(config, ATTENTION))
    shards = open_folder(GEM)
    kept = {
        PREFIX + name: torch.from_numpy(shards.read(name).copy())
        for name in shards.entries
        if name.startswith(("model.mm_projector", "model.ecg_"))
    }
    torch.save(kept, folder / "non_lora_trainables.bin")
    with pytest.raises(WeightsError, match=r"unknown tensors: base_model\.model\.model\.ecg_"):
        plan_import(tmp_path / "vicuna", Added(adapter=folder))
    shutil.copyfile(GEM / "config.json", folder / "config.json")
    for tower in ("clip_vision", "ecg_tower"):
        shutil.copytree(GEM / tower, folder / tower)
    found = imported(tmp_path / "vicuna", tmp_path / "over", adapter=folder)
    expected = imported(GEM, tmp_path / "whole", adapter=folder)
    assert found.keys() == expected.keys()
    assert all(found[path].tobytes() == leaf.tobytes() for path, leaf in expected.items())
    save.main(tmp_path / "over", tmp_path / "exported")
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["mm_ecg_tower"]


def run_of(root: Path, config: GemConfig, leaves: dict, trainable=()) -> Path:
    """Writes the checkpoint of a LoRA run as `gem-jax train` leaves it: factors beside kernels."""
    base = flat(read_gem(GEM)[1])
    values = {"model": to_dict(config), "lora": to_dict(ALL), "source": {"name": "the-base"}}
    (root / "tokenizer").mkdir(parents=True)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        if (GEM / name).is_file():
            shutil.copyfile(GEM / name, root / "tokenizer" / name)
    checkpoint.write_config(root, values | {"train": {"trainable": list(trainable)}})
    orbax_leaves.write(root / "checkpoints" / "3", (base | leaves).items())
    return root


def test_a_run_is_exported_merged_and_as_an_adapter(tmp_path):
    config, _ = read_gem(GEM)
    leaves = factors_of(config, ALL, parts=("mm_projector",))
    root = run_of(tmp_path / "run", config, leaves, trainable=("mm_projector",))
    save.main(root, tmp_path / "whole")
    save.main(root, tmp_path / "adapter", layout="peft")
    _, whole = read_gem(tmp_path / "whole")
    _, merged = read_with(GEM, Added(adapter=tmp_path / "adapter"))
    for path, leaf in flat(merged).items():
        assert leaf.tobytes() == flat(whole)[path].tobytes(), path
    sizes = [
        sum(file.stat().st_size for file in folder.glob("model*.safetensors"))
        for folder in (GEM, tmp_path / "whole")
    ]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01), "an export is as large as its base"
    said = json.loads((tmp_path / "adapter" / CONFIG).read_text())
    assert said["base_model_name_or_path"] == "the-base"
    # Whoever loads the run gets the merged model.
    loaded = flat(jax.device_get(checkpoint.load_params(root)[1]))
    assert all(loaded[path].tobytes() == leaf.tobytes() for path, leaf in flat(whole).items())


def test_what_peft_has_no_words_for_is_refused(tmp_path):
    config, _ = read_gem(GEM)
    leaves = factors_of(config, ALL)
    for part in ("vision_tower", "image_newline"):
        root = run_of(tmp_path / part, config, leaves, trainable=(part, "mm_projector"))
        with pytest.raises(WeightsError, match=f"got {part} trained .*export --layout official"):
            save.main(root, tmp_path / "adapter", layout="peft")
    load.main(GEM, tmp_path / "plain")
    with pytest.raises(WeightsError, match="got a checkpoint without LoRA"):
        save.main(tmp_path / "plain", tmp_path / "adapter", layout="peft")
    both = LoraConfig(4, 8.0, ("mm_projector/0",))
    with pytest.raises(WeightsError, match="mm_projector trained with factors and whole"):
        written(tmp_path / "b", config, both, factors_of(config, both, parts=("mm_projector",)))
    assert not (tmp_path / "adapter").exists()


# Beside PEFT itself.


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """(PEFT, transformers' tiny LLaMA in a folder, its parameters as ours)."""
    pytest.importorskip("torch", reason="torch is missing: pip install 'gem_jax[parity]'")
    peft = pytest.importorskip("peft", reason="peft is missing: pip install peft")
    import transformers

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = transformers.LlamaConfig(
        vocab_size=97, rms_norm_eps=1e-5, tie_word_embeddings=False, **sizes, **heads
    )
    folder = tmp_path_factory.mktemp("theirs")
    transformers.LlamaForCausalLM(config).eval().save_pretrained(folder / "base")
    return peft, folder / "base", read_gem(folder / "base")


def ids() -> np.ndarray:
    return np.random.default_rng(1).integers(3, 97, (2, 20)).astype(np.int32)


def our_logits(config: GemConfig, params: dict) -> np.ndarray:
    tokens = ids()
    ones = np.ones_like(tokens)
    positions = np.tile(np.arange(20, dtype=np.int32), (2, 1))
    batch = Batch(
        *map(jnp.asarray, (tokens, positions, ones, -ones, tokens, ones.astype(bool))), None, None
    )
    return np.asarray(Gem(config).apply({"params": params}, batch))


def their_logits(model) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(ids().astype(np.int64))).logits.numpy()


@pytest.mark.parametrize("adapters", [ATTENTION, ALL])
def test_peft_loads_ours_and_merges_to_the_same_weights(adapters, theirs, tmp_path):
    peft, base, (config, params) = theirs
    import transformers

    leaves = factors_of(config, adapters)
    folder = written(tmp_path / "adapter", config, adapters, leaves)
    whole = lora.merged(nested(flat(params) | leaves), adapters)
    model = transformers.LlamaForCausalLM.from_pretrained(base).eval()
    plain = their_logits(model)
    model = peft.PeftModel.from_pretrained(model, folder).eval()
    found = their_logits(model)
    np.testing.assert_allclose(our_logits(config, whole), found, atol=1e-5)
    assert np.abs(found - plain).max() > 0.1, "the adapter counts"
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    _, merged = read_gem(tmp_path / "merged")
    for path, leaf in flat(merged).items():
        np.testing.assert_allclose(leaf, flat(whole)[path], atol=1e-6, err_msg=path)
    np.testing.assert_allclose(our_logits(config, merged), found, atol=1e-5)


def test_an_adapter_of_peft_s_own_is_read_and_written_again_byte_for_byte(theirs, tmp_path):
    peft, base, (config, _) = theirs
    import torch
    import transformers

    asked = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.05
    )
    model = peft.get_peft_model(transformers.LlamaForCausalLM.from_pretrained(base), asked).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    model.save_pretrained(tmp_path / "theirs")
    adapter = read(tmp_path / "theirs", config)
    factors = read_factors(adapter)
    again = written(tmp_path / "again", config, adapter.lora, factors)
    assert (again / WEIGHTS).read_bytes() == (tmp_path / "theirs" / WEIGHTS).read_bytes()
    _, merged = read_with(base, Added(adapter=tmp_path / "theirs"))
    np.testing.assert_allclose(our_logits(config, merged), their_logits(model), atol=1e-5)
