"""The same weights in torch: import → our logits → export → torch's logits again, all equal."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gem_jax.models.clip import ClipEncoder
from gem_jax.models.gem import Batch, Gem, GemConfig
from gem_jax.weights.hf_export import config_json
from gem_jax.weights.read import read_gem
from gem_jax.weights.write import write_gem

torch = pytest.importorskip("torch", reason="torch is missing: pip install 'gem_jax[parity]'")
transformers = pytest.importorskip("transformers")

GOLDEN = Path(__file__).parent / "goldens" / "gem_llama_tiny"
SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
MODELS = {
    "LLaMA": ("Llama", {}),
    "LLaMA, many heads, tied": ("Llama", {"num_key_value_heads": 6, "tie_word_embeddings": True}),
    "LLaMA, heads of their own width": ("Llama", {"head_dim": 16}),
    "LLaMA 3": ("Llama", {"rope_parameters": LLAMA_3}),
    "LLaMA, linear": ("Llama", {"rope_parameters": LINEAR}),
    "Mistral": ("Mistral", {"sliding_window": None}),
    "Mistral, window": ("Mistral", {"sliding_window": 7}),
    "Qwen2": ("Qwen2", {"rms_norm_eps": 1e-5}),
    "Qwen2, many heads, tied": ("Qwen2", {"num_key_value_heads": 6, "tie_word_embeddings": True}),
}
IDS = np.random.default_rng(0).integers(3, 97, (2, 40))


def randomised(model):
    """Returns the model with all weights random: norms of one and biases of zero hide much."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.15 + ("norm" in name and name.endswith("weight")))
    return model.eval()


def made(name: str, folder: Path):
    family, changes = MODELS[name]
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **changes})
    config._attn_implementation = "eager"
    model = randomised(getattr(transformers, f"{family}ForCausalLM")(config))
    model.save_pretrained(folder)
    return model


def torch_logits(model) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits.numpy()


def our_logits(config: GemConfig, params: dict) -> np.ndarray:
    rows, length = IDS.shape
    batch = Batch(
        tokens=jnp.asarray(IDS),
        positions=jnp.tile(jnp.arange(length), (rows, 1)),
        segments=jnp.ones((rows, length), int),
        media_index=jnp.full((rows, length), -1),
        targets=jnp.asarray(IDS),
        loss_mask=jnp.ones((rows, length), bool),
        ecg=None,
        image=None,
    )
    return np.asarray(jax.jit(Gem(config).apply)({"params": params}, batch))


@pytest.mark.parametrize("name", MODELS)
def test_a_language_model_is_the_same_in_torch_before_and_after(name, tmp_path):
    model = made(name, tmp_path / "theirs")
    expected = torch_logits(model)
    config, params = read_gem(tmp_path / "theirs")
    np.testing.assert_allclose(our_logits(config, params), expected, atol=1e-4)
    values = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert config_json(config, {"layout": "official", "config": values}) == values
    (tmp_path / "tokenizer").mkdir()
    write_gem(tmp_path / "ours", config, params, tmp_path / "tokenizer")
    again = type(model).from_pretrained(tmp_path / "ours", attn_implementation="eager")
    np.testing.assert_allclose(torch_logits(again.eval()), expected, atol=1e-6)


def test_the_control_a_permuted_head_is_seen(tmp_path):
    """Rotary halves interleaved, as some exports do: it runs, and the text is garbage."""
    model = made("LLaMA", tmp_path / "theirs")
    config, params = read_gem(tmp_path / "theirs")
    kernel = params["llm"]["layers"]["self_attn"]["q_proj"]["kernel"]
    heads = kernel.reshape(*kernel.shape[:2], 6, 2, 4).swapaxes(3, 4)
    params["llm"]["layers"]["self_attn"]["q_proj"]["kernel"] = heads.reshape(kernel.shape)
    assert np.abs(our_logits(config, params) - torch_logits(model)).max() > 0.1


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_an_image_encoder_is_the_same_in_torch_before_and_after(activation, tmp_path):
    sizes = transformers.CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=42,
        patch_size=14,
        hidden_act=activation,
    )
    model = randomised(transformers.CLIPVisionModel(sizes))
    model.save_pretrained(tmp_path / "theirs")
    pixels = np.random.default_rng(1).normal(size=(2, 3, 42, 42)).astype(np.float32)

    def theirs(encoder) -> np.ndarray:
        with torch.no_grad():
            hidden = encoder(torch.tensor(pixels), output_hidden_states=True).hidden_states
        return hidden[-2][:, 1:].numpy()

    expected = theirs(model)
    config, params = read_gem(GOLDEN, tmp_path / "theirs")
    assert config.vision is not None
    image = jnp.asarray(pixels.transpose(0, 2, 3, 1))
    ours, _ = jax.jit(ClipEncoder(config.vision).apply)({"params": params["vision_tower"]}, image)
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    (tmp_path / "tokenizer").mkdir()
    write_gem(tmp_path / "ours", config, params, tmp_path / "tokenizer")
    again = transformers.CLIPVisionModel.from_pretrained(tmp_path / "ours" / "clip_vision")
    np.testing.assert_allclose(theirs(again.eval()), expected, atol=1e-6)
