"""The next token from its logits: the likeliest, or one drawn by temperature, top-k and top-p.

Axes: B batch, V vocabulary.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

# Below it float32 logits cannot be divided; what is meant is 0.
MIN_TEMPERATURE = 1e-5


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; temperature 0 takes the likeliest and draws nothing."""

    temperature: float = 0.0
    top_p: float = 1.0
    """Of the likeliest tokens so many that they reach this probability together."""
    top_k: int = 0
    """Only the `top_k` likeliest tokens; 0: all."""
    seed: int = 0
    """A row's draws follow from it and the position alone, whoever shares the batch."""

    def __post_init__(self):
        allowed = {
            "temperature": (
                self.temperature == 0 or MIN_TEMPERATURE <= self.temperature < math.inf,
                f"0 (greedy), or {MIN_TEMPERATURE:g} or more",
            ),
            "top_p": (0 < self.top_p <= 1, "more than 0, at most 1"),
            "top_k": (self.top_k >= 0, "0 (all) or more"),
            "seed": (0 <= self.seed < 2**32, "a number of 32 bits"),
        }
        wrong = [
            f"sampling.{field}: got {getattr(self, field)!r}, expected {expected}"
            for field, (good, expected) in allowed.items()
            if not good
        ]
        if wrong:
            raise ValueError("; ".join(wrong))


GREEDY = Sampling()


def choose(
    logits: Float[Array, "B V"],
    sampling: Sampling,
    seeds: UInt32[Array, "B"],
    positions: Int[Array, "B"],
) -> Int[Array, "B"]:
    """Returns each row's next token; a logit of -inf is never chosen.

    `seeds` are the rows' own, `sampling.seed` is not read; `positions` are the new tokens'.
    """
    if sampling.temperature == 0:
        return logits.argmax(axis=-1).astype(jnp.int32)
    order = jnp.argsort(logits, axis=-1, descending=True)
    ranked = kept(jnp.take_along_axis(logits, order, axis=-1), sampling)
    keys = jax.vmap(lambda seed, at: jax.random.fold_in(jax.random.key(seed), at))(seeds, positions)
    rank = jax.vmap(jax.random.categorical)(keys, ranked)
    return jnp.take_along_axis(order, rank[:, None], axis=-1)[:, 0].astype(jnp.int32)


def kept(ranked: Float[Array, "B V"], sampling: Sampling) -> Float[Array, "B V"]:
    """Returns descending logits divided by the temperature, -inf where no token may be drawn.

    Top-p counts what top-k has left (nucleus sampling, arXiv 1904.09751).
    """
    scaled = (ranked - ranked[:, :1]) / sampling.temperature
    if sampling.top_k:
        scaled = jnp.where(jnp.arange(ranked.shape[-1]) < sampling.top_k, scaled, -jnp.inf)
    if sampling.top_p < 1:
        share = jax.nn.softmax(scaled, axis=-1)
        before = jnp.cumsum(share, axis=-1) - share
        # The likeliest is kept whatever rounding says.
        held = (before < sampling.top_p).at[:, 0].set(True)
        scaled = jnp.where(held, scaled, -jnp.inf)
    return scaled
