"""A checkpoint that answers: questions with what they show in, texts out, in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gem_jax import checkpoint
from gem_jax.data import as_arrays
from gem_jax.generate import generate
from gem_jax.inputs import Exhibit, features_of, medium_of, require_showable, room_for, stack
from gem_jax.media import Capacity, max_features
from gem_jax.models.gem import Batch, GemConfig
from gem_jax.rows import expand
from gem_jax.templates import IMAGE
from gem_jax.tokenizer import Tokenizer, load_tokenizer
from gem_jax.tokens import Encoded, encode

# Prompts are padded to a multiple of this: few lengths, few compilations.
BUCKET = 8


@dataclass(frozen=True)
class Model:
    """A checkpoint in memory with its tokenizer."""

    config: GemConfig
    params: dict
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Question:
    """What is asked, and what is shown at each `<image>`; without one, all is shown before it."""

    text: str
    exhibits: tuple[Exhibit, ...] = ()
    id: str = "question"


@dataclass(frozen=True)
class Text:
    """An answer and why it ended: `eos` or `length`."""

    answer: str
    reason: str


def load_model(path: Path, shown: Sequence[Exhibit] = ()) -> Model:
    """Returns the CKPT `path`, ready to answer.

    What it could not be shown is refused before its weights are read.
    """
    sizes = checkpoint.read_model_config(checkpoint.locate(path))
    for exhibit in shown:
        require_showable(sizes, exhibit)
    config, params = checkpoint.load_params(path)
    tokenizer = load_tokenizer(checkpoint.locate(path).tokenizer)
    return Model(config, params, tokenizer)


def answer(
    model: Model, questions: Sequence[Question], *, max_new_tokens: int, batch_size: int = 12
) -> Iterator[Text]:
    """Yields the greedy answer to each question, in order.

    Every batch has the same shape: there is room for the longest prompt and the largest pages, the
    last batch is filled up with its first row. So one program is compiled, and an answer does not
    depend on how many questions there are.

    Raises:
        TokenError: when a question's `<image>` and exhibits differ in number, or it is too long.
    """
    asked = [prompt(model, question) for question in questions]
    length = prompt_length(model.config, asked)
    capacity = room_for(model.config, max(len(one.exhibits) for one in questions))
    for first in range(0, len(questions), batch_size):
        part = slice(first, first + batch_size)
        told, shown = asked[part], [one.exhibits for one in questions[part]]
        spare = batch_size - len(told)
        batch = prompts(
            model.config, told + told[:1] * spare, shown + shown[:1] * spare, capacity, length
        )
        made = generate(
            model.config,
            model.params,
            as_arrays(batch),
            max_new_tokens=max_new_tokens,
            num_tokens=model.tokenizer.num_sayable,
            decode=model.tokenizer.decode,
        )
        for one in made[: len(told)]:
            yield Text((one.text or "").strip(), one.reason)


def prompt(model: Model, question: Question) -> Encoded:
    """Returns the question as tokens, ended at the assistant's cue."""
    count = len(question.exhibits)
    text = question.text if IMAGE in question.text else f"{IMAGE}\n" * count + question.text
    return encode(
        model.tokenizer,
        model.config.template,
        [(text, "")],
        num_media=count,
        answer_open=True,
        id=question.id,
    )


def prompt_length(config: GemConfig, asked: Sequence[Encoded]) -> int:
    """Returns a row's length that the prompts fit in, whatever pages they show."""
    features = max_features(config)
    longest = max(len(one.ids) + one.num_placeholders * (features - 1) for one in asked)
    return min(-(-longest // BUCKET) * BUCKET, config.max_length - 1)


def prompts(
    config: GemConfig,
    asked: Sequence[Encoded],
    shown: Sequence[Sequence[Exhibit]],
    capacity: Capacity,
    length: int,
) -> Batch:
    """Returns the prompts with what they show as a batch of host arrays."""
    media = [[medium_of(config, exhibit) for exhibit in own] for own in shown]
    # Padded on the right whatever the original does: answers are written behind the padding.
    rows = [
        expand(one, features_of(config, capacity, own), length)
        for one, own in zip(asked, media, strict=True)
    ]
    return stack(config, capacity, rows, media)
