"""Shards as a source of training rows: texts made anew for records that are changed.

A change of time, axis or gain moves the numbers of a record, so its text is written again from what
is measured in the changed record. Noise comes after measuring: it leaves the numbers be.
"""

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import grain
import numpy as np

from data_prep import augment, teachers
from data_prep.measure import Measurement, measure_waves
from data_prep.records import BadInput, Record
from data_prep.shards import Example, decode, shard_files
from gem_jax.config import Config, ConfigError, SourceConfig
from gem_jax.inputs import Exhibit
from gem_jax.templates import TokenError
from gem_jax.tokens import media_paths, turns_of
from gem_jax.told import Told

# ArrayRecord's: a file's size is a multiple of it.
BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class Shards:
    """The examples of shards by index, the latest kept in memory."""

    folder: str
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(_reader(self.files))

    def where(self, index: int) -> str:
        return f"{self.folder}: element {index}"

    def fingerprint(self) -> str:
        """Returns what tells whether the shards are the same as before.

        By names and sizes, which are whole blocks; and by their first and last bytes: the first
        records, and the places of all.
        """
        known = [(Path(file).name, Path(file).stat().st_size) for file in self.files]
        ends = b"".join(map(_ends, self.files))
        return ":".join(hashlib.sha256(told).hexdigest() for told in (repr(known).encode(), ends))

    def tell(self, index: int, config: Config, rng: np.random.Generator) -> Told:
        return told(_example(self.files, index), config, rng)


def _ends(path: str) -> bytes:
    """Returns the digest of the file's first and last block."""
    with Path(path).open("rb") as file:
        first = file.read(BLOCK_BYTES)
        file.seek(max(0, file.seek(0, os.SEEK_END) - BLOCK_BYTES))
        return hashlib.sha256(first + file.read()).digest()


def open_shards(source: SourceConfig, field: str) -> Shards:
    """Returns the shards of a folder.

    Raises:
        ConfigError: when the folder has none.
        BadInput: when one of them is no whole ArrayRecord file.
    """
    files = tuple(str(file) for file in shard_files(source.path, source.split))
    kind = "training shard" if source.split == "train" else f"shard of the split {source.split!r}"
    if not files:
        raise ConfigError(
            f"{field}: got {source.path} without a {kind}, expected a folder that `gem-jax prep` "
            "wrote, or an instruction file that ends in .json"
        )
    made = Shards(source.path, files)
    try:
        empty = len(made) == 0
    except (OSError, RuntimeError, ValueError) as error:
        raise BadInput(
            f"{source.path}: a shard is no whole ArrayRecord file ({error}); write it anew with "
            "`gem-jax prep`"
        ) from error
    if empty:
        raise ConfigError(f"{field}: got {source.path} with empty shards, expected records")
    return made


@functools.lru_cache(maxsize=8)
def _reader(files: tuple[str, ...]) -> grain.sources.ArrayRecordDataSource:
    return grain.sources.ArrayRecordDataSource(list(files))


@functools.lru_cache(maxsize=512)
def _example(files: tuple[str, ...], index: int) -> Example:
    return decode(_reader(files)[index])


def told(example: Example, config: Config, rng: np.random.Generator) -> Told:
    """Returns what an example tells and shows; a text that shows no ECG stays as it is.

    Raises:
        TokenError: when its conversation or its media are not of the known shape.
    """
    count = num_media(example)
    if config.data.augment and count:
        record, measured, turns = augmented(example, config, rng)
    else:
        record, measured = example.signal(), example.measured()
        turns = turns_of(example.conversations)
    if config.train.objective == "pretrain":
        count = 1  # its text shows nothing, its ECG is there for the encoder
    exhibits = (Exhibit(record, reading=config.data.reading),) * count
    return Told(example.id, turns, exhibits, record, measured)


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
