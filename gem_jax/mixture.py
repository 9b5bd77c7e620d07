"""What a run reads and in which order: several sources as one endless, shuffled sequence.

The record at a place of the run is a function of the recipe, the files and the place alone. Nothing
of an iterator has to be saved: a run that goes on at step n asks for the places from there on, with
any number of worker processes, hosts or devices.
"""

import bisect
import dataclasses
import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grain
import numpy as np

from gem_jax import broken
from gem_jax.config import Config, ConfigError, SourceConfig
from gem_jax.instruction_file import Instructions, faults_of, shown_by, walk
from gem_jax.shard_rows import Shards, open_shards

Source = Shards | Instructions


@dataclass(frozen=True)
class Mixture:
    """Sources with the broken records that were found in them: where → reason."""

    parts: tuple[SourceConfig, ...]
    sources: tuple[Source, ...]
    broken: dict[str, str] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def fingerprints(self) -> list[str]:
        """Returns what tells whether the sources are the same as before, wherever they lie."""
        return [source.fingerprint() for source in self.sources]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The name of each source."""
        return tuple(part.task or Path(part.path).stem for part in self.parts)


def open_mixture(config: Config, parts: Sequence[SourceConfig], field: str) -> Mixture:
    """Returns the sources, all of them looked through; broken records are told, up to the limit.

    Raises:
        ConfigError: when a source is not there or does not fit the objective.
        BadInput: when more records are broken than `data.max_broken`.
    """
    if not parts:
        raise ConfigError(f"{field}: got none, expected a folder of shards or an instruction file")
    sources: list[Source] = []
    found: dict[str, str] = {}
    for part in parts:
        if Path(part.path).suffix != ".json":
            sources.append(open_shards(part, field))
            continue
        if config.train.objective == "pretrain":
            raise ConfigError(
                f"{field}: got {part.path} in stage 0, expected shards: its targets are measured "
                "by `gem-jax prep`"
            )
        source, faulty = open_instructions(part, config, field)
        sources.append(source)
        found |= faulty
    broken.require_few(found, config.data.max_broken)
    broken.tell(found)
    return Mixture(tuple(parts), tuple(sources), found)


def open_instructions(
    part: SourceConfig, config: Config, field: str
) -> tuple[Instructions, dict[str, str]]:
    """Returns the rows of an official file, and those that are broken: where → reason."""
    places, reasons = [], {}
    named: dict[tuple[Path, Callable[[Path], None]], list[int]] = defaultdict(list)
    for number, (row, start, stop) in enumerate(walk(Path(part.path))):
        places.append((start, stop))
        if faults := faults_of(row, part, config):
            reasons[number] = "; ".join(faults)
            continue
        for ecg, image in shown_by(row, part):
            if ecg and (config.model.ecg or not image):
                named[ecg, broken.check_record].append(number)
            if image:
                named[image, broken.check_page].append(number)
    if not places:
        raise ConfigError(f"{field}: got {part.path} without a row, expected conversations")
    source = Instructions(part, np.array(places, np.int64))
    missing = broken.files_broken(list(named), f"look through {Path(part.path).name}")
    for (path, _), numbers in named.items():
        if reason := missing.get(str(path)):
            reasons |= dict.fromkeys(numbers, reason)
    return source, {source.where(number): reasons[number] for number in sorted(reasons)}


def order(config: Config, mixture: Mixture) -> grain.MapDataset:
    """Returns place of the run → (source, index in it), without end.

    With weights, the sources take turns in proportion to them (grain rounds the proportions to a
    hundredth of the smallest), each shuffled anew whenever it is through; without, all records are
    shuffled as one, and each is seen once before any is seen again.
    """
    sizes = [len(source) for source in mixture.sources]
    weights = [part.weight for part in mixture.parts if part.weight is not None]
    if not weights:
        return _concatenated(sizes, config).repeat()
    parts = [
        _shuffled(size, config, number).repeat().map(functools.partial(_numbered, number))
        for number, size in enumerate(sizes)
    ]
    return grain.MapDataset.mix(parts, weights)


def sample(config: Config, mixture: Mixture) -> grain.MapDataset:
    """Returns place → (source, index in it) of the held-out rows, each once."""
    sizes, count = [len(source) for source in mixture.sources], config.data.held_out_rows
    if count is None or count >= sum(sizes):
        in_order = dataclasses.replace(config.data, shuffle=False)
        return _concatenated(sizes, dataclasses.replace(config, data=in_order))
    return _concatenated(sizes, config)[:count]


def _concatenated(sizes: Sequence[int], config: Config) -> grain.MapDataset:
    ends = list(itertools.accumulate(sizes))
    return _shuffled(sum(sizes), config, 0).map(functools.partial(_located, ends))


def _shuffled(size: int, config: Config, number: int) -> grain.MapDataset:
    indices = grain.MapDataset.range(size)
    # Sources of one size would else be shuffled alike.
    seed = int(np.random.SeedSequence([config.data.seed, number]).generate_state(1)[0])
    return indices.shuffle(seed=seed) if config.data.shuffle else indices


def _located(ends: Sequence[int], index: int) -> tuple[int, int]:
    number = bisect.bisect_right(ends, index)
    return number, index - (ends[number - 1] if number else 0)


def _numbered(number: int, index: int) -> tuple[int, int]:
    return number, index
