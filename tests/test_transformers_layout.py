"""LLaVA in transformers' own layout: its numbers after import, defaults, names, refusals."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from PIL import Image
from safetensors.numpy import load_file, save_file

from gem_jax.media import Capacity, Shown, placeholder_index
from gem_jax.models.gem import Batch, Gem, GemConfig, abstract_params
from gem_jax.preprocess import image_tiles
from gem_jax.templates import TokenError
from gem_jax.tokenizer import Tokenizer, load_tokenizer, save_tokenizer, train_tokenizer
from gem_jax.tokens import IMAGE_TOKEN, encode
from gem_jax.weights.files import WeightsError, open_folder
from gem_jax.weights.hf_config import read_official
from gem_jax.weights.read import Added, read_gem, read_with
from gem_jax.weights.transformers_layout import read_transformers

GOLDENS = Path(__file__).parent / "goldens"
IMAGE_ID = 96
TEXT = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
}
VISION = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
# (height, width): the second is wide, which counted the other way round would be tall.
PINPOINTS = [[56, 28], [28, 84], [56, 56]]
SIZE_WH = (170, 40)
MODELS = {
    "LLaVA-1.5": ("Llava", {}),
    "LLaVA-1.6": ("LlavaNext", {"image_grid_pinpoints": PINPOINTS}),
}

# llava-hf/llava-1.5-7b-hf and llava-hf/llava-v1.6-mistral-7b-hf: what differs from the defaults.
PUBLIC_VISION = {
    "hidden_size": 1024,
    "image_size": 336,
    "intermediate_size": 4096,
    "model_type": "clip_vision_model",
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "projection_dim": 768,
    "vocab_size": 32000,
}
PUBLIC_15 = {
    "architectures": ["LlavaForConditionalGeneration"],
    "ignore_index": -100,
    "image_token_index": 32000,
    "model_type": "llava",
    "pad_token_id": 32001,
    "projector_hidden_act": "gelu",
    "text_config": {
        "_name_or_path": "lmsys/vicuna-7b-v1.5",
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "rms_norm_eps": 1e-05,
        "torch_dtype": "float16",
        "vocab_size": 32064,
    },
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.36.0.dev0",
    "vision_config": PUBLIC_VISION,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "vocab_size": 32064,
}
PUBLIC_16 = PUBLIC_15 | {
    "architectures": ["LlavaNextForConditionalGeneration"],
    "model_type": "llava_next",
    "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
    "text_config": {
        "_name_or_path": "mistralai/Mistral-7B-Instruct-v0.2",
        "architectures": ["MistralForCausalLM"],
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "model_type": "mistral",
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "torch_dtype": "bfloat16",
        "vocab_size": 32064,
    },
    "use_image_newline_parameter": True,
}


def made(name: str, folder: Path, text: str = "Llama"):
    """Returns torch's model with random weights, saved in `folder`."""
    torch = pytest.importorskip("torch", reason="torch is missing: pip install 'gem_jax[parity]'")
    transformers = pytest.importorskip("transformers")
    family, own = MODELS[name]
    config = getattr(transformers, f"{family}Config")(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=getattr(transformers, f"{text}Config")(**TEXT, bos_token_id=1, eos_token_id=2),
        image_token_index=IMAGE_ID,
        attn_implementation="eager",
        **own,
    )
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.15 + ("norm" in key and key.endswith("weight")))
    model.save_pretrained(folder)
    return model.eval()


def renamed(folder: Path, names: str) -> None:
    """Gives the tensors in `folder` the names of another release."""
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {release(key, names): value for key, value in tensors.items()}, folder / "model.safetensors"
    )


def release(name: str, names: str) -> str:
    if names == "as saved":
        return name
    name = name.replace("vision_tower.", "vision_tower.vision_model.")
    if names == "old":
        return name
    if name.startswith("language_model.lm_head"):
        return name.removeprefix("language_model.")
    return "model." + name.replace("language_model.model.", "language_model.")


def conversation(config: GemConfig, num_tiles: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (ids, media index) of a question with its page in the midst of it."""
    shown = Shown(None, 0, num_tiles, SIZE_WH)
    features = placeholder_index(config, Capacity(0, num_tiles), shown)
    before, after = [1, 7, 8], [9, 10, 11, 12]
    ids = np.array([*before, *[IMAGE_ID] * len(features), *after])
    index = np.array([*[-1] * len(before), *features, *[-1] * len(after)])
    return ids, index


def pages(config: GemConfig) -> np.ndarray:
    """Returns random tiles (tile, row, column, colour)."""
    side = VISION["image_size"]
    tiles = 1 + 84 // side if config.image_mode == "anyres" else 1
    return np.random.default_rng(1).normal(size=(tiles, side, side, 3)).astype(np.float32)


def our_logits(config: GemConfig, params: dict, tiles: np.ndarray) -> np.ndarray:
    ids, index = conversation(config, len(tiles))
    batch = Batch(
        tokens=jnp.asarray(ids[None]),
        positions=jnp.arange(len(ids))[None],
        segments=jnp.ones((1, len(ids)), int),
        media_index=jnp.asarray(index[None]),
        targets=jnp.asarray(ids[None]),
        loss_mask=jnp.ones((1, len(ids)), bool),
        ecg=None,
        image=jnp.asarray(tiles[None]),
    )
    return np.asarray(jax.jit(Gem(config).apply)({"params": params}, batch))


def torch_logits(model, config: GemConfig, tiles: np.ndarray) -> np.ndarray:
    import torch

    ids, _ = conversation(config, len(tiles))
    pixels = torch.tensor(tiles.transpose(0, 3, 1, 2))
    anyres = {"image_sizes": torch.tensor([SIZE_WH[::-1]])} if len(tiles) > 1 else {}
    pixels = pixels[None] if anyres else pixels
    with torch.no_grad():
        return model(torch.tensor(ids[None]), pixel_values=pixels, **anyres).logits.numpy()


@pytest.mark.parametrize("names", ["as saved", "old", "new"])
@pytest.mark.parametrize("name", MODELS)
def test_a_page_gives_the_same_logits_in_torch(name, names, tmp_path):
    model = made(name, tmp_path)
    renamed(tmp_path, names)
    config, params = read_gem(tmp_path)
    assert config.image_mode == {"LLaVA-1.5": "ori", "LLaVA-1.6": "anyres"}[name]
    tiles = pages(config)
    expected = torch_logits(model, config, tiles)
    np.testing.assert_allclose(our_logits(config, params, tiles), expected, atol=1e-4)
    # The control: another page.
    assert np.abs(our_logits(config, params, tiles[:, ::-1]) - expected).max() > 0.1


@pytest.mark.parametrize("text", ["Mistral", "Qwen2"])
def test_other_language_models_give_the_same_logits_in_torch(text, tmp_path):
    model = made("LLaVA-1.5", tmp_path, text)
    config, params = read_gem(tmp_path)
    assert config.llm.family == text.lower()
    tiles = pages(config)
    expected = torch_logits(model, config, tiles)
    np.testing.assert_allclose(our_logits(config, params, tiles), expected, atol=1e-4)


def test_the_control_exchanged_layers_of_the_projector_are_seen(tmp_path):
    model = made("LLaVA-1.5", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    other = {"linear_1": "linear_2", "linear_2": "linear_1"}
    swapped = {
        next((key.replace(a, b) for a, b in other.items() if a in key), key): value
        for key, value in tensors.items()
    }
    save_file(swapped, tmp_path / "model.safetensors")
    config, params = read_gem(tmp_path)
    tiles = pages(config)
    difference = our_logits(config, params, tiles) - torch_logits(model, config, tiles)
    assert np.abs(difference).max() > 0.1


def processor(kind: str):
    """Returns one of transformers' classes that read a page with Pillow."""
    module = pytest.importorskip(f"transformers.models.{kind}.image_processing_pil_{kind}")
    name = {"llava": "LlavaImageProcessorPil", "llava_next": "LlavaNextImageProcessorPil"}[kind]
    return getattr(module, name)


@pytest.mark.parametrize("size_wh", [(70, 40), (40, 90), (170, 40), (29, 28)])
def test_a_page_becomes_the_pixels_of_transformers_own_processors(size_wh, tmp_path):
    small = np.random.default_rng(2).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    page = Image.fromarray(small).resize(size_wh, Image.Resampling.BICUBIC)
    side = VISION["image_size"]
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    vision = {"vision_config": {**PUBLIC_VISION, "image_size": side}}
    for do_pad in (False, True):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_pad": do_pad}))
        theirs = processor("llava")(**sizes, do_pad=do_pad)(page, return_tensors="np")
        ours = image_tiles(page, described(tmp_path, PUBLIC_15 | vision))
        np.testing.assert_array_equal(ours, theirs["pixel_values"].transpose(0, 2, 3, 1))
    tiled = PUBLIC_16 | vision | {"image_grid_pinpoints": PINPOINTS}
    theirs = processor("llava_next")(**sizes, image_grid_pinpoints=PINPOINTS)
    expected = theirs(page, return_tensors="np")["pixel_values"][0].transpose(0, 2, 3, 1)
    ours = image_tiles(page, described(tmp_path, tiled))
    np.testing.assert_array_equal(ours, expected)


# Configs that leave the defaults of transformers out.


def described(folder: Path, values: dict) -> GemConfig:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    return read_transformers(folder).config


def num_parameters(config: GemConfig) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_params(config)))


def test_the_public_llava_15_has_its_official_sizes(tmp_path):
    config = described(tmp_path, PUBLIC_15)
    llm, vision = config.llm, config.vision
    assert (llm.hidden_dim, llm.num_layers, llm.num_heads, llm.num_kv_heads) == (4096, 32, 32, 32)
    assert (llm.mlp_dim, llm.vocab_size, llm.norm_eps, llm.rope_theta) == (11008, 32064, 1e-5, 1e4)
    assert vision is not None and dataclasses.replace(vision, select_layer=-2) == vision
    assert (vision.num_tokens, vision.num_layers, vision.activation) == (576, 24, "quick_gelu")
    assert (config.bos_token_id, config.eos_token_ids, config.pad_token_id) == (1, (2,), 32001)
    assert (config.max_length, config.template, config.image_mode) == (4096, "vicuna_v1", "ori")
    assert not config.image_newline
    # LLaVA-1.6-Vicuna-7B without its newline, and with 64 rows more in both tables.
    assert num_parameters(config) == 7_062_906_880 - 4096 + 2 * 64 * 4096


def test_the_public_llava_16_mistral_has_its_official_sizes(tmp_path):
    config = described(tmp_path, PUBLIC_16)
    llm = config.llm
    assert (llm.family, llm.num_kv_heads, llm.mlp_dim, llm.head_dim) == ("mistral", 8, 14336, 128)
    assert (llm.rope_theta, llm.sliding_window, config.max_length) == (1e6, None, 32768)
    assert (config.image_mode, config.patch_merge) == ("anyres", "spatial_unpad")
    assert (config.image_newline, config.template) == (True, "mistral_instruct")
    assert config.grid_pinpoints == ((672, 336), (336, 672), (672, 672), (336, 1008), (1008, 336))


def test_what_a_file_beside_the_config_says_counts(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 5], "bos_token_id": 1}')
    (tmp_path / "preprocessor_config.json").write_text('{"do_pad": true}')
    config = described(tmp_path, PUBLIC_15)
    assert (config.eos_token_ids, config.image_mode) == ((2, 5), "pad")
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text('{"image_processor": {"do_pad": true}}')
    assert described(tmp_path, PUBLIC_15).image_mode == "pad"
    (tmp_path / "processor_config.json").write_text('{"image_processor": {"do_pad": false}}')
    assert described(tmp_path, PUBLIC_15).image_mode == "ori"


REFUSED = {
    "multimodal_projector_bias": (False, "multimodal_projector_bias: got False, expected True"),
    "projector_hidden_act": ("relu", "projector_hidden_act: got 'relu', expected 'gelu'"),
    "vision_feature_layer": (
        [-2, -5],
        r"vision_feature_layer: got \[-2, -5\], expected a whole number",
    ),
    "vision_feature_select_strategy": ("full", "expected 'default'"),
    "image_grid_pinpoints": ([[336, 672]], "image_grid_pinpoints: unknown key"),
    "adapter": (1, "adapter: unknown key"),
    "vision_config": ({"model_type": "siglip_vision_model"}, "vision_config.model_type: got 'sig"),
    "text_config": ({"model_type": "gemma"}, "text_config.model_type: got 'gemma', expected llama"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_not_implemented_is_refused_by_name(key, tmp_path):
    given, said = REFUSED[key]
    with pytest.raises(WeightsError, match=said):
        described(tmp_path, PUBLIC_15 | {key: given})


def test_what_has_no_known_default_is_refused_by_name(tmp_path):
    values = PUBLIC_15 | {"text_config": {"model_type": "qwen2"}, "pad_token_id": None}
    with pytest.raises(WeightsError, match="eos_token_id: got none, expected at least one"):
        described(tmp_path, values)


# Names, without torch: the official golden's tensors as transformers would call them.


def golden(folder: Path, names: str = "old") -> dict[str, np.ndarray]:
    """Writes an official golden, without its ECG encoder, as a LLaVA-1.6 of transformers."""
    source = GOLDENS / "gem_anyres_tiny"
    config = read_official(source, None, True).config
    assert config.vision is not None
    folder.mkdir(exist_ok=True)
    text, values = config.llm, json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(
            PUBLIC_16
            | {
                "image_grid_pinpoints": [list(pair[::-1]) for pair in config.grid_pinpoints],
                "pad_token_id": values["pad_token_id"],
                "text_config": {
                    "model_type": "llama",
                    "hidden_size": text.hidden_dim,
                    "vocab_size": text.vocab_size,
                    **{key: values[key] for key in TEXT if key in values},
                },
                "vision_config": json.loads((source / "clip_vision/config.json").read_text()),
            }
        )
    )
    official = load_file(source / "model.safetensors")
    tensors = {key: value for key, value in official.items() if "ecg_" not in key}
    save_file(
        {transformers_name(key, names): value for key, value in tensors.items()},
        folder / "model.safetensors",
    )
    for path in source.glob("*token*"):
        shutil.copyfile(path, folder / path.name)
    return tensors


def transformers_name(name: str, names: str) -> str:
    for official, theirs in {
        "model.vision_tower.vision_tower.vision_model.": "vision_tower.",
        "model.mm_projector.0.": "multi_modal_projector.linear_1.",
        "model.mm_projector.2.": "multi_modal_projector.linear_2.",
        "model.image_newline": "image_newline",
        "lm_head.": "language_model.lm_head.",
        "model.": "language_model.model.",
    }.items():
        if name.startswith(official):
            return release(theirs + name.removeprefix(official), names)
    raise AssertionError(name)


def gem_jax(*args) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "gem_jax.cli", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command_line_brings_it_to_the_official_names(tmp_path):
    official = golden(tmp_path / "llava-hf")
    done = gem_jax("import", tmp_path / "llava-hf", tmp_path / "ours")
    assert done.returncode == 0, done.stderr
    source = json.loads((tmp_path / "ours" / "config.json").read_text())["source"]
    assert (source["layout"], source["name"]) == ("transformers", "llava-hf")
    assert source["config"] == json.loads((tmp_path / "llava-hf" / "config.json").read_text())
    done = gem_jax("export", tmp_path / "ours", tmp_path / "official")
    assert done.returncode == 0, done.stderr
    exported = open_folder(tmp_path / "official")
    assert exported.entries.keys() == official.keys()
    assert all(exported.read(key).tobytes() == official[key].tobytes() for key in official)
    values = json.loads((tmp_path / "official" / "config.json").read_text())
    assert values["architectures"] == ["LlavaLlamaForCausalLM"]
    assert values["image_aspect_ratio"] == "anyres"


def test_a_missing_and_an_unknown_tensor_go_by_the_folders_own_names(tmp_path):
    golden(tmp_path, "new")
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.vision_tower.vision_model.head.weight"] = tensors.pop("model.image_newline")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError) as refused:
        read_gem(tmp_path)
    assert "1 tensor is missing: image_newline" in str(refused.value)
    assert "1 unknown tensor: model.vision_tower.vision_model.head.weight" in str(refused.value)


def test_a_tied_head_may_be_stored_and_must_be_the_table(tmp_path):
    golden(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["text_config"]["tie_word_embeddings"] = True
    (tmp_path / "config.json").write_text(json.dumps(values))
    tensors = load_file(tmp_path / "model.safetensors")
    head, table = "language_model.lm_head.weight", "language_model.model.embed_tokens.weight"
    with pytest.raises(WeightsError, match=f"1 unknown tensor: {head}"):
        read_gem(tmp_path)
    save_file(tensors | {head: tensors[table]}, tmp_path / "model.safetensors")
    config, params = read_gem(tmp_path)
    assert config.llm.tie_embeddings
    assert "lm_head" not in params["llm"]


def test_an_image_encoder_from_elsewhere_is_refused(tmp_path):
    golden(tmp_path)
    with pytest.raises(WeightsError, match=r"--vision: got .*, expected none"):
        read_gem(tmp_path, GOLDENS / "clip_full")


# Its tokenizer has `<image>` and `<pad>` behind the vocabulary; the table has rows beyond them.


def sentencepiece_tokenizer(folder: Path) -> Tokenizer:
    shutil.copytree(GOLDENS / "tokenizer_llama", folder)
    plain = load_tokenizer(folder).num_tokens
    (folder / "added_tokens.json").write_text(json.dumps({"<image>": plain, "<pad>": plain + 1}))
    return load_tokenizer(folder)


def byte_tokenizer(folder: Path) -> Tokenizer:
    save_tokenizer(train_tokenizer(["An ECG and its page."], 300), folder, 64)
    inner = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    inner.add_special_tokens(["<image>", "<pad>"])
    inner.save(str(folder / "tokenizer.json"))
    return load_tokenizer(folder)


@pytest.mark.parametrize("made_in", [sentencepiece_tokenizer, byte_tokenizer])
def test_the_added_tokens_are_neither_read_nor_learnt_nor_said(made_in, tmp_path):
    tokenizer = made_in(tmp_path / "tokenizer")
    image = tokenizer.token_id("<image>")
    assert image == tokenizer.num_tokens - 2 == tokenizer.num_sayable
    turns = [("<image>\nWhat is the rate?", "72 per minute.")]
    encoded = encode(tokenizer, "vicuna_v1", turns)
    assert (encoded.ids == IMAGE_TOKEN).sum() == encoded.num_placeholders == 1
    assert encoded.ids.max() < image
    assert encoded.labels.max() < image
    with pytest.raises(TokenError, match="got <image> in an answer"):
        encode(tokenizer, "vicuna_v1", [("<image>\nWhat?", "<image>")])
    # The control: without our reading of `<image>`, the tokenizer's would stand there.
    assert image in tokenizer.encode(turns[0][0]).ids


def test_a_tokenizer_that_ends_in_what_is_said_is_whole():
    tokenizer = load_tokenizer(GOLDENS / "gem_qwen_tiny")
    assert tokenizer.num_sayable == tokenizer.num_tokens


def test_an_ecg_encoder_is_added_as_to_an_official_folder(tmp_path):
    golden(tmp_path)
    encoder = GOLDENS / "gem_llama_tiny" / "ecg_tower" / "cpt_wfep_epoch_20.pt"
    config, params = read_with(tmp_path, Added(ecg_encoder=encoder))
    assert config.ecg is not None
    assert "ecg_tower" in params
    assert "ecg_projector" not in params


# Layouts that are none of those known.


def test_an_unknown_architecture_is_told_with_its_tensors_and_the_known_layouts(tmp_path):
    golden(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"architectures": ["PaliGemma"]}))
    with pytest.raises(WeightsError) as refused:
        read_gem(tmp_path)
    for said in (
        r"unknown layout: got architectures ['PaliGemma'] and tensors image_newline, language_mod",
        "official (LlavaLlamaForCausalLM, ",
        "language model (LlamaForCausalLM, ",
        "transformers (LlavaForConditionalGeneration, LlavaNextForConditionalGeneration)",
        "CLIP (CLIPModel, CLIPVisionModel)",
    ):
        assert said in str(refused.value)


def test_names_that_are_not_the_configs_are_told_with_the_known_layouts(tmp_path):
    golden(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    renamed = {f"base_model.{key}": value for key, value in tensors.items()}
    save_file(renamed, tmp_path / "model.safetensors")
    said = "unknown layout: got the config of transformers and tensors base_model.image_newline"
    with pytest.raises(WeightsError, match=said):
        read_gem(tmp_path)
