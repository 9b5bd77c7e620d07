"""Batches as a person reads them, before any training: texts, what is learnt, media, lengths."""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int

from gem_jax.config import Config
from gem_jax.data import TrainBatch, train_batches
from gem_jax.models.gem import Batch
from gem_jax.tokenizer import Tokenizer
from gem_jax.train_rows import room

LEARNT = "⟦", "⟧"
LEGEND = f"{LEARNT[0]}learnt{LEARNT[1]}, {{features of an ECG + of its page}}"


def told(config: Config, tokenizer: Tokenizer, count: int, first_step: int = 0) -> Iterator[str]:
    """Yields the lines about the first `count` batches of the run from `first_step` on.

    On several hosts all of them must ask, and each tells of its own rows.
    """
    yield LEGEND
    steps = dataclasses.replace(config.train, steps=min(first_step + count, config.train.steps))
    shortened = dataclasses.replace(config, train=steps)
    for step, got in enumerate(train_batches(shortened, tokenizer, first_step), first_step):
        yield from _batch_told(config, tokenizer, step, got)


def _batch_told(config: Config, tokenizer: Tokenizer, step: int, got: TrainBatch) -> Iterator[str]:
    rows, length = len(got.record_ids), got.batch.tokens.shape[1]
    full = got.num_tokens / (rows * length)
    yield (
        f"step {step}: {rows} rows × {length} tokens, {full:.0%} full, {got.num_learnt} learnt, "
        f"{got.rows_cut} rows cut, {got.skipped} broken records skipped so far"
    )
    for at, row in enumerate(got.rows):
        task = f" [{got.tasks[row]}]" if got.tasks else ""
        real = got.batch.segments[at] > 0
        learn = np.append(False, got.batch.loss_mask[at][real][:-1])
        media = got.batch.media_index[at][real]
        yield (
            f"  row {row}: {got.record_ids[row]}{task}: {real.sum()} tokens, "
            f"{(media >= 0).sum()} of media, {learn.sum()} learnt"
        )
        yield f"    {row_told(config, tokenizer, got.batch, at)}"


def row_told(config: Config, tokenizer: Tokenizer, batch: Batch, at: int) -> str:
    """Returns a row's text with its media and what is learnt marked, on one line."""
    real = batch.segments[at] > 0
    tokens, media = batch.tokens[at][real], batch.media_index[at][real]
    learn = np.append(False, batch.loss_mask[at][real][:-1])
    ecg_features = room(config).ecgs * config.model.ecg_tokens
    parts = []
    for start, stop in _runs(media >= 0, learn):
        if media[start] >= 0:
            ecg = int((media[start:stop] < ecg_features).sum())
            parts.append(f"{{{ecg} + {stop - start - ecg}}}")
        else:
            text = tokenizer.decode(tokens[start:stop].tolist(), skip_special=False)
            parts.append(text.join(LEARNT) if learn[start] else text)
    return "".join(parts).replace("\n", "⏎")


def _runs(media: Bool[np.ndarray, " T"], learn: Bool[np.ndarray, " T"]) -> list[tuple[int, int]]:
    """Returns where each stretch of one kind begins and ends."""
    kind: Int[np.ndarray, " T"] = media + 2 * learn
    edges = [0, *(np.flatnonzero(kind[1:] != kind[:-1]) + 1).tolist(), len(kind)]
    return list(itertools.pairwise(edges))
