"""Official weights: the original's numbers after import, its bytes after export, and refusals."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from experiments.demo import model as demo_model
from gem_jax import checkpoint, cli
from gem_jax.models.clip import ClipConfig, ClipEncoder
from gem_jax.models.ecg import EcgConfig, EcgEncoder
from gem_jax.models.gem import GemConfig, abstract_params
from gem_jax.weights import load, save
from gem_jax.weights.files import INDEX, SINGLE, WeightsError, open_folder
from gem_jax.weights.hf_config import read_official
from gem_jax.weights.hf_export import config_json
from gem_jax.weights.names import gem_slots
from gem_jax.weights.read import read_gem
from gem_jax.weights.tower_config import COCA_VIT_B_32
from gem_jax.weights.tower_export import ecg_name
from gem_jax.weights.write import write_gem

GOLDENS = Path(__file__).parent / "goldens"
LLAMA = GOLDENS / "gem_llama_tiny"


@pytest.fixture(scope="module")
def llama() -> tuple[GemConfig, dict]:
    return read_gem(LLAMA)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the golden checkpoint that a test may spoil."""
    return Path(shutil.copytree(LLAMA, tmp_path / "checkpoint"))


def apply(module, params, *inputs):
    return jax.jit(module.apply)({"params": params}, *inputs)


def same_bits(left: dict, right: dict) -> bool:
    left, right = flatten_dict(left, sep="/"), flatten_dict(right, sep="/")
    return left.keys() == right.keys() and all(
        left[path].dtype == right[path].dtype
        and np.asarray(left[path]).tobytes() == np.asarray(right[path]).tobytes()
        for path in left
    )


# The original's numbers.


def test_the_ecg_encoder_gives_the_originals_tokens(llama):
    config, params = llama
    golden = np.load(GOLDENS / "ecg_encoder_tiny.npz")
    tokens, pooled = apply(EcgEncoder(config.ecg), params["ecg_tower"], jnp.asarray(golden["ecg"]))
    np.testing.assert_allclose(tokens, golden["last_transformer_layer"], atol=1e-5)
    np.testing.assert_allclose(pooled, golden["pooled"], atol=1e-5)


def test_the_image_encoder_gives_the_originals_tokens(llama):
    config, params = llama
    golden = np.load(GOLDENS / "clip_vision_tiny.npz")
    pixels = jnp.asarray(golden["pixel_values"].transpose(0, 2, 3, 1))
    tokens, pooled = apply(ClipEncoder(config.vision), params["vision_tower"], pixels)
    np.testing.assert_allclose(tokens, golden["features_select_m2_patch"], atol=1e-5)
    np.testing.assert_allclose(pooled, golden["pooler_output"], atol=1e-5)


# The original's bytes.


def test_export_writes_the_originals_tensors_and_config(llama, tmp_path):
    config, params = llama
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    shutil.copyfile(LLAMA / "tokenizer.model", tokenizer / "tokenizer.model")
    exported = tmp_path / "exported"
    write_gem(exported, config, params, tokenizer, shard_bytes=500_000)
    for part in (".", "clip_vision"):
        ours, theirs = open_folder(exported / part), open_folder(LLAMA / part)
        assert ours.entries.keys() == theirs.entries.keys()
        for name, entry in theirs.entries.items():
            assert ours.entries[name].dtype == entry.dtype
            assert ours.entries[name].shape == entry.shape
            assert ours.read(name).tobytes() == theirs.read(name).tobytes(), name
    index = json.loads((exported / INDEX).read_text())
    total = json.loads((LLAMA / INDEX).read_text())["metadata"]["total_size"]
    assert index["metadata"]["total_size"] == total
    assert len(set(index["weight_map"].values())) > 1
    assert max(path.stat().st_size for path in exported.glob("*.safetensors")) < 510_000
    for file in ("generation_config.json", "clip_vision/preprocessor_config.json"):
        assert json.loads((exported / file).read_text()) == json.loads((LLAMA / file).read_text())
    differing = {
        key
        for key, value in json.loads((LLAMA / "config.json").read_text()).items()
        if json.loads((exported / "config.json").read_text()).get(key, "absent") != value
    }
    # Where it came from, and the name of the ECG encoder's files.
    assert differing == {"_name_or_path", "mm_ecg_tower", "open_clip_config"}
    again, params_again = read_gem(exported)
    assert again == config
    assert same_bits(params_again, params)


def random_params(config: GemConfig) -> dict:
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype), abstract_params(config)
    )


def varied(**llm) -> GemConfig:
    config = demo_model()
    return dataclasses.replace(config, llm=dataclasses.replace(config.llm, **llm))


def bfloat16(config: GemConfig) -> GemConfig:
    kinds = {"dtype": "bfloat16", "param_dtype": "bfloat16"}
    parts = {
        part: dataclasses.replace(getattr(config, part), **kinds)
        for part in ("ecg", "vision", "llm")
    }
    return dataclasses.replace(config, **parts)


MODELS = {
    "demo": demo_model(),
    "untied": varied(tie_embeddings=False),
    "Qwen2": dataclasses.replace(varied(family="qwen2", num_kv_heads=1), template="qwen_2"),
    "bfloat16": bfloat16(demo_model()),
    "deep projector": dataclasses.replace(demo_model(), ecg_projector="mlp3x_gelu"),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_exported_is_imported_bit_for_bit(name, tmp_path):
    config = MODELS[name]
    params = random_params(config)
    (tmp_path / "tokenizer").mkdir()
    write_gem(tmp_path / "exported", config, params, tmp_path / "tokenizer")
    read_config, read_params = read_gem(tmp_path / "exported")
    assert read_config == config
    assert same_bits(read_params, params)
    stored = open_folder(tmp_path / "exported").entries
    assert ("lm_head.weight" in stored) == (not config.llm.tie_embeddings)


@pytest.mark.parametrize("name", MODELS)
def test_each_parameter_has_one_official_name_a_layer(name):
    config = MODELS[name]
    places = [(slot.path, slot.layer) for slot in gem_slots(config).values()]
    expected = []
    for path, leaf in flatten_dict(abstract_params(config), sep="/").items():
        stacked = "/layers/" in path or "/blocks/" in path
        expected += [(path, layer) for layer in (range(leaf.shape[0]) if stacked else [None])]
    assert sorted(map(str, places)) == sorted(map(str, expected))


def test_the_official_encoder_goes_by_its_name():
    assert ecg_name(EcgConfig.coca_vit_b_32()) == COCA_VIT_B_32
    assert ecg_name(demo_model().ecg) != COCA_VIT_B_32


def test_a_tied_head_that_repeats_the_embedding_is_taken(tmp_path):
    config = demo_model()
    (tmp_path / "tokenizer").mkdir()
    write_gem(tmp_path / "exported", config, random_params(config), tmp_path / "tokenizer")
    tensors = load_file(tmp_path / "exported" / SINGLE)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    save_file(tensors, tmp_path / "exported" / SINGLE)
    read_gem(tmp_path / "exported")
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1
    save_file(tensors, tmp_path / "exported" / SINGLE)
    with pytest.raises(WeightsError, match=r"1 unknown tensor: lm_head\.weight"):
        read_gem(tmp_path / "exported")


def test_the_checkpoints_own_image_encoder_counts_where_it_was_trained(folder):
    name = "vision_model.post_layernorm.bias"
    tower = load_file(folder / "clip_vision" / SINGLE)
    trained = tower[name].copy()
    tower[name] = trained + 1
    save_file(tower, folder / "clip_vision" / SINGLE)

    def bias():
        return read_gem(folder)[1]["vision_tower"]["post_layernorm"]["bias"]

    np.testing.assert_array_equal(bias(), trained + 1)
    set_key(folder, "unfreeze_mm_vision_tower", True)
    np.testing.assert_array_equal(bias(), trained)


# The verbs.


def test_the_verbs_round_trip(tmp_path, llama, capsys):
    first, exported, second = (tmp_path / name for name in ("first", "exported", "second"))
    load.main(LLAMA, first)
    save.main(first, exported)
    load.main(exported, second)
    config, params = checkpoint.load_params(second)
    assert config == llama[0]
    assert same_bits(jax.device_get(params), llama[1])
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        expected = (LLAMA / name).read_bytes()
        assert (second / "tokenizer" / name).read_bytes() == expected
        assert (exported / name).read_bytes() == expected
    assert "Not a medical device" in (exported / "README.md").read_text()
    assert "566,656 parameters" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exported", "first", "second"]


@pytest.mark.parametrize("verb", ["import", "export"])
def test_what_is_no_checkpoint_is_refused_in_one_line(verb, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert cli.main([verb, str(tmp_path / "empty"), str(tmp_path / "dest")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(tmp_path / "empty") in said
    assert not (tmp_path / "dest").exists()


@pytest.mark.parametrize("main", [load.main, save.main])
def test_an_existing_destination_is_refused(main, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(WeightsError, match="exists, expected a new folder"):
        main(LLAMA, tmp_path)
    assert (tmp_path / "note.txt").read_text() == "mine"


# Refusals of import.


def set_key(folder: Path, key: str, value, file: str = "config.json") -> None:
    values = json.loads((folder / file).read_text())
    values[key] = value
    (folder / file).write_text(json.dumps(values))


CONFIG_KEYS = [
    ("rope_scaling", {"type": "yarn", "factor": 2.0}),
    ("hidden_act", "gelu"),
    ("attention_bias", True),
    ("sliding_window", 1024),
    ("mm_patch_merge_type", "maxpool2x2"),
    ("image_aspect_ratio", "anyres_max_9"),
    ("mm_vision_select_feature", "cls_patch"),
    ("mm_use_im_start_end", True),
    ("tokenizer_padding_side", "middle"),
    ("partial_rotary_factor", 0.5),
    ("hidden_size", "64"),
    ("num_hidden_layers", 0),
    ("mm_projector_type", "mlp_gelu"),
    ("ecg_hidden_size", 768),
    ("mm_hidden_size", 1024),
    ("architectures", ["MixtralForCausalLM"]),
    ("mm_vision_tower", "openai/clip-vit-large-patch14-336"),
    ("open_clip_config", "coca_other"),
    ("open_clip_config", "../coca_tiny"),
]


@pytest.mark.parametrize(("key", "value"), CONFIG_KEYS)
def test_a_config_that_would_compute_otherwise_is_refused_by_key(key, value, folder, tmp_path):
    set_key(folder, key, value)
    with pytest.raises(WeightsError, match=key):
        load.main(folder, tmp_path / "dest")
    assert not (tmp_path / "dest").exists()


def test_an_unknown_key_of_a_tower_is_refused(folder):
    set_key(folder, "attentional_pool", True, "ecg_tower/coca_tiny.json")
    with pytest.raises(WeightsError, match="attentional_pool: unknown key"):
        read_gem(folder)


def edit(folder: Path, shard: int, change) -> None:
    """Rewrites one shard and the index after `change(tensors)`."""
    file = f"model-{shard:05d}-of-00005.safetensors"
    tensors = load_file(folder / file)
    before = set(tensors)
    change(tensors)
    save_file(tensors, folder / file)
    index = json.loads((folder / INDEX).read_text())
    kept = {name: f for name, f in index["weight_map"].items() if name not in before or f != file}
    index["weight_map"] = kept | dict.fromkeys(tensors, file)
    (folder / INDEX).write_text(json.dumps(index))


def test_all_wrong_tensors_are_named_at_once(folder, tmp_path):
    def spoil(tensors):
        del tensors["model.mm_projector.2.bias"]
        tensors["model.image_newlines"] = np.zeros(64, np.float32)
        tensors["lm_head.weight"] = np.zeros((500, 64), np.float32)
        tensors["model.mm_projector.0.bias"] = np.zeros(64, np.float16)

    edit(folder, 5, spoil)
    with pytest.raises(WeightsError) as caught:
        load.main(folder, tmp_path / "dest")
    for part in (
        "1 tensor is missing: model.mm_projector.2.bias",
        "1 unknown tensor: model.image_newlines",
        "lm_head.weight: got shape (500, 64), expected (512, 64)",
        "model.mm_projector.0.bias: got float16, expected float32",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "dest").exists()


def test_a_newline_is_kept_where_unused_and_missed_where_used(folder):
    set_key(folder, "mm_patch_merge_type", "spatial_unpad")
    with pytest.raises(WeightsError, match=r"1 tensor is missing: model\.image_newline"):
        read_gem(folder)
    newline = np.arange(64, dtype=np.float32)
    edit(folder, 5, lambda tensors: tensors.update({"model.image_newline": newline}))
    for merge in ("spatial_unpad", "flat"):
        set_key(folder, "mm_patch_merge_type", merge)
        config, params = read_gem(folder)
        assert (config.patch_merge, config.image_newline) == (merge, True)
        np.testing.assert_array_equal(params["image_newline"], newline)


@pytest.mark.parametrize("name", ["gem_qwen_tiny", "gem_anyres_tiny"])
def test_pickled_and_tiled_goldens_are_exported_as_they_came(name, tmp_path):
    config, params = read_gem(GOLDENS / name)
    (tmp_path / "tokenizer").mkdir()
    write_gem(tmp_path / "exported", config, params, tmp_path / "tokenizer")
    ours, theirs = open_folder(tmp_path / "exported"), open_folder(GOLDENS / name)
    assert ours.entries.keys() == theirs.entries.keys()
    for tensor in theirs.entries:
        assert ours.read(tensor).tobytes() == theirs.read(tensor).tobytes(), tensor
    again, params_again = read_gem(tmp_path / "exported")
    assert again == config
    assert same_bits(params_again, params)


def test_a_folder_without_ecg_encoder_is_a_llava(tmp_path):
    """LLaVA and PULSE: no tower, no ECG projector; the folder's name decides nothing."""
    config, params = read_gem(GOLDENS / "gem_anyres_tiny")
    (tmp_path / "tokenizer").mkdir()
    llava = dataclasses.replace(config, ecg=None, ecg_projector="identity")
    rest = {part: tree for part, tree in params.items() if not part.startswith("ecg_")}
    write_gem(tmp_path / "foo", llava, rest, tmp_path / "tokenizer")
    names = open_folder(tmp_path / "foo").entries
    assert "model.image_newline" in names
    assert not any("ecg" in name for name in names)
    assert "mm_ecg_tower" not in json.loads((tmp_path / "foo" / "config.json").read_text())
    assert "ECG" not in (tmp_path / "foo" / "README.md").read_text()
    again, params_again = read_gem(tmp_path / "foo")
    assert again == llava
    assert same_bits(params_again, rest)


@pytest.fixture
def llava(tmp_path) -> Path:
    """A LLaVA folder, with a tokenizer, made from the golden GEM."""
    config, params = read_gem(LLAMA)
    (tmp_path / "tokenizer").mkdir()
    shutil.copyfile(LLAMA / "tokenizer.model", tmp_path / "tokenizer" / "tokenizer.model")
    bare = dataclasses.replace(config, ecg=None, ecg_projector="identity")
    rest = {part: tree for part, tree in params.items() if not part.startswith("ecg_")}
    write_gem(tmp_path / "llava", bare, rest, tmp_path / "tokenizer")
    return tmp_path / "llava"


ENCODER = LLAMA / "ecg_tower" / "cpt_wfep_epoch_20.pt"


def test_a_llava_gets_an_ecg_encoder_and_its_projector(llava, llama, tmp_path, capsys):
    weight = llama[1]["ecg_projector"]["linear"]["kernel"].T
    bias = llama[1]["ecg_projector"]["linear"]["bias"]
    projector = {"model.ecg_projector.weight": np.ascontiguousarray(weight)}
    save_file({**projector, "model.ecg_projector.bias": bias}, tmp_path / "projector.safetensors")
    file = tmp_path / "projector.safetensors"
    load.main(llava, tmp_path / "whole", ecg_encoder=ENCODER, ecg_projector=file)
    config, params = checkpoint.load_params(tmp_path / "whole")
    assert (config.ecg, config.ecg_projector) == (llama[0].ecg, "linear")
    assert same_bits(jax.device_get(params), llama[1])
    assert "train" not in capsys.readouterr().err


def test_without_its_projector_the_checkpoint_serves_training_alone(llava, tmp_path, capsys):
    load.main(llava, tmp_path / "start", ecg_encoder=ENCODER)
    assert "has no ecg_projector" in capsys.readouterr().err
    params = checkpoint.load_tree(checkpoint.locate(tmp_path / "start"))
    assert "ecg_tower" in params and "ecg_projector" not in params
    assert cli.main(["export", str(tmp_path / "start"), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "without ['ecg_projector']" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_gem_gets_no_second_ecg_encoder(tmp_path):
    with pytest.raises(WeightsError, match="got an ECG encoder, expected a LLaVA or PULSE"):
        load.main(LLAMA, tmp_path / "dest", ecg_encoder=ENCODER)
    with pytest.raises(WeightsError, match=r"--ecg-projector: got .* expected --ecg-encoder"):
        load.main(LLAMA, tmp_path / "dest", ecg_projector=ENCODER)
    assert not (tmp_path / "dest").exists()


def test_the_official_image_encoder_needs_no_file_where_its_weights_are_there(folder):
    for key, value in {"mm_hidden_size": 1024, "unfreeze_mm_vision_tower": True}.items():
        set_key(folder, key, value)
    set_key(folder, "mm_vision_tower", "openai/clip-vit-large-patch14-336")
    official = read_official(folder, None, newline=False)
    sizes = dataclasses.replace(official.config.vision, select_layer=-2)
    assert sizes == ClipConfig.vit_l_14_336()
    assert official.vision_dir is None and official.own_vision


def test_a_tensor_in_two_shards_is_refused(folder):
    edit(folder, 4, lambda tensors: tensors.update({"lm_head.weight": np.zeros((512, 64), "f4")}))
    with pytest.raises(WeightsError, match=r"lm_head\.weight is in two files"):
        read_gem(folder)


def test_float8_is_refused_by_name(folder):
    import ml_dtypes

    eighth = np.zeros((512, 64), ml_dtypes.float8_e4m3fn)
    edit(folder, 5, lambda tensors: tensors.update({"lm_head.weight": eighth}))
    with pytest.raises(WeightsError, match=r"lm_head\.weight has dtype F8_E4M3"):
        read_gem(folder)


def test_a_truncated_shard_is_refused(folder):
    shard = folder / "model-00003-of-00005.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"model-00003-of-00005\.safetensors cannot be read"):
        read_gem(folder)


def test_a_missing_shard_is_refused(folder):
    (folder / "model-00003-of-00005.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model-00003-of-00005\.safetensors cannot be read"):
        read_gem(folder)


@pytest.mark.parametrize("file", ["../other.safetensors", "/tmp/other.safetensors", ".."])
def test_an_index_that_leaves_the_folder_is_refused(file, folder):
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["lm_head.weight"] = file
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="expected a file of this folder"):
        read_gem(folder)


def test_a_folder_without_tokenizer_is_refused(folder, tmp_path):
    (folder / "tokenizer.model").unlink()
    with pytest.raises(WeightsError, match="got no tokenizer"):
        load.main(folder, tmp_path / "dest")


def test_a_model_without_official_words_is_not_exported(tmp_path):
    config = varied(head_dim=20)
    with pytest.raises(WeightsError, match=r"llm\.head_dim: got 20"):
        config_json(config)
