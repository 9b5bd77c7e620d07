"""FLOPs by the house's one formula, against the products counted one by one."""

from __future__ import annotations

import dataclasses

import pytest

import tiny
from gem_jax import flops
from gem_jax.config import LoraConfig
from gem_jax.start import param_shapes

LLM = tiny.MODEL.llm


def products(llm) -> int:
    """Weights of the matrix products of a token, written out."""
    width, kv = llm.num_heads * llm.head_dim, llm.num_kv_heads * llm.head_dim
    attention = 2 * llm.hidden_dim * width + 2 * llm.hidden_dim * kv
    mlp = 3 * llm.hidden_dim * llm.mlp_dim
    return llm.num_layers * (attention + mlp) + llm.hidden_dim * llm.vocab_size


def counted(config) -> int:
    return flops.llm_matmul_weights(param_shapes(config))


def passes(config) -> float:
    return flops.passes(config, param_shapes(config))


def with_llm(**fields):
    model = dataclasses.replace(tiny.MODEL, llm=dataclasses.replace(LLM, **fields))
    return dataclasses.replace(tiny.instruct(), model=model)


@pytest.mark.parametrize("tied", [True, False])
def test_the_output_head_counts_and_the_input_table_does_not(tied):
    assert counted(with_llm(tie_embeddings=tied)) == products(LLM)


def test_biases_and_norms_multiply_nothing():
    assert counted(with_llm(family="qwen2")) == products(LLM)


def test_factors_beside_a_frozen_base_are_not_counted_and_the_base_takes_no_gradient():
    recipe = tiny.changed(tiny.instruct(), train={"trainable": ("mm_projector",)})
    adapted = dataclasses.replace(recipe, lora=LoraConfig(rank=2, alpha=4.0))
    assert counted(adapted) == products(LLM)
    assert passes(adapted) == passes(recipe) == flops.FROZEN == 4
    assert passes(tiny.instruct()) == flops.TRAINED == 6


def test_of_a_model_that_moves_in_part_the_moving_weights_take_their_gradient():
    every = ("llm/layers", "llm/embed_tokens", "llm/norm", "llm/lm_head")
    for trainable, moving in ((every, products(LLM)), (every[3:], LLM.hidden_dim * LLM.vocab_size)):
        recipe = tiny.changed(with_llm(tie_embeddings=False), train={"trainable": trainable})
        assert passes(recipe) == pytest.approx(4 + 2 * moving / products(LLM))


def test_a_step_is_k_n_and_k_t_d_l_a_token():
    # Two rows of 3 and 5 tokens: 8 tokens, 9 + 25 pairs.
    got = flops.step_flops(tiny.MODEL, 1000, tokens=8, squared=34, k=6)
    assert got == 6 * 1000 * 8 + 6 * 34 * LLM.num_heads * LLM.head_dim * LLM.num_layers


def test_causal_attention_is_counted_once_not_twice():
    """A query sees (T + 1) / 2 keys on the average: two products of 2 · d FLOPs each, forward."""
    length, width = 1000, LLM.num_heads * LLM.head_dim
    seen = sum(range(1, length + 1))
    forward = LLM.num_layers * seen * 2 * 2 * width
    got = flops.step_flops(tiny.MODEL, 0, tokens=length, squared=length**2, k=flops.FORWARD)
    assert got == pytest.approx(forward, rel=0.01)
