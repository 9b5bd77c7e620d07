"""Configs of published checkpoints are read; what would compute otherwise is refused by its key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.models.layers import RopeScaling
from gem_jax.weights.files import WeightsError
from gem_jax.weights.hf_config import read_official, with_ecg_encoder
from gem_jax.weights.tower_config import read_ecg, read_vision
from gem_jax.weights.tower_export import write_vision
from published import LANGUAGE_MODELS, LLAMA_3_ROPE, LLAVA_MODELS, MISTRAL, QWEN, SMOL, VICUNA

GOLDENS = Path(__file__).parent / "goldens"


def read(folder: Path, values: dict, generation: dict | None = None):
    (folder / "config.json").write_text(json.dumps(values))
    if generation:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return read_official(folder, None, newline=False).config


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_published_language_model_is_read(name, tmp_path):
    values = LANGUAGE_MODELS[name]
    config = read(tmp_path, values)
    llm = config.llm
    assert config.ecg is None and config.vision is None
    assert (llm.family, llm.tie_embeddings) == (
        values["model_type"],
        values["tie_word_embeddings"],
    )
    assert llm.num_kv_heads == values.get("num_key_value_heads", 4)
    given = values.get("rope_parameters", values)
    assert llm.rope_theta == given.get("rope_theta", 10000.0)
    eos = values["eos_token_id"]
    assert config.eos_token_ids == (tuple(eos) if isinstance(eos, list) else (eos,))
    templates = {"llama": "vicuna_v1", "mistral": "mistral_instruct", "qwen2": "qwen_2"}
    assert config.template == templates[llm.family]
    assert llm.sliding_window == (values["sliding_window"] if llm.family == "mistral" else None)


def test_both_spellings_of_stretched_positions_are_one(tmp_path):
    older = read(tmp_path, LANGUAGE_MODELS["meta-llama/Llama-3.2-1B"])
    newer = read(tmp_path, LANGUAGE_MODELS["Llama-3.2, written by transformers 5"])
    assert older.llm == newer.llm
    assert older.llm.rope_scaling == RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)
    linear = read(tmp_path, LANGUAGE_MODELS["lmsys/vicuna-7b-v1.5-16k"])
    assert linear.llm.rope_scaling == RopeScaling("linear", 4.0)


def test_end_tokens_of_generation_config_are_added(tmp_path):
    generation = {"do_sample": True, "eos_token_id": [151645, 151643], "pad_token_id": 151643}
    config = read(tmp_path, QWEN, generation)
    assert (config.eos_token_ids, config.pad_token_id) == ((151645, 151643), None)


@pytest.mark.parametrize(("pad", "expected"), [(-1, None), (3, 3), (VICUNA["vocab_size"], None)])
def test_a_padding_token_without_a_row_is_none(pad, expected, tmp_path):
    assert read(tmp_path, VICUNA | {"pad_token_id": pad}).pad_token_id == expected


@pytest.mark.parametrize("name", LLAVA_MODELS)
def test_a_published_llava_or_gem_is_read(name, tmp_path):
    values = LLAVA_MODELS[name]
    clip = tmp_path / "openai" / "clip-vit-large-patch14-336"
    clip.mkdir(parents=True)
    write_vision(clip, ClipConfig.vit_l_14_336())
    config = read(tmp_path, values)
    assert config.vision == ClipConfig.vit_l_14_336()
    assert config.ecg == (EcgConfig.coca_vit_b_32() if "mm_ecg_tower" in values else None)
    given = values["image_aspect_ratio"]
    assert config.image_mode == ("ori" if given in (None, "square") else given)
    unpadded = values.get("mm_patch_merge_type") == "spatial_unpad"
    assert config.image_newline == unpadded
    assert len(config.grid_pinpoints) == 5 * unpadded


def test_the_template_is_the_one_that_the_weights_were_trained_with(tmp_path):
    """LLaVA's vicuna_v1 speaks of a user, GEM's llava_v1 of a human."""
    clip = tmp_path / "openai" / "clip-vit-large-patch14-336"
    clip.mkdir(parents=True)
    write_vision(clip, ClipConfig.vit_l_14_336())
    gem = LLAVA_MODELS["LANSG/GEM"]
    assert read(tmp_path, gem).template == "llava_v1"
    assert read(tmp_path, LLAVA_MODELS["liuhaotian/llava-v1.5-7b"]).template == "vicuna_v1"
    assert read(tmp_path, gem | {"conversation_template": "v0"}).template == "v0"
    assert read_official(GOLDENS / "gem_qwen_tiny", None, False).config.template == "qwen_2"
    assert read_official(GOLDENS / "gem_llama_tiny", None, False).config.template == "llava_v1"


def test_a_llava_that_gets_an_ecg_encoder_is_asked_like_a_gem(tmp_path):
    encoder = GOLDENS / "gem_llama_tiny" / "ecg_tower" / "cpt_wfep_epoch_20.pt"
    for template, expected in (({}, "llava_v1"), ({"conversation_template": "v0"}, "v0")):
        values = LLAVA_MODELS["liuhaotian/llava-v1.6-vicuna-7b"] | template
        (tmp_path / "config.json").write_text(json.dumps(values))
        added = with_ecg_encoder(read_official(tmp_path, None, True), encoder, tmp_path)
        assert added.config.template == expected
        assert added.config.ecg is not None and added.config.ecg.width == 64


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
REFUSED = [
    (VICUNA, {"attention_bias": True}),
    (SMOL, {"mlp_bias": True}),
    (SMOL, {"rope_interleaved": True}),
    (VICUNA, {"hidden_act": "gelu"}),
    (VICUNA, {"sliding_window": 1024}),
    (VICUNA, {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    (QWEN, {"rope_scaling": YARN}),
    (QWEN, {"rope_parameters": YARN | {"rope_theta": 1e6}}),
    (SMOL, {"rope_scaling": LLAMA_3_ROPE | {"attention_factor": 2.0}}),
    (QWEN, {"layer_types": ["full_attention", "sliding_attention"]}),
    (QWEN, {"use_sliding_window": True}),
    (QWEN, {"use_mrope": True}),
    (MISTRAL, {"layer_types": ["full_attention"] * 2}),
    (MISTRAL, {"partial_rotary_factor": 0.5}),
    (VICUNA, {"quantization_config": {"quant_method": "gptq", "bits": 4}}),
    (VICUNA, {"residual_multiplier": 0.2}),
    (VICUNA, {"is_encoder_decoder": True}),
]


@pytest.mark.parametrize(("values", "change"), REFUSED)
def test_what_would_compute_otherwise_is_refused_by_its_key(values, change, tmp_path):
    read(tmp_path, values)
    (key,) = change
    with pytest.raises(WeightsError, match=key) as refused:
        read(tmp_path, values | change)
    assert "\n" not in str(refused.value)


ABSURD = [
    (VICUNA, {"vocab_size": 10**12}, "vocab_size: got 1000000000000, expected at most"),
    (QWEN, {"num_hidden_layers": 10**9}, "num_hidden_layers: got 1000000000, expected at most"),
    (MISTRAL, {"num_hidden_layers": 10**6}, "num_hidden_layers: got 1000000, expected at most"),
    (SMOL, {"head_dim": 10**12}, "head_dim: got 1000000000000, expected at most"),
    (VICUNA, {"rms_norm_eps": 10**400}, "rms_norm_eps: got 1000.*, expected a number"),
]


@pytest.mark.parametrize(("values", "change", "message"), ABSURD)
def test_sizes_that_no_model_has_are_refused_before_they_are_counted(
    values, change, message, tmp_path
):
    with pytest.raises(WeightsError, match=message) as refused:
        read(tmp_path, values | change)
    assert "\n" not in str(refused.value)


CLIP_VISION = {
    "_name_or_path": "",
    "add_cross_attention": False,
    "attention_dropout": 0.0,
    "dropout": 0.0,
    "hidden_act": "quick_gelu",
    "hidden_size": 1024,
    "image_size": 336,
    "initializer_factor": 1.0,
    "intermediate_size": 4096,
    "layer_norm_eps": 1e-05,
    "model_type": "clip_vision_model",
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 24,
    "patch_size": 14,
    "projection_dim": 768,
    "pruned_heads": {},
    "typical_p": 1.0,
}
CLIP = {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": 768}
CLIP |= {"logit_scale_init_value": 2.6592, "text_config": {}, "vision_config": CLIP_VISION}
BARE = ("hidden_size", "image_size", "intermediate_size", "num_attention_heads")
BARE += ("num_hidden_layers", "patch_size", "model_type")
CLIPS = {
    "openai/clip-vit-large-patch14-336": CLIP,
    "its vision half": CLIP_VISION | {"architectures": ["CLIPVisionModel"]},
    "only what differs from the defaults": {key: CLIP_VISION[key] for key in BARE},
}


@pytest.mark.parametrize("name", CLIPS)
def test_a_published_image_encoder_is_read(name, tmp_path):
    clip = tmp_path / "clip"
    clip.mkdir()
    (clip / "config.json").write_text(json.dumps(CLIPS[name]))
    values = LLAVA_MODELS["liuhaotian/llava-v1.5-7b"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    official = read_official(tmp_path, clip, newline=False)
    assert official.config.vision == ClipConfig.vit_l_14_336()
    assert (official.vision_dir, official.own_vision) == (clip, False)
    with pytest.raises(WeightsError, match="name it by --vision"):
        read_official(tmp_path, None, newline=False)


@pytest.mark.parametrize("change", [{"num_hidden_layers": 10**6}, {"image_size": 14 * 10**9}])
def test_an_absurd_image_encoder_is_refused(change, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CLIP_VISION | change))
    with pytest.raises(WeightsError, match=f"{next(iter(change))}: got .*, expected at most"):
        read_vision(tmp_path, -2)


@pytest.mark.parametrize(
    "change", [{"layers": 10**6}, {"width": 64 * 10**12}, {"mlp_ratio": 1e300}, {"mlp_ratio": -4.0}]
)
def test_an_absurd_ecg_encoder_is_refused(change, tmp_path):
    sizes = {"seq_length": 5000, "lead_num": 12, "layers": 12, "width": 768, "patch_size": 50}
    values = {"embed_dim": 512, "ecg_cfg": sizes | change}
    (tmp_path / "odd.json").write_text(json.dumps(values))
    with pytest.raises(WeightsError, match=f"{next(iter(change))}: got .*, expected .*at most"):
        read_ecg(tmp_path, "odd")


def test_a_projector_of_countless_layers_is_refused(tmp_path):
    values = LLAVA_MODELS["liuhaotian/llava-v1.6-vicuna-7b"]
    (tmp_path / "config.json").write_text(
        json.dumps(values | {"mm_projector_type": "mlp999999999x_gelu"})
    )
    with pytest.raises(WeightsError, match=r"mm_projector_type: .*N from 1 to 99"):
        read_official(tmp_path, None, True)
