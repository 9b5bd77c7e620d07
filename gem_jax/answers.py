"""A checkpoint that answers: records and questions in, texts out, in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from data_prep.records import Record
from gem_jax import checkpoint
from gem_jax.data import as_arrays, page_array, prompt_row, stack
from gem_jax.generate import generate
from gem_jax.models.gem import GemConfig
from gem_jax.preprocess import ecg_array
from gem_jax.tokens import load_tokenizer


@dataclass(frozen=True)
class Model:
    """A checkpoint in memory with its tokenizer."""

    config: GemConfig
    params: dict
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Text:
    """An answer and why it ended: `eos` or `length`."""

    answer: str
    reason: str


def load_model(path: Path) -> Model:
    """Returns the CKPT `path`, ready to answer."""
    config, params = checkpoint.load_params(path)
    tokenizer = load_tokenizer(checkpoint.locate(path).tokenizer)
    return Model(config, params, tokenizer)


def answer(
    model: Model,
    records: Sequence[Record],
    questions: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int = 12,
) -> Iterator[Text]:
    """Yields the greedy answer to each question about its record, in order.

    Every batch has the same shape: the last is filled up with its first row, so that one program
    is compiled and a record's answer does not depend on how many there are.
    """
    length = model.config.max_length - max_new_tokens
    for first in range(0, len(records), batch_size):
        shown = records[first : first + batch_size]
        asked = questions[first : first + batch_size]
        rows = [prompt_row(model.tokenizer, model.config, question, length) for question in asked]
        ecgs = [ecg_array(record, model.config.ecg) for record in shown]
        pages = [page_array(record, model.config) for record in shown]
        filled = np.arange(batch_size) % len(shown) if len(shown) < batch_size else range(batch_size)
        batch = stack([rows[i] for i in filled], [ecgs[i] for i in filled], [pages[i] for i in filled])
        made = generate(
            model.config,
            model.params,
            as_arrays(batch),
            max_new_tokens=max_new_tokens,
            num_tokens=model.tokenizer.get_vocab_size(),
        )
        for one in made[: len(shown)]:
            yield Text(model.tokenizer.decode(list(one.tokens)).strip(), one.reason)
