"""What a stage minimises: GEM's answers, or in stage 0 the parts of GEM each alone.

A loss is told in parts, each as a sum and as the number of its terms: so a batch may be cut into
micro-batches and over devices and give the same loss. Axes: B batch, T tokens, D hidden width, V
vocabulary, N chunks, C tokens of a chunk.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Num

from gem_jax.config import Config
from gem_jax.lora_model import for_compute, with_lora
from gem_jax.models.gem import Batch, Gem
from gem_jax.models.pretrain import DenseTargets, Pretrain, dense_counts, dense_sums

Metrics = dict[str, jax.Array]
Parts = dict[str, jax.Array]


class Sums(NamedTuple):
    """A batch's loss before it is divided by anything."""

    parts: Parts
    rows: Float[Array, "B"]
    """Of each row's text alone."""


def text_sums(
    logits_of: Callable[[Float[Array, "B C D"]], Float[Array, "B C V"]],
    hidden: Float[Array, "B T D"],
    batch: Batch,
    chunk: int,
) -> Float[Array, "B"]:
    """Returns each row's sum of the cross entropies of its labelled tokens; 0 where it has none.

    The logits of `chunk` tokens of each row exist at a time, and are made again for the gradient
    where these are not all.
    """

    def add(
        total: Float[Array, "B"], piece: tuple[Any, Any, Any]
    ) -> tuple[Float[Array, "B"], None]:
        states, targets, mask = piece
        each = optax.softmax_cross_entropy_with_integer_labels(logits_of(states), targets)
        return total + (each * mask).sum(axis=1), None

    pieces = jax.tree.map(
        functools.partial(_chunks, size=min(chunk, batch.tokens.shape[1])),
        (hidden, jnp.asarray(batch.targets), jnp.asarray(batch.loss_mask)),
    )
    zeros = jnp.zeros(hidden.shape[0], jnp.float32)
    if chunk < batch.tokens.shape[1]:
        add = jax.checkpoint(add, prevent_cse=False)
    return jax.lax.scan(add, zeros, pieces)[0]


def _chunks(values: Num[Array, "B T *rest"] | Any, size: int) -> Any:
    """Returns axis 1 cut into chunks (N B C …), the last filled up with zeros."""
    rows, length = values.shape[:2]
    short = [(0, 0), (0, -length % size), *[(0, 0)] * (values.ndim - 2)]
    cut = jnp.pad(values, short).reshape(rows, -1, size, *values.shape[2:])
    return cut.swapaxes(0, 1)


def sums_of(config: Config, params: dict, batch: Batch, dense: DenseTargets | None) -> Sums:
    """Returns the sums of the objective's parts: of the text, and in stage 0 of the readings."""
    computed = for_compute(params, config.model.llm.dtype) if config.lora else params
    apply = functools.partial(model_of(config).apply, {"params": computed})
    hidden: Any = apply(batch, method="hidden")
    parts = {}
    if config.train.objective == "pretrain":
        assert dense is not None
        said, hidden = hidden
        parts = dense_sums(said, dense)
    logits_of: Any = functools.partial(apply, method="logits")
    rows = text_sums(logits_of, hidden, batch, config.train.loss_chunk)
    return Sums(parts | {"text": rows.sum()}, rows)


def counts_of(config: Config, batch: Batch, dense: DenseTargets | None) -> Parts:
    """Returns the number of terms of each sum of `sums_of`: the labels and measured values."""
    parts = {}
    if config.train.objective == "pretrain":
        assert dense is not None
        parts = dense_counts(dense)
    return parts | {"text": batch.loss_mask.sum()}


def model_of(config: Config) -> nn.Module:
    """Returns the module that the objective trains."""
    kind = {"instruct": Gem, "pretrain": Pretrain}[config.train.objective]
    return with_lora(kind(config.model), config.lora)
