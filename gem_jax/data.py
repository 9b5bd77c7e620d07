"""The training data: shards → (augmentation, text made anew) → rows → batches, by grain.

Every batch is a function of the seed and its step alone (a random-access `MapDataset`), so a run
continued at step n sees what the uninterrupted one saw. Leading axis of every array: B batch.
"""

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

from data_prep import augment, render, teachers
from data_prep.measure import Measurement, measure_waves
from data_prep.records import Record
from data_prep.shards import Example, decode, shard_files
from gem_jax.config import Config, ConfigError
from gem_jax.dense import qrs_targets, summary_targets, wave_targets
from gem_jax.models.gem import Batch, GemConfig
from gem_jax.models.pretrain import DenseTargets
from gem_jax.preprocess import MODEL_RATE_HZ, ecg_array, image_tiles
from gem_jax.rows import Row, expand
from gem_jax.templates import IMAGE
from gem_jax.tokenizer import Tokenizer
from gem_jax.tokens import encode, turns_of

# A small page holds all that the tiny image encoders resolve, and is drawn in a few milliseconds.
PAGE_DPI = 20


@dataclass(frozen=True)
class TrainBatch:
    """One step's input; `dense` only in stage 0."""

    batch: Batch
    dense: DenseTargets | None
    record_ids: tuple[str, ...]
    num_tokens: int
    squared_lengths: int


def ecg_of(record: Record, config: GemConfig) -> np.ndarray | None:
    """Returns the record, (L, N), as the ECG encoder takes it; None where the model has none."""
    return ecg_array(record, config.ecg) if config.ecg else None


def page_tiles(record: Record, config: GemConfig) -> np.ndarray:
    """Returns the tiles of the record's page, (I, H, W, 3), as the image encoder takes them."""
    if config.vision is None:
        raise ConfigError(
            "model: got a language model alone, expected one with an image encoder: it is asked "
            "about an ECG; import a GEM, LLaVA or PULSE folder"
        )
    return image_tiles(render.render(record, dpi=PAGE_DPI).image, config)


def prompt_row(tokenizer: Tokenizer, config: GemConfig, question: str, length: int) -> Row:
    """Returns the row of one question about an ECG, ended at the assistant's cue."""
    asked = question if IMAGE in question else f"{IMAGE}\n{question}"
    prompt = encode(tokenizer, config.template, [(asked, "")], num_media=1, answer_open=True)
    return expand(prompt, [np.arange(config.num_media_tokens)], length)


def stack(rows: list[Row], ecgs: list[np.ndarray | None], images: list[np.ndarray]) -> Batch:
    """Returns the rows as one batch of host arrays; either every row has a medium or none has."""
    fields = ("tokens", "positions", "segments", "media_index", "targets", "loss_mask")
    columns = {field: np.stack([getattr(row, field) for row in rows]) for field in fields}
    signals = [ecg for ecg in ecgs if ecg is not None]
    ecg = np.stack(signals)[:, None] if signals else None
    return Batch(**columns, ecg=ecg, image=np.stack(images) if images else None)


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
    """Example → the arrays of one row."""

    config: Config
    tokenizer: Tokenizer

    def random_map(self, element: Example, rng: np.random.Generator) -> dict[str, Any]:
        config, example = self.config, element
        if config.data.augment:
            record, measured, turns = augmented(example, config, rng)
        else:
            record, measured = example.signal(), example.measured()
            turns = turns_of(example.conversations)
        dense = config.train.objective == "pretrain"
        told = encode(self.tokenizer, config.model.template, turns, num_media=1, id=example.id)
        features = np.arange(0 if dense else config.model.num_media_tokens)
        row = expand(told, [features], config.data.length)
        made: dict[str, Any] = {
            "id": example.id,
            "row": row,
            "ecg": ecg_of(record, config.model),
        }
        if dense:
            ecg = config.model.ecg
            assert ecg is not None  # the objective's model was built before
            made["waves"] = wave_targets(measured, ecg, MODEL_RATE_HZ)
            made["qrs"] = qrs_targets(measured, ecg, MODEL_RATE_HZ)
            made["summary"] = summary_targets(measured)
        else:
            made["image"] = page_tiles(record, config.model)
        return made


def collate(made: list[dict[str, Any]]) -> TrainBatch:
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
        batch=stack(
            rows, [one["ecg"] for one in made], [one["image"] for one in made if "image" in one]
        ),
        dense=dense,
        record_ids=tuple(one["id"] for one in made),
        num_tokens=sum(row.length for row in rows),
        squared_lengths=sum(row.length**2 for row in rows),
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
    rows = (
        grain.MapDataset.source(Shards(train_shards(config)))
        .seed(config.data.seed)
        .shuffle()
        .repeat()
        .random_map(MakeRow(config, tokenizer))
        .batch(config.data.batch_size, drop_remainder=True, batch_fn=collate)
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
