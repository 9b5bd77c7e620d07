"""The batches of a run: rows made ahead, stacked, cut to the longest of all hosts.

Every batch is a function of the recipe, the files and its step alone, so a run that goes on at step
n sees what the uninterrupted one saw and no iterator's state is saved. On several hosts each makes
the rows that its devices take, and what a step has to know of all rows (the length, the records,
what was skipped) is told by each host to all. Leading axis of every array: B batch.
"""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from gem_jax import broken
from gem_jax.config import Config
from gem_jax.hosts import exchange
from gem_jax.inputs import stack
from gem_jax.mixture import Mixture, open_mixture, order, sample
from gem_jax.models.gem import Batch
from gem_jax.models.pretrain import DenseTargets
from gem_jax.row_workers import prepare, rows_of
from gem_jax.rows import TEXT_FIELDS
from gem_jax.tokenizer import Tokenizer
from gem_jax.train_rows import MakeRow, room

BATCHES_AHEAD = 2


@dataclass(frozen=True)
class TrainBatch:
    """One step's input; `dense` only in stage 0.

    The arrays hold the rows of this process, `rows` says which of the batch these are; all else is
    of the whole batch, on every process alike.
    """

    batch: Batch
    dense: DenseTargets | None
    record_ids: tuple[str, ...]
    num_tokens: int
    squared_lengths: int
    rows_cut: int = 0
    num_learnt: int = 0
    """Tokens that carry loss."""
    tasks: tuple[str, ...] = ()
    """Each row's task, the part of the mixture that it is of; empty where the run has only one."""
    rows: tuple[int, ...] = ()
    skipped: int = 0
    """Broken records met so far, those that were found at the start included."""


def train_mixture(config: Config) -> Mixture:
    """Returns what the run reads, looked through; errors as of `open_mixture`."""
    prepare(config.data.workers)
    field = "data.mixture" if config.data.mixture else "data.shards"
    return open_mixture(config, config.data.sources, field)


def train_batches(
    config: Config, tokenizer: Tokenizer, first_step: int, mixture: Mixture | None = None
) -> Iterator[TrainBatch]:
    """Returns the batches of the run from `first_step` on; `mixture`: if it is open already.

    Errors as of `open_mixture`; while it runs, BadInput when more records turn out to be broken
    than `data.max_broken`.
    """
    opened = train_mixture(config) if mixture is None else mixture
    made = MakeRow(config, tokenizer, opened, order(config, opened), own_rows(config))
    return _batches(config, made, first_step, config.train.steps)


def heldout_mixture(config: Config) -> Mixture:
    """Returns what the run is evaluated on, looked through; errors as of `open_mixture`."""
    return open_mixture(_still(config), config.data.held_out, "data.held_out")


def heldout_batches(
    config: Config, tokenizer: Tokenizer, mixture: Mixture | None = None
) -> Iterator[TrainBatch]:
    """Returns the held-out rows once, never augmented, always in the same order.

    The last batch is filled with rows in which nothing is learnt, and whose ids are empty.
    """
    opened = heldout_mixture(config) if mixture is None else mixture
    still = _still(config)
    places = sample(still, opened)
    made = MakeRow(still, tokenizer, opened, places, own_rows(still))
    steps = -(-len(places) // still.data.batch_size)
    return _batches(still, made, 0, steps, len(places))


def _still(config: Config) -> Config:
    """Returns the recipe as it reads what is held out."""
    parts = config.data.held_out
    data = dataclasses.replace(config.data, augment=False, shards="", mixture=parts)
    return dataclasses.replace(config, data=data)


def own_rows(config: Config) -> tuple[int, ...]:
    """Returns which rows of a batch this process makes: its equal share, in order.

    The places on the mesh follow from it (`processes.placement` refuses another mesh).
    """
    rows, count, index = config.data.batch_size, jax.process_count(), jax.process_index()
    return tuple(range(index * rows // count, (index + 1) * rows // count))


def _batches(
    config: Config, made: MakeRow, first: int, stop: int, num_rows: int | None = None
) -> Iterator[TrainBatch]:
    own = len(made.rows)
    numbers = range(first * own, stop * own)
    # One thread: rows have to come in order, and made here they are Python's work, one at a time.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=BATCHES_AHEAD * own)
    with rows_of(made, numbers, config.data.workers) as row:
        rows = grain.MapDataset.range(numbers.start, numbers.stop).map(row).to_iter_dataset(options)
        stacked = rows.batch(own, batch_fn=functools.partial(_stacked, config=config))
        batches = grain.experimental.ThreadPrefetchIterDataset(
            stacked, prefetch_buffer_size=BATCHES_AHEAD
        )
        with contextlib.closing(iter(batches)) as stream:
            yield from _told(stream, config, made, first, num_rows)


def _told(
    stream: Iterable[tuple[Batch, Any, list[dict]]],
    config: Config,
    made: MakeRow,
    first: int,
    num_rows: int | None,
) -> Iterator[TrainBatch]:
    """Yields the batches with what the hosts tell each other of them."""
    found = dict(made.mixture.broken)
    for step, (batch, dense, facts) in enumerate(stream, first):
        told = exchange(list(zip(made.rows, facts, strict=True)))
        known = dict(pair for each in told for pair in each)
        whole = [known[row] for row in range(config.data.batch_size)]
        _tell_skipped(whole, found, config.data.max_broken)
        got = _agreed(batch, dense, whole, made.rows, config)
        if num_rows is not None:
            got = _without_loss(got, num_rows - step * config.data.batch_size)
        yield dataclasses.replace(got, skipped=len(found))


def _stacked(made: Sequence[dict[str, Any]], config: Config) -> tuple[Batch, Any, list[dict]]:
    """Returns the rows as arrays of `data.length` tokens, and what the hosts tell each other."""
    rows = [one["row"] for one in made]
    dense = None
    if "waves" in made[0]:
        dense = DenseTargets(
            waves=np.stack([one["waves"] for one in made]),
            qrs=np.stack([one["qrs"] for one in made]),
            summary=np.stack([one["summary"] for one in made]),
        )
    facts = [
        {
            "id": one["id"],
            "length": row.length,
            "learnt": int(row.loss_mask.sum()),
            "cut": row.num_cut > 0,
            "task": one["task"],
            "skipped": one["skipped"],
        }
        for one, row in zip(made, rows, strict=True)
    ]
    batch = stack(config.model, room(config), rows, [one["media"] for one in made])
    return batch, dense, facts


def _tell_skipped(facts: Sequence[dict], found: dict[str, str], limit: int) -> None:
    """Adds what was skipped for these rows to what was found before, and tells what is new."""
    met = {where: why for one in facts for where, why in one["skipped"].items()}
    news = {where: why for where, why in met.items() if where not in found}
    found |= news
    broken.require_few(found, limit)
    broken.tell(news)


def _agreed(
    batch: Any,
    dense: DenseTargets | None,
    facts: Sequence[dict],
    rows: Sequence[int],
    config: Config,
) -> TrainBatch:
    """Returns the batch as long as the longest row of all processes, rounded up to a bucket."""
    lengths = [one["length"] for one in facts]
    length = min(-(-max(lengths) // config.data.bucket) * config.data.bucket, config.data.length)
    start = config.data.length - length if config.model.padding_side == "left" else 0
    texts = {name: getattr(batch, name)[:, start : start + length] for name in TEXT_FIELDS}
    return TrainBatch(
        batch=batch.replace(**texts),
        dense=dense,
        record_ids=tuple(one["id"] for one in facts),
        num_tokens=sum(lengths),
        squared_lengths=sum(length**2 for length in lengths),
        rows_cut=sum(one["cut"] for one in facts),
        num_learnt=sum(one["learnt"] for one in facts),
        tasks=tuple(one["task"] for one in facts) if len(config.data.sources) > 1 else (),
        rows=tuple(rows),
    )


def _without_loss(got: TrainBatch, count: int) -> TrainBatch:
    """Returns the batch with nothing to learn, and no id, from row `count` on."""
    real = np.array(got.rows) < count
    batch: Any = got.batch
    return dataclasses.replace(
        got,
        batch=batch.replace(loss_mask=batch.loss_mask & real[:, None]),
        record_ids=tuple(id if row < count else "" for row, id in enumerate(got.record_ids)),
    )


def ids_hash(record_ids: tuple[str, ...]) -> str:
    """Returns a short hash of the records of a step, in order."""
    return hashlib.sha256("\n".join(record_ids).encode()).hexdigest()[:16]


def as_arrays(batch: Any) -> Any:
    """Returns the batch with jax arrays, on the default device."""
    return jax.tree.map(jnp.asarray, batch)
