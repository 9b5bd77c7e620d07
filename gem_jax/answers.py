"""A checkpoint that answers: records and questions in, texts out, in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.records import Record
from gem_jax import checkpoint
from gem_jax.data import as_arrays, ecg_of, page_tiles, prompt_row, stack
from gem_jax.generate import generate
from gem_jax.models.gem import GemConfig
from gem_jax.tokenizer import Tokenizer, load_tokenizer

# Prompts are padded to a multiple of this: few lengths, few compilations.
BUCKET = 8


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

    Every batch has the same shape: prompts are padded to the longest, the last batch is filled up
    with its first row. So one program is compiled, and a record's answer does not depend on how
    many there are. An answer ends at the model's length where that comes first.
    """
    longest = model.config.max_length
    rows = [prompt_row(model.tokenizer, model.config, question, longest) for question in questions]
    length = min(-(-max(row.length for row in rows) // BUCKET) * BUCKET, longest - 1)
    rows = [row.cut(length) for row in rows]
    for first in range(0, len(records), batch_size):
        shown = slice(first, first + batch_size)
        columns: list[list] = [
            rows[shown],
            [ecg_of(record, model.config) for record in records[shown]],
            [page_tiles(record, model.config) for record in records[shown]],
        ]
        count = len(columns[0])
        batch = stack(*(column + column[:1] * (batch_size - count) for column in columns))
        made = generate(
            model.config,
            model.params,
            as_arrays(batch),
            max_new_tokens=min(max_new_tokens, longest - length),
            num_tokens=model.tokenizer.num_tokens,
        )
        for one in made[:count]:
            yield Text(model.tokenizer.decode(list(one.tokens)).strip(), one.reason)
