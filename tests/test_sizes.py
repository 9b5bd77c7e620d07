"""The official sizes, by shape alone: every parameter counted, every tensor's name mapped."""

import dataclasses
import json
import math
import re
from pathlib import Path

import jax
import pytest

from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.models.gem import GemConfig, abstract_params
from gem_jax.models.llm import LlmConfig
from gem_jax.weights.names import gem_slots

INDEX = Path(__file__).parent / "goldens" / "gem_llama_tiny" / "model.safetensors.index.json"
VICUNA_7B = LlmConfig(32000, 4096, 32, 32, 32, 128, 11008, 10000.0, 1e-5)
VICUNA_13B = LlmConfig(32000, 5120, 40, 40, 40, 128, 13824, 10000.0, 1e-5)
QWEN_7B = LlmConfig(152064, 3584, 28, 28, 4, 128, 18944, 1e6, 1e-6, family="qwen2")


def llava(llm: LlmConfig) -> GemConfig:
    """LLaVA-1.6: no ECG encoder, tiles, a newline."""
    return GemConfig(
        *(None, ClipConfig.vit_l_14_336(), llm, "identity", "mlp2x_gelu", 1, (2,), 0),
        image_mode="anyres",
        max_length=4096,
        patch_merge="spatial_unpad",
        grid_pinpoints=((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)),
        image_newline=True,
    )


def gem(llm: LlmConfig) -> GemConfig:
    return dataclasses.replace(
        llava(llm), ecg=EcgConfig.coca_vit_b_32(), ecg_projector="linear", image_newline=False,
        patch_merge="flat",
    )  # fmt: skip


def count(tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(llava(VICUNA_7B), 7_062_906_880), (llava(VICUNA_13B), 13_350_844_416)],
    ids=["LLaVA-1.6-Vicuna-7B", "LLaVA-1.6-Vicuna-13B"],
)
def test_llava_has_the_official_number_of_parameters(config, parameters):
    assert count(abstract_params(config)) == parameters


def test_gem_7b_adds_the_ecg_encoder_and_its_projector():
    shapes = abstract_params(gem(VICUNA_7B))
    assert count(shapes["ecg_tower"]) == 85_989_888
    assert count(shapes["ecg_projector"]) == 787_456
    llava_7b = count(abstract_params(llava(VICUNA_7B)))
    assert count(shapes) == llava_7b - 4096 + 85_989_888 + 787_456


LAYERS = {
    r"model\.layers\.": lambda config: config.llm.num_layers,
    r"model\.ecg_tower\..*resblocks\.": lambda config: config.ecg.num_layers,
    r"model\.vision_tower\..*layers\.": lambda config: config.vision.num_layers,
}


def continued(name: str, config: GemConfig) -> list[str]:
    """Returns a golden tensor's name for every layer of `config`; only layer 0's is continued."""
    for pattern, layers in LAYERS.items():
        found = re.match(rf"({pattern})(\d+)\.(.*)", name)
        if found:
            before, layer, after = found.groups()
            numbers = range(layers(config)) if layer == "0" else []
            return [f"{before}{number}.{after}" for number in numbers]
    return [name]


def test_every_official_name_is_mapped_to_a_place_of_its_size():
    config = gem(VICUNA_7B)
    golden = json.loads(INDEX.read_text())["weight_map"]
    slots = gem_slots(config)
    assert set(slots) == {each for name in golden for each in continued(name, config)}
    shapes = {
        "/".join(key.key for key in keys): leaf.shape
        for keys, leaf in jax.tree.leaves_with_path(abstract_params(config))
    }
    places = {(slot.path, slot.layer) for slot in slots.values()}
    assert len(places) == len(slots)
    stacked = {path: shapes[path][0] for path, layer in places if layer is not None}
    assert len(slots) == sum(stacked.get(path, 1) for path in shapes)


def test_qwen_alone_has_biases_and_tied_models_no_head():
    plain = dataclasses.replace(gem(QWEN_7B), eos_token_ids=(151645,))
    names = set(gem_slots(plain))
    assert "model.layers.27.self_attn.q_proj.bias" in names
    assert "model.layers.27.self_attn.o_proj.bias" not in names
    tied = dataclasses.replace(plain, llm=dataclasses.replace(QWEN_7B, tie_embeddings=True))
    assert names - set(gem_slots(tied)) == {"lm_head.weight"}
