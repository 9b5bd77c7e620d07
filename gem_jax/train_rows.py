"""The row at a place of a training run, as arrays: the same whoever makes it, and when.

It depends on the recipe, the files and the place alone: each row has its own random generator. A
broken record's place is taken by the next record of its source.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from data_prep.records import BadInput
from gem_jax.broken import require_few
from gem_jax.config import Config
from gem_jax.dense import qrs_targets, summary_targets, wave_targets
from gem_jax.inputs import Exhibit, Medium, encoded, features_of, page_of, room_for
from gem_jax.media import Capacity
from gem_jax.mixture import Mixture
from gem_jax.page_look import another_look
from gem_jax.preprocess import MODEL_RATE_HZ, ecg_array
from gem_jax.rows import Row, expand
from gem_jax.tokenizer import Tokenizer
from gem_jax.tokens import encode
from gem_jax.told import DEFECTS, Told


@dataclass(frozen=True, eq=False)
class MakeRow(grain.transforms.Map):
    """Count of a process's rows → the row, its media and what was skipped for it."""

    config: Config
    tokenizer: Tokenizer
    mixture: Mixture
    order: grain.MapDataset
    """Place of the run → (source, index in it)."""
    rows: tuple[int, ...]
    """Those of each batch that this process makes."""

    def map(self, element: int) -> dict[str, Any]:
        step, at = divmod(element, len(self.rows))
        place = step * self.config.data.batch_size + self.rows[at]
        number, index = self.order[place]
        source = self.mixture.sources[number]
        skipped: dict[str, str] = {}
        while len(skipped) < len(source):
            rng = np.random.default_rng([self.config.data.seed, place])
            try:
                told = source.tell(index, self.config, rng)
                made = row_of(self.config, self.tokenizer, told, rng)
            except DEFECTS as error:
                skipped[source.where(index)] = str(error)
                require_few(skipped, self.config.data.max_broken)
                index = (index + 1) % len(source)
            else:
                return made | {"task": self.mixture.tasks[number], "skipped": skipped}
        raise BadInput(f"{source.where(index)}: every record of its source is broken: {skipped}")


def row_of(
    config: Config, tokenizer: Tokenizer, told: Told, rng: np.random.Generator
) -> dict[str, Any]:
    """Returns the arrays of one row by name.

    Raises:
        TokenError, BadInput: when the conversation or what it shows cannot be used.
    """
    made: dict[str, Any] = {"id": told.id}
    if config.train.objective == "pretrain":
        ecg, record, measured = config.model.ecg, told.record, told.measured
        assert ecg and record and measured  # as the objective's model and sources were built
        media = [Medium(ecg_array(record, ecg, config.data.reading), None, (0, 0))]
        made["waves"] = wave_targets(measured, ecg, MODEL_RATE_HZ)
        made["qrs"] = qrs_targets(measured, ecg, MODEL_RATE_HZ)
        made["summary"] = summary_targets(measured)
    else:
        media = [shown(config, exhibit, rng) for exhibit in told.exhibits]
    made["row"] = train_row(config, tokenizer, told.turns, media, told.id)
    return made | {"media": media}


def shown(config: Config, exhibit: Exhibit, rng: np.random.Generator) -> Medium:
    """Returns what a placeholder shows as the encoders take it, its page in another look."""
    page = page_of(exhibit, config.model)
    if config.data.augment:
        page = another_look(page, rng)
    return encoded(config.model, exhibit, page)


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
    """Returns the ECGs and pages that every row of the run has room for."""
    if config.train.objective == "pretrain":
        return Capacity(1, 0)
    return room_for(config.model, config.data.media)
