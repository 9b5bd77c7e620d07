"""Verifies a checkpoint: gem-jax verify CKPT REFERENCE.npz [--atol 1e-4] [--dtype float32]

REFERENCE.npz holds inputs and what the original made of them (gem_jax/reference.py says how). A
line a case is printed with its largest differences: logits within --atol where the mask is true,
loss within a tenth of it, masks, labels and greedy tokens the same.
Exit status: 0 all within; 1 something differs; 2 a file that cannot be used.
"""

import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from gem_jax.checkpoint import load_params
from gem_jax.config import ConfigError
from gem_jax.generate import generate
from gem_jax.models.gem import Batch, Gem, GemConfig
from gem_jax.reference import Forward, Generate, Inputs, Reference, read_reference
from gem_jax.reference_batch import batch_of, overridden
from gem_jax.tokens import IGNORED
from gem_jax.usage import bind

HEADER = ("case", "mask", "labels", "logits", "loss", "tokens", "")


@dataclass(frozen=True)
class Compared:
    """A case against the original: what is equal, how far the numbers are; None: not compared."""

    case: str
    mask: bool | None = None
    labels: bool | None = None
    logits: float | None = None
    loss: float | None = None
    tokens: bool | None = None

    def within(self, atol: float) -> bool:
        """Returns whether all that was compared is equal, or near enough; NaN is not."""
        same = [one for one in (self.mask, self.labels, self.tokens) if one is not None]
        near = [
            difference <= most
            for difference, most in ((self.logits, atol), (self.loss, atol / 10))
            if difference is not None
        ]
        return all([*same, *near])


def cli(args: list[str]) -> int:
    """Returns the exit status of `gem-jax verify ARGS`."""
    return bind(main, args, "gem-jax verify")()


def main(
    ckpt: Path,
    reference: Path,
    *,
    atol: float = 1e-4,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> int:
    """Compare a checkpoint with the original's outputs.

    Args:
        ckpt: What `gem-jax import` or `gem-jax train` wrote.
        reference: The original's inputs and outputs.
        atol: Largest difference of a logit; the loss may have a tenth of it.
        dtype: Computed in, whatever the checkpoint is stored in.
    """
    if not atol >= 0:
        raise ConfigError(f"--atol: got {atol}, expected 0 or more")
    config, params = load_params(ckpt)
    stored = read_reference(reference, config)
    config = _computed_in(config, dtype)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    with jax.default_matmul_precision("highest"):
        compared = [compare_forward(config, params, stored, case) for case in stored.forward]
        compared += [compare_tokens(config, params, stored, case) for case in stored.generate]
    print(table(compared, atol))
    return int(not all(one.within(atol) for one in compared))


def compare_forward(
    config: GemConfig, params: dict, reference: Reference, case: Forward
) -> Compared:
    """Returns how far logits and loss of the whole forward pass are from the original's."""
    own, longest = overridden(config, case.inputs.overrides, case.name)
    batch = batch_of(own, reference, case.inputs, longest, case.name)
    logits = np.asarray(_logits(own, params, batch), np.float64)
    loss = _loss(logits, batch.targets, batch.loss_mask)
    place = partial(_placed, lengths=batch.segments.sum(axis=1), left=own.padding_side == "left")
    mask, labels = place(batch.segments > 0), place(_labels(case.inputs, batch))
    difference = math.inf
    if mask.shape == case.mask.shape:
        shared = mask & case.mask
        apart = np.abs(place(logits)[shared] - case.logits[shared])
        difference = float(apart.max(initial=0.0))
    return Compared(
        case.name,
        mask=np.array_equal(mask, case.mask),
        labels=np.array_equal(labels, case.labels),
        logits=difference,
        loss=0.0 if math.isnan(loss) and math.isnan(case.loss) else abs(loss - case.loss),
    )


@partial(jax.jit, static_argnums=0)
def _logits(config: GemConfig, params: dict, batch: Batch) -> Any:
    return Gem(config).apply({"params": params}, batch)


def compare_tokens(
    config: GemConfig, params: dict, reference: Reference, case: Generate
) -> Compared:
    """Returns whether the greedy tokens are the original's, the end token included."""
    batch = batch_of(config, reference, case.inputs, None, f"gen.{case.name}")
    # The original's generation knows no longest row.
    length = batch.tokens.shape[1] + case.max_new_tokens
    (answer,) = generate(
        dataclasses.replace(config, max_length=max(config.max_length, length)),
        params,
        batch,
        max_new_tokens=case.max_new_tokens,
        num_tokens=config.llm.vocab_size,
        eos_token_ids=case.eos_token_ids,
    )
    end = () if answer.end_token is None else (answer.end_token,)
    return Compared(f"gen.{case.name}", tokens=answer.tokens + end == case.tokens)


def _labels(inputs: Inputs, batch: Batch) -> Int[np.ndarray, "B T"]:
    """Returns the labels after merging; a row's first is no target, so it is the input's."""
    learnt = np.where(batch.loss_mask, batch.targets, IGNORED)[:, :-1]
    kept = [labels[mask][0] for labels, mask in zip(inputs.labels, inputs.mask, strict=True)]
    first = np.where(batch.media_index[:, 0] < 0, kept, IGNORED)
    return np.concatenate([first[:, None], learnt], axis=1)


def _placed(values: np.ndarray, lengths: Int[np.ndarray, "B"], left: bool) -> np.ndarray:
    """Returns rows that are padded on the right, padded as the original does."""
    if not left:
        return values
    shifts = values.shape[1] - lengths
    return np.stack([np.roll(row, by, axis=0) for row, by in zip(values, shifts, strict=True)])


def _loss(
    logits: Float[np.ndarray, "B T V"],
    targets: Int[np.ndarray, "B T"],
    mask: Bool[np.ndarray, "B T"],
) -> float:
    """Returns the mean cross-entropy of the targets, NaN where there are none."""
    if not mask.any():
        return math.nan
    chosen = logits[mask]
    top = chosen.max(axis=-1, keepdims=True)
    total = np.log(np.exp(chosen - top).sum(axis=-1)) + top[:, 0]
    return float((total - chosen[np.arange(len(chosen)), targets[mask]]).mean())


def _computed_in(config: GemConfig, dtype: str) -> GemConfig:
    def part(sizes: Any) -> Any:
        return sizes and dataclasses.replace(sizes, dtype=dtype, param_dtype="float32")

    return dataclasses.replace(
        config, ecg=part(config.ecg), vision=part(config.vision), llm=part(config.llm)
    )


def table(compared: list[Compared], atol: float) -> str:
    """Returns a line a case: what is equal, the largest differences, and the verdict."""
    rows: list[tuple[str, ...]] = [HEADER]
    for one in compared:
        same = {None: "–", True: "equal", False: "differ"}
        far = ["–" if value is None else f"{value:.1e}" for value in (one.logits, one.loss)]
        verdict = "ok" if one.within(atol) else "DIFFERS"
        rows.append((one.case, same[one.mask], same[one.labels], *far, same[one.tokens], verdict))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    good = sum(one.within(atol) for one in compared)
    tolerance = f"logits within {atol:g}, loss within {atol / 10:g}"
    return "\n".join([*lines, f"{good} of {len(compared)} cases agree ({tolerance})"])
