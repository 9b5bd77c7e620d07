"""The training data: shards → (augmentation, text made anew) → rows → batches, by grain.

Every batch is a function of the seed and its step alone (a random-access `MapDataset`), so a run
continued at step n sees what the uninterrupted one saw. Leading axis of every array: B batch.
"""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from data_prep import augment, teachers
from data_prep.measure import Measurement, measure_waves
from data_prep.records import Record
from data_prep.shards import Example, decode, shard_files
from gem_jax.config import Config, ConfigError
from gem_jax.dense import qrs_targets, summary_targets, wave_targets
from gem_jax.inputs import Exhibit, Medium, features_of, medium_of, room_for, stack
from gem_jax.media import Capacity
from gem_jax.models.gem import Batch
from gem_jax.models.pretrain import DenseTargets
from gem_jax.preprocess import MODEL_RATE_HZ, ecg_array
from gem_jax.rows import Row, expand
from gem_jax.templates import TokenError
from gem_jax.tokenizer import Tokenizer
from gem_jax.tokens import encode, media_paths, turns_of


@dataclass(frozen=True)
class TrainBatch:
    """One step's input; `dense` only in stage 0."""

    batch: Batch
    dense: DenseTargets | None
    record_ids: tuple[str, ...]
    num_tokens: int
    squared_lengths: int
    rows_cut: int = 0
    tasks: tuple[str, ...] = ()
    """The source of every row of `record_ids`, where the run has several."""


def augmented(
    example: Example, config: Config, rng: np.random.Generator
) -> tuple[Record, Measurement, list[tuple[str, str]]]:
    """Returns a changed record, its measurement, and the conversation with a text made for it.

    Noise comes after measuring: the numbers are those of the clean record.
    """
    record, known = example.signal(), example.measured()
    change = augment.draw(rng, record.duration_s)
    record, waves = augment.apply(record, known.waves, change)
    measured = measure_waves(record, waves, known.quality)
    question = turns_of(example.conversations)[0][0]
    answer = teachers.template_answer(measured, example.id, config.data.style)
    return augment.add_noise(record, change), measured, [(question, answer)]


@dataclass(frozen=True)
class Shards:
    """The examples of shards by index (grain's random-access source), the latest kept in memory."""

    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(_reader(self.files))

    def __getitem__(self, index: int) -> Example:
        return _example(self.files, index)


@functools.lru_cache(maxsize=8)
def _reader(files: tuple[str, ...]) -> grain.sources.ArrayRecordDataSource:
    return grain.sources.ArrayRecordDataSource(list(files))


@functools.lru_cache(maxsize=512)
def _example(files: tuple[str, ...], index: int) -> Example:
    return decode(_reader(files)[index])


@dataclass(frozen=True)
class MakeRow(grain.transforms.RandomMap):
    """Example → the arrays of one row; a text that shows no ECG stays as it is."""

    config: Config
    tokenizer: Tokenizer

    def random_map(self, element: Example, rng: np.random.Generator) -> dict[str, Any]:
        config, example = self.config, element
        if config.data.augment and num_media(example):
            record, measured, turns = augmented(example, config, rng)
        else:
            record, measured = example.signal(), example.measured()
            turns = turns_of(example.conversations)
        made: dict[str, Any] = {"id": example.id}
        if config.train.objective == "pretrain":
            ecg = config.model.ecg
            assert ecg is not None  # the objective's model was built before
            media = [Medium(ecg_array(record, ecg), None, (0, 0))]
            made["waves"] = wave_targets(measured, ecg, MODEL_RATE_HZ)
            made["qrs"] = qrs_targets(measured, ecg, MODEL_RATE_HZ)
            made["summary"] = summary_targets(measured)
        else:
            media = [medium_of(config.model, Exhibit(record)) for _ in range(num_media(example))]
        made["row"] = train_row(config, self.tokenizer, turns, media, example.id)
        return made | {"media": media}


def train_row(
    config: Config,
    tokenizer: Tokenizer,
    turns: Sequence[tuple[str, str]],
    media: Sequence[Medium],
    id: str,
) -> Row:
    """Returns the row of a conversation with its media; stage 0 reads the text alone.

    Raises:
        TokenError: when placeholders and media differ in number, or the row is too long.
    """
    told = encode(tokenizer, config.model.template, turns, num_media=len(media), id=id)
    features = [np.arange(0)] * len(media)
    if config.train.objective != "pretrain":
        features = features_of(config.model, room(config), media)
    return expand(
        told,
        features,
        config.data.length,
        cut=config.data.cut,
        padding_side=config.model.padding_side,
    )


def room(config: Config) -> Capacity:
    """Returns what every row of the run has room for: an element of a shard holds one ECG."""
    whole = room_for(config.model, 1)
    return Capacity(1, 0) if config.train.objective == "pretrain" else whole


def num_media(example: Example) -> int:
    """Returns how many ECGs with their pages the example's record names: one, or none.

    Raises:
        TokenError: when it names more than an element of a shard holds.
    """
    named = {
        field: len(media_paths(example.record.get(field) or None, example.id))
        for field in ("ecg", "image")
    }
    if max(named.values()) > 1:
        told = " and ".join(f"{count} {field}s" for field, count in named.items())
        raise TokenError(
            f"{example.id}: names {told}, expected at most one of each: an element of a shard "
            "holds one ECG; write the shard anew with one record an element"
        )
    return named["ecg"]


def collate(made: list[dict[str, Any]], config: Config) -> TrainBatch:
    """Returns the rows as one batch."""
    rows = [one["row"] for one in made]
    dense = None
    if "waves" in made[0]:
        dense = DenseTargets(
            waves=np.stack([one["waves"] for one in made]),
            qrs=np.stack([one["qrs"] for one in made]),
            summary=np.stack([one["summary"] for one in made]),
        )
    return TrainBatch(
        batch=stack(config.model, room(config), rows, [one["media"] for one in made]),
        dense=dense,
        record_ids=tuple(one["id"] for one in made),
        num_tokens=sum(row.length for row in rows),
        squared_lengths=sum(row.length**2 for row in rows),
        rows_cut=sum(row.num_cut > 0 for row in rows),
    )


def train_shards(config: Config) -> tuple[str, ...]:
    """Returns the files of the training shards; ConfigError when the folder has none."""
    files = shard_files(config.data.shards, "train")
    if not files:
        raise ConfigError(
            f"data.shards: got {config.data.shards} without a training shard, expected a folder "
            "that `gem-jax prep` wrote"
        )
    return tuple(str(file) for file in files)


def train_batches(config: Config, tokenizer: Tokenizer, first_step: int) -> Iterator[TrainBatch]:
    """Returns the batches of the run from `first_step` on, made ahead by a thread."""
    together = functools.partial(collate, config=config)
    rows = (
        grain.MapDataset.source(Shards(train_shards(config)))
        .seed(config.data.seed)
        .shuffle()
        .repeat()
        .random_map(MakeRow(config, tokenizer))
        .batch(config.data.batch_size, drop_remainder=True, batch_fn=together)
    )
    # Rows are made in Python: a second thread would only wait for the interpreter's lock.
    ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)
    return iter(rows[first_step : config.train.steps].to_iter_dataset(ahead))


def ids_hash(record_ids: tuple[str, ...]) -> str:
    """Returns a short hash of the records of a step, in order."""
    return hashlib.sha256("\n".join(record_ids).encode()).hexdigest()[:16]


def as_arrays(batch: Any) -> Any:
    """Returns the batch with jax arrays, on the default device."""
    return jax.tree.map(jnp.asarray, batch)
