"""The delineation network in Flax, and its training on cardiologists' marks.

    python -m experiments.delineator --ludb DIR --out FILE.npz [--fold K]

trains on the records of LUDB that are not of fold K (all, without a fold), some minutes on two CPU
cores, and writes the weights that `data_prep/network.py`, its twin in NumPy, reads.

Axes: B records, L leads, T frames, F samples of a frame, S moments, K classes.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import struct
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, PRNGKeyArray

from data_prep.conditioning import FRAME_STEP, MOMENT
from data_prep.files import write_whole
from data_prep.network import CLASSES, JOINT_DEPTH, LEAD_DEPTH
from data_prep.progress import track
from experiments.delineator_lessons import Lesson, Recording, batches, folds, recordings


@dataclass(frozen=True)
class Recipe:
    """How the network is trained.

    Attributes:
        steps: Of the optimizer.
        few_leads_share: Share of the steps on half of the leads of twice as many records.
        records: In a step, where half of the leads are shown.
        learning_rate: At its peak, after the warm-up; then it falls as a cosine.
        made_share: Share of the lessons that are made ECGs, not real ones.
    """

    steps: int = 1400
    few_leads_share: float = 0.65
    records: int = 8
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    warmup_steps: int = 100
    dropout: float = 0.1
    averaged_over: int = 500
    made_share: float = 0.15


class Delineator(nn.Module):
    """Class logits of each lead, and of the record as a whole; see data_prep/network.py."""

    lead_dim: int = 32
    joint_dims: tuple[int, ...] = (64, 80, 96, 96)
    told_dims: tuple[int, ...] = (32, 48, 64)
    kernel: int = 5
    dropout: float = 0.1

    @nn.compact
    def __call__(
        self, frames: Float[Array, "B L T F"], alive: Float[Array, "B L"], *, train: bool = False
    ) -> tuple[Float[Array, "B L S K"], Float[Array, "B S K"]]:
        """Returns the logits; leads that are not `alive` take no part in the joint ones."""
        batch, leads = alive.shape
        lead = nn.Dense(self.lead_dim, name="lead_stem")(frames.reshape(-1, *frames.shape[2:]))
        for i in range(2):
            lead = self._block(f"lead_block_{i}", lead)
        levels = self._joint(_pooled(lead.reshape(batch, leads, *lead.shape[1:]), alive), train)
        outputs = FRAME_STEP // MOMENT * len(CLASSES)
        joint = nn.Dense(outputs, name="joint_out")(nn.relu(levels[0]))
        own = self._each_lead(lead, levels, leads, train)
        own = nn.Dense(outputs, name="lead_out")(nn.relu(own))
        return (
            own.reshape(batch, leads, -1, len(CLASSES)),
            joint.reshape(batch, -1, len(CLASSES)),
        )

    def _block(self, name: str, x: Float[Array, "N T C"]) -> Float[Array, "N T C"]:
        # Small at first: without normalisation, residual branches at full size add up.
        init = nn.initializers.variance_scaling(0.3, "fan_in", "truncated_normal")
        conv = nn.Conv(x.shape[-1], (self.kernel,), padding="SAME", kernel_init=init, name=name)
        return x + conv(nn.relu(x))

    def _drop(self, x: Float[Array, "N T C"], train: bool) -> Float[Array, "N T C"]:
        return nn.Dropout(self.dropout, broadcast_dims=(1,))(x, deterministic=not train)

    def _joint(self, x: Float[Array, "B T C"], train: bool) -> list[Array]:
        x = self._block("joint_block", nn.Dense(self.joint_dims[0], name="joint_stem")(x))
        finer = []
        for depth in range(1, JOINT_DEPTH):
            finer.append(x)
            x = nn.Dense(self.joint_dims[depth], name=f"joint_down_{depth}")(_halved(x))
            x = self._block(f"joint_down_{depth}_block_0", x)
            x = self._block(f"joint_down_{depth}_block_1", self._drop(x, train))
        x = self._block("joint_bottom_block", x)
        levels = []
        for depth in reversed(range(1, JOINT_DEPTH)):
            up = nn.Dense(self.joint_dims[depth - 1], name=f"joint_up_{depth}")
            x = self._block(f"joint_up_{depth}_block", finer.pop() + up(_doubled(x)))
            levels.append(x)
        return levels[::-1]

    def _each_lead(
        self, x: Float[Array, "N T C"], levels: Sequence[Array], leads: int, train: bool
    ) -> Float[Array, "N T E"]:
        finer = []
        for depth in range(LEAD_DEPTH):
            width = self.told_dims[depth]
            told = nn.Dense(width, name=f"lead_told_{depth}")(levels[depth])
            x = nn.Dense(width, name=f"lead_down_{depth}")(_halved(x) if depth else x)
            x = self._block(f"lead_down_{depth}_block", x + jnp.repeat(told, leads, axis=0))
            finer.append(x)
        x = self._block("lead_bottom_block", self._drop(finer.pop(), train))
        for depth in reversed(range(LEAD_DEPTH - 1)):
            up = nn.Dense(self.told_dims[depth], name=f"lead_up_{depth}")
            x = self._block(f"lead_up_{depth}_block", finer.pop() + up(_doubled(x)))
        return x


def _pooled(lead: Float[Array, "B L T C"], alive: Float[Array, "B L"]) -> Float[Array, "B T D"]:
    shown = alive[:, :, None, None]
    count = shown.sum(axis=1)
    square = (lead**2 * shown).sum(axis=1) / count
    return jnp.concatenate([(lead * shown).sum(axis=1) / count, jnp.sqrt(square + 1e-4)], axis=-1)


def _halved(x: Float[Array, "N T C"]) -> Float[Array, "N H D"]:
    return x.reshape(len(x), x.shape[1] // 2, 2 * x.shape[2])


def _doubled(x: Float[Array, "N T C"]) -> Float[Array, "N D C"]:
    return jnp.repeat(x, 2, axis=1)


@struct.dataclass
class State:
    """What training carries from step to step; `average` is what it ends with."""

    params: Any
    opt_state: Any
    average: Any


def loss_of(params: Any, model: Delineator, lesson: Lesson, key: PRNGKeyArray) -> Float[Array, ""]:
    """Returns the mean cross entropy in the marked moments of the leads, plus the joint one."""
    own, joint = model.apply(
        {"params": params}, lesson.frames, lesson.alive, train=True, rngs={"dropout": key}
    )
    return _cross_entropy(own, lesson.classes, lesson.marked) + _cross_entropy(
        joint, lesson.joint_classes, lesson.joint_marked
    )


def _cross_entropy(logits: Array, classes: Array, marked: Array) -> Float[Array, ""]:
    entropy = -(classes * jax.nn.log_softmax(logits)).sum(axis=-1)
    return (entropy * marked).sum() / jnp.maximum(marked.sum(), 1.0)


@partial(jax.jit, static_argnames=("model", "tx"))
def train_step(
    state: State,
    lesson: Lesson,
    key: PRNGKeyArray,
    decay: Float[Array, ""],
    *,
    model: Delineator,
    tx: optax.GradientTransformation,
) -> tuple[State, Float[Array, ""]]:
    """Returns the state after one step, and its loss."""
    loss, grads = jax.value_and_grad(loss_of)(state.params, model, lesson, key)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = optax.incremental_update(params, state.average, 1.0 - decay)
    return State(params, opt_state, average), loss


def train(records: Sequence[Recording], recipe: Recipe, seed: int) -> Mapping[str, np.ndarray]:
    """Returns the averaged parameters by path after training on these records."""
    model = Delineator(dropout=recipe.dropout)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, recipe.learning_rate, recipe.warmup_steps, recipe.steps, 0.01 * recipe.learning_rate
    )
    adam = optax.adamw(schedule, weight_decay=recipe.weight_decay)
    tx = optax.chain(optax.clip_by_global_norm(1.0), adam)
    key = jax.random.key(seed)
    state = None
    losses = []
    lessons = batches(records, _plan(recipe), seed, recipe.made_share)
    for step, lesson in enumerate(track(lessons, recipe.steps, "delineator")):
        if state is None:
            params = model.init(key, lesson.frames[:1], lesson.alive[:1])["params"]
            state = State(params, tx.init(params), params)
        decay = jnp.minimum(1.0 - 1.0 / recipe.averaged_over, (step + 1.0) / (step + 10.0))
        dropped = jax.random.fold_in(key, step)
        state, loss = train_step(state, lesson, dropped, decay, model=model, tx=tx)
        losses.append(float(loss))
    print(f"loss of the last 100 steps: {np.mean(losses[-100:]):.4f}", file=sys.stderr)
    return {path: np.asarray(x) for path, x in flatten_dict(state.average, sep="/").items()}


def _plan(recipe: Recipe) -> Iterator[tuple[int, int]]:
    """Yields records and leads of each step: half the leads cost half, and hide the others."""
    for step in range(recipe.steps):
        few = step < recipe.few_leads_share * recipe.steps
        yield (recipe.records, 6) if few else (recipe.records // 2, 12)


def save(params: Mapping[str, np.ndarray], path: Path) -> None:
    """Writes the parameters in half precision, whole or not at all."""
    file = BytesIO()
    np.savez(file, allow_pickle=False, **{name: x.astype(np.float16) for name, x in params.items()})
    write_whole(path, file.getvalue())


def main(ludb: Path, out: Path, fold: int | None = None, seed: int = 0) -> None:
    """Train the delineation network on the records of LUDB.

    Args:
        ludb: Folder of the records with their annotations.
        out: The weights, .npz.
        fold: Leave out the records of this fold, 0 to 4.
        seed: Of the weights, of what is shown and of how it is changed.
    """
    left_out = set() if fold is None else set(folds(ludb)[fold])
    records = [one for one in recordings(ludb) if one.name not in left_out]
    began = time.monotonic()
    save(train(records, Recipe(), seed), out)
    print(f"{out}: {len(records)} records, {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    tyro.cli(main)
