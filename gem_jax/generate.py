"""Answers from the model: one prefill of the prompts, then a token a step under `lax.while_loop`.

Prompts are padded on the right to one length; new tokens are written behind the padding, which the
mask hides, so rows of different lengths share a batch and none changes another's answer. Axes:
B batch, T prompt tokens, S cache slots, M new tokens, V vocabulary.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gem_jax.models.gem import Batch, Gem, GemConfig
from gem_jax.models.layers import causal_mask
from gem_jax.models.llm import empty_cache


@dataclass(frozen=True)
class Answer:
    """One row's new tokens without the end token, and why it ended: `eos` or `length`."""

    tokens: tuple[int, ...]
    reason: str


def generate(
    config: GemConfig, params: dict, batch: Batch, *, max_new_tokens: int, num_tokens: int
) -> list[Answer]:
    """Returns the greedy answers to the prompts of `batch`.

    Args:
        config: The model.
        params: All of its parameters.
        batch: Prompts that end at the assistant's cue; targets and loss mask are not read.
        max_new_tokens: Where an answer without an end is cut.
        num_tokens: The tokenizer's size: rows of the embedding table beyond it are never chosen.
    """
    new = np.asarray(_greedy(config, params, batch, max_new_tokens, num_tokens))
    return [_answer(row, config.eos_token_id) for row in new]


def _answer(row: np.ndarray, eos: int) -> Answer:
    ends = np.flatnonzero(row == eos)
    if len(ends):
        return Answer(tuple(row[: ends[0]].tolist()), "eos")
    return Answer(tuple(row.tolist()), "length")


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _greedy(
    config: GemConfig, params: dict, batch: Batch, max_new_tokens: int, num_tokens: int
) -> Int[Array, "B M"]:
    model, variables = Gem(config), {"params": params}
    rows, prompt = batch.tokens.shape
    slots = prompt + max_new_tokens
    lengths = batch.segments.sum(axis=1)

    def choose(logits: Float[Array, "B V"]) -> Int[Array, "B"]:
        known = jnp.arange(logits.shape[-1]) < num_tokens
        return jnp.where(known, logits, -jnp.inf).argmax(axis=-1).astype(jnp.int32)

    # Prompt slots see the prompt; the slots of new tokens are empty until they are written.
    mask = jnp.pad(causal_mask(batch.segments), ((0, 0), (0, 0), (0, 0), (0, max_new_tokens)))
    cache = empty_cache(config.llm, rows, slots)
    prefilled: Any = model.apply(variables, batch, mask, cache, method="prefill")
    logits, cache = prefilled
    last = jnp.take_along_axis(logits, (lengths - 1)[:, None, None], axis=1)[:, 0]
    readable = jnp.pad(batch.segments > 0, ((0, 0), (0, max_new_tokens)))

    def going_on(carry):
        count, _, _, done, _ = carry
        return (count < max_new_tokens) & ~done.all()

    def step(carry):
        count, cache, token, done, new = carry
        new = new.at[:, count].set(jnp.where(done, config.eos_token_id, token))
        done |= token == config.eos_token_id
        seen = readable | ((jnp.arange(slots) >= prompt) & (jnp.arange(slots) <= prompt + count))
        decoded: Any = model.apply(
            variables,
            token[:, None],
            (lengths + count)[:, None],
            seen[:, None, None],
            cache,
            prompt + count,
            method="decode",
        )
        logits, cache = decoded
        return count + 1, cache, choose(logits[:, 0]), done, new

    new = jnp.full((rows, max_new_tokens), config.eos_token_id, jnp.int32)
    start = (0, cache, choose(last), jnp.zeros(rows, bool), new)
    return jax.lax.while_loop(going_on, step, start)[-1]
