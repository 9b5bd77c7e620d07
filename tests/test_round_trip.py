"""Export → import → export of random models: every tensor byte for byte, and the config."""

import dataclasses
import json
import tempfile
from pathlib import Path

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.models.gem import GemConfig, abstract_params
from gem_jax.models.llm import LlmConfig
from gem_jax.tokenizer import save_tokenizer, train_tokenizer
from gem_jax.weights import load, save
from gem_jax.weights.files import open_file
from gem_jax.weights.write import write_gem

TOKENIZER = train_tokenizer(["Rate 72 bpm."], 300)
PROJECTORS = ("linear", "mlp2x_gelu", "mlp3x_gelu", "identity")
TEMPLATES = {"llama": "vicuna_v1", "mistral": "vicuna_v1", "qwen2": "qwen_2"}
# float16 weights are computed with in float32.
COMPUTED = {"float32": "float32", "float16": "float32", "bfloat16": "bfloat16"}


def typed(config, dtype: str):
    return dataclasses.replace(config, dtype=COMPUTED[dtype], param_dtype=dtype)


def llm_of(draw, hidden_dim: int) -> LlmConfig:
    family = draw(st.sampled_from(sorted(TEMPLATES)))
    config = LlmConfig(
        vocab_size=draw(st.integers(300, 320)),
        hidden_dim=hidden_dim,
        num_layers=draw(st.integers(1, 3)),
        num_heads=4,
        num_kv_heads=draw(st.sampled_from([1, 2, 4])),
        head_dim=hidden_dim // 4,
        mlp_dim=draw(st.integers(5, 20)),
        rope_theta=draw(st.sampled_from([10_000.0, 1e6])),
        norm_eps=draw(st.sampled_from([1e-5, 1e-6])),
        family=family,
        tie_embeddings=draw(st.booleans()),
        sliding_window=draw(st.sampled_from([None, 6])) if family == "mistral" else None,
    )
    return typed(config, draw(st.sampled_from(sorted(COMPUTED))))


def model_of(draw) -> GemConfig:
    """A GEM, a LLaVA or a language model alone; an identity projector needs equal widths."""
    towers = draw(st.sampled_from(["both", "both", "image", "none"]))
    into_image, into_llm = draw(st.sampled_from(PROJECTORS)), draw(st.sampled_from(PROJECTORS))
    llm = llm_of(draw, 16 if into_llm == "identity" else 24)
    gelu = draw(st.sampled_from(["gelu", "quick_gelu"]))
    vision = typed(ClipConfig(8, 4, 16, draw(st.integers(2, 3)), 2, 20, gelu), llm.param_dtype)
    width = 16 if into_image == "identity" else 12
    tower = draw(st.sampled_from(sorted(COMPUTED)))
    ecg = typed(EcgConfig(40, 12, 10, width, draw(st.integers(1, 2)), 4, 2.0, 6), tower)
    return GemConfig(
        ecg=ecg if towers == "both" else None,
        vision=None if towers == "none" else vision,
        llm=llm,
        ecg_projector=into_image if towers == "both" else "identity",
        mm_projector="identity" if towers == "none" else into_llm,
        bos_token_id=1,
        eos_token_ids=draw(st.sampled_from([(2,), (2, 7)])),
        pad_token_id=draw(st.sampled_from([None, 0])),
        image_mode="ori" if towers == "none" else draw(st.sampled_from(["ori", "pad"])),
        max_length=60,
        template=TEMPLATES[llm.family],
        image_newline=towers != "none" and draw(st.booleans()),
    )


def tensors(folder: Path) -> dict[str, tuple]:
    """Returns (dtype, shape, bytes) of every tensor of every file below a folder."""
    found = {}
    for file in sorted([*folder.rglob("*.safetensors"), *folder.rglob("*.pt")]):
        shards = open_file(file)
        for name, entry in shards.entries.items():
            value = entry.dtype, entry.shape, shards.read(name).tobytes()
            found[f"{file.relative_to(folder)}: {name}"] = value
    return found


@settings(max_examples=8, derandomize=True)
@given(st.data())
def test_a_random_model_comes_back_byte_for_byte(data):
    config = model_of(data.draw)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), abstract_params(config)
    )
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        save_tokenizer(TOKENIZER, folder / "tokenizer", config.max_length)
        write_gem(folder / "first", config, params, folder / "tokenizer")
        load.main(folder / "first", folder / "imported")
        save.main(folder / "imported", folder / "second")
        first, second = tensors(folder / "first"), tensors(folder / "second")
        assert len(first) >= len(jax.tree.leaves(params))
        assert first == second
        assert any("ecg_tower/" in file for file in first) == bool(config.ecg)
        for name in ("config.json", "generation_config.json", "tokenizer.json"):
            texts = [json.loads((folder / way / name).read_text()) for way in ("first", "second")]
            assert texts[0] == texts[1]
