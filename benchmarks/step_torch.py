"""The peer's side of benchmarks/train_step.py: transformers' LLaMA under PyTorch, same weights."""

import time
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks import step_shapes
from gem_jax.config import Config
from gem_jax.weights.names import gem_slots


def built(config: Config) -> LlamaForCausalLM:
    """Returns the recipe's language model with the weights that our side has."""
    llm = config.model.llm
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=llm.vocab_size,
            hidden_size=llm.hidden_dim,
            intermediate_size=llm.mlp_dim,
            num_hidden_layers=llm.num_layers,
            num_attention_heads=llm.num_heads,
            num_key_value_heads=llm.num_kv_heads,
            max_position_embeddings=2 * config.model.max_length,
            rms_norm_eps=llm.norm_eps,
            rope_theta=llm.rope_theta,
            attn_implementation="sdpa",
        )
    )
    drawn = step_shapes.weights(config)
    state = {}
    for name, slot in gem_slots(config.model).items():
        leaf = drawn[slot.path] if slot.layer is None else drawn[slot.path][slot.layer]
        turned = leaf if slot.axes is None else np.ascontiguousarray(leaf.transpose(slot.axes))
        state[name] = torch.from_numpy(turned)
    model.load_state_dict(state)
    return model


def trained(shape: step_shapes.Shape) -> dict[str, Any]:
    """Returns the first loss and tokens/s of AdamW steps with clipping, as `Trainer` takes them."""
    model = built(step_shapes.recipe(shape)).train()
    adamw = torch.optim.AdamW(
        model.parameters(), step_shapes.RATE, (0.9, 0.999), 1e-8, weight_decay=0.0, fused=True
    )
    rows = torch.from_numpy(step_shapes.tokens(shape)).long()
    losses = []
    for number in range(step_shapes.WARM_UP + shape.steps):
        if number == step_shapes.WARM_UP:
            began = time.perf_counter()
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits.float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()
        losses.append(loss.item())
    seconds = (time.perf_counter() - began) / shape.steps
    return {"loss": losses[0], "tokens_per_s": shape.rows * shape.length / seconds}


def decoded(shape: step_shapes.Shape) -> dict[str, Any]:
    """Returns new tokens/s of `generate` with its cache, greedy, the prompts read included."""
    model = built(step_shapes.recipe(shape)).eval()
    prompts = torch.from_numpy(step_shapes.tokens(shape)[:, : shape.length // 2]).long()
    ask: dict[str, Any] = {
        "attention_mask": torch.ones_like(prompts),
        "max_new_tokens": shape.new_tokens,
        "do_sample": False,
        "use_cache": True,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    with torch.inference_mode():
        model.generate(prompts, **ask)
        began = time.perf_counter()
        new = model.generate(prompts, **ask)[:, prompts.shape[1] :]
        seconds = time.perf_counter() - began
    return {"tokens_per_s": new.numel() / seconds, "first": new[:, 0].tolist()}
