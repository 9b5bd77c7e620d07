"""Stage 0: the parts of GEM that are pretrained before they meet, each on a task of its own.

GEM starts from a pretrained ECG encoder and language model. Where none is at hand, this module
gives them a start: the ECG encoder says for each of its tokens which waves lie there in each lead,
how the QRS points and how long ago the last one was, and from its class token the record's summary;
the language model reads texts. The head is thrown away afterwards. The image encoder has no such
task: where no pretrained one is at hand it keeps its random start.

Axes: B batch, P ECG tokens, L leads, T text tokens, V vocabulary, G summary values.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float

from gem_jax.models.ecg import EcgEncoder
from gem_jax.models.gem import Batch, GemConfig
from gem_jax.models.layers import causal_mask
from gem_jax.models.llm import Llm

NUM_WAVES = 3
NUM_QRS_VALUES = 3
NUM_SUMMARY_VALUES = 6


@struct.dataclass
class DenseTargets:
    """What the encoder should say of a batch; NaN is "not measured" and carries no loss."""

    waves: Bool[Any, "B P L 3"]
    qrs: Float[Any, "B P L 3"]
    summary: Float[Any, "B G"]


class DenseHead(nn.Module):
    """Linear readings of the ECG encoder's tokens."""

    num_leads: int

    @nn.compact
    def __call__(self, ecg_tokens: Float[Array, "B P D"]) -> dict[str, jax.Array]:
        leads = self.num_leads
        patches = ecg_tokens[:, 1:]
        shape = (*patches.shape[:2], leads, -1)
        return {
            "waves": nn.Dense(leads * NUM_WAVES, name="waves")(patches).reshape(shape),
            "qrs": nn.Dense(leads * NUM_QRS_VALUES, name="qrs")(patches).reshape(shape),
            "summary": nn.Dense(NUM_SUMMARY_VALUES, name="summary")(ecg_tokens[:, 0]),
        }


class Pretrain(nn.Module):
    """Encoder and language model side by side; the call: (the head's readings, logits)."""

    config: GemConfig

    def setup(self):
        ecg = self.config.ecg
        if ecg is None:
            raise ValueError("model.ecg: got none, expected the ECG encoder that stage 0 trains")
        self.ecg_tower = EcgEncoder(ecg)
        self.llm = Llm(self.config.llm)
        self.dense_head = DenseHead(ecg.num_leads)

    def hidden(self, batch: Batch) -> tuple[dict[str, jax.Array], Float[Array, "B T D"]]:
        """Returns (the head's readings, the hidden states that the logits are read from)."""
        assert batch.ecg is not None
        ecg_tokens, _ = self.ecg_tower(batch.ecg[:, 0])
        embedded = self.llm.embed(batch.tokens)
        hidden, _ = self.llm.hidden(embedded, batch.positions, causal_mask(batch.segments))
        return self.dense_head(ecg_tokens), hidden

    def logits(self, hidden: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Returns the logits of hidden states, of all tokens or of some."""
        return self.llm.logits(hidden)

    def __call__(self, batch: Batch) -> tuple[dict[str, jax.Array], Float[Array, "B T V"]]:
        said, hidden = self.hidden(batch)
        return said, self.logits(hidden)


def dense_sums(said: dict[str, jax.Array], targets: DenseTargets) -> dict[str, jax.Array]:
    """Returns the loss of each reading, summed: cross entropies of the waves, squared errors."""
    waves = optax.sigmoid_binary_cross_entropy(said["waves"], targets.waves.astype(jnp.float32))
    return {
        "waves": waves.sum(),
        "qrs": _squared_error(said["qrs"], targets.qrs),
        "summary": _squared_error(said["summary"], targets.summary),
    }


def dense_counts(targets: DenseTargets) -> dict[str, jax.Array]:
    """Returns how many terms each sum of `dense_sums` has."""
    return {
        "waves": jnp.asarray(targets.waves.size),
        "qrs": (~jnp.isnan(targets.qrs)).sum(),
        "summary": (~jnp.isnan(targets.summary)).sum(),
    }


def _squared_error(said: Float[Array, "*shape"], target: Float[Array, "*shape"]) -> jax.Array:
    measured = ~jnp.isnan(target)
    error = jnp.where(measured, said - jnp.where(measured, target, 0.0), 0.0)
    return (error**2).sum()
