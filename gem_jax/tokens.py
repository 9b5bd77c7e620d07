"""Conversations as tokens: `<image>` is -200, and the answers with their stop token are learnt.

Host code, numpy. Ids are the original's, token for token: the whole conversation is cut at
`<image>` and each stretch tokenized by itself. What is learnt comes from where the characters of
the answers lie, not from counting the tokens of rounds, which is where the original loses whole
conversations. Axes: T tokens, C characters.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from gem_jax.templates import IMAGE, Part, Template, TokenError, Turn, template
from gem_jax.tokenizer import Tokenizer

IMAGE_TOKEN = -200
IGNORED = -100
ROLES = ("human", "gpt")


@dataclass(frozen=True)
class Encoded:
    """A conversation before its media are put in: ids with -200 at placeholders, what is learnt."""

    ids: Int[np.ndarray, " T"]
    learn: Bool[np.ndarray, " T"]
    id: str = ""
    """The record's, for messages."""

    @property
    def labels(self) -> Int[np.ndarray, " T"]:
        """The ids that are learnt, -100 elsewhere."""
        return np.where(self.learn, self.ids, IGNORED)

    @property
    def num_placeholders(self) -> int:
        """How often `<image>` stands in it."""
        return int((self.ids == IMAGE_TOKEN).sum())


def encode(
    tokenizer: Tokenizer,
    template_name: str,
    turns: Sequence[tuple[str | None, str | None]],
    *,
    answer_open: bool = False,
    num_media: int | None = None,
    image_first: bool | None = None,
    any_tokenizer: bool = False,
    id: str = "conversation",
) -> Encoded:
    """Returns the tokens of a conversation.

    Args:
        tokenizer: That of the model.
        template_name: The words around the turns, of `TEMPLATES`.
        turns: (question, answer) pairs; questions hold `<image>` where media are shown.
        answer_open: The last answer is left out: a prompt, ended at the assistant's cue, in which
            nothing is learnt.
        num_media: What there is to show; as many `<image>` are expected. None: not known here.
        image_first: Moves `<image>` to the front of its turn, on a line of its own; None: as the
            template says. A turn with several stays as it is.
        any_tokenizer: Takes a tokenizer without the template's special tokens, as the original.
        id: The record's, for messages.

    Raises:
        TokenError: when placeholders do not fit the media or stand in an answer, nothing is to
            be learnt, or the tokenizer lacks the template's special tokens.
    """
    form = template(template_name)
    if not any_tokenizer:
        require_template(tokenizer, template_name, id)
    asked = [Turn(*turn) for turn in turns]
    _require_placeholders(asked, num_media, id)
    if form.image_first if image_first is None else image_first:
        asked = [
            Turn(turn.question and placeholder_first(turn.question), turn.answer) for turn in asked
        ]
    parts = [part for part in form.parts(form.system, asked, answer_open) if part.text]
    ids, learn = _tokens(tokenizer, form, parts)
    if form.labels == "lengths":
        learn = by_lengths(tokenizer, form, parts, len(ids))
    if not answer_open and not any(learn):
        raise TokenError(f"{id}: got no answer to learn, expected one after a question")
    also = [tokenizer.encode(token).ids for token in form.also]
    learnt = np.array(learn) | np.isin(ids, [one[0] for one in also if len(one) == 1])
    return Encoded(np.array(ids), learnt & (not answer_open), id)


def placeholder_first(text: str) -> str:
    """Returns the turn with its one `<image>` at the front, on a line of its own.

    The original's `preprocess_multimodal`.
    """
    if text.count(IMAGE) != 1:
        return text
    return f"{IMAGE}\n{text.replace(IMAGE, '').strip()}".strip()


def turns_of(conversations: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Returns the (question, answer) pairs of a record's conversations.

    Raises:
        TokenError: when the roles do not alternate from `human` to `gpt`, or a value is no text.
    """
    turns = one_sided_turns_of(conversations)
    whole = [
        (turn.question, turn.answer)
        for turn in turns
        if turn.question is not None and turn.answer is not None
    ]
    if len(whole) != len(turns):
        roles = [turn["from"] for turn in conversations]
        raise TokenError(f"conversations: got roles {roles}, expected human, gpt alternating")
    return whole


def one_sided_turns_of(conversations: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """Returns the turns of conversations that may begin with an answer or end in a question."""
    roles = [turn.get("from") for turn in conversations]
    texts = [turn.get("value") for turn in conversations]
    first, last = roles[:1] == ["gpt"], roles[-1:] == ["human"]
    whole = [*["human"] * first, *roles, *["gpt"] * last]
    if not roles or whole != list(ROLES) * (len(whole) // 2):
        raise TokenError(f"conversations: got roles {roles}, expected human, gpt alternating")
    if any(not isinstance(text, str) for text in texts):
        raise TokenError(f"conversations: got values {texts}, expected texts")
    sides = [*[None] * first, *texts, *[None] * last]
    return [Turn(*pair) for pair in zip(sides[::2], sides[1::2], strict=True)]


def media_paths(value: Any, id: str) -> list[str]:
    """Returns a record's `image` or `ecg`, one path or a list of them, as a list."""
    paths = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(paths, list | tuple) or not all(isinstance(path, str) for path in paths):
        raise TokenError(f"{id}: got media {value!r}, expected a path or a list of paths")
    return list(paths)


def texts_of(template_name: str, turns: Sequence[tuple[str, str]]) -> list[str]:
    """Returns the texts that a conversation is tokenized from, for training a tokenizer."""
    form = template(template_name)
    parts = form.parts(form.system, [Turn(*turn) for turn in turns], False)
    texts = [text for part in parts for text in part.text.split(IMAGE)]
    for special in form.needs:
        texts = [text.replace(special, "") for text in texts]
    return [text for text in texts if text]


def by_lengths(
    tokenizer: Tokenizer, form: Template, parts: Sequence[Part], total: int
) -> list[bool]:
    """Returns what the original learns in its v0: counted by the tokens of each part alone.

    A part alone has a begin token more than in the row, and the first two tokens of a question
    are not left out, so the counts run ahead of the answers. Kept for fidelity to v0 only.
    """
    lengths = [len(_tokens(tokenizer, form, [part])[0]) for part in parts]
    learn, end = [False] * lengths[0] + [True] * total, lengths[0]
    for part, length in zip(parts[1:-1], lengths[1:-1], strict=True):
        if not part.learn:
            learn[end + 2 : end + length] = [False] * (length - 2)
        end += length
    return learn[:total]


def _tokens(
    tokenizer: Tokenizer, form: Template, parts: Sequence[Part]
) -> tuple[list[int], list[bool]]:
    """Returns ids and what is learnt."""
    begin = form.bos or tokenizer.adds_bos
    ids = [tokenizer.bos_id] if begin and tokenizer.bos_id is not None else []
    learn = [False] * len(ids)
    stretches = [[part] for part in parts] if form.encoded == "parts" else [parts]
    for stretch in stretches:
        marked = np.repeat([part.learn for part in stretch], [len(part.text) for part in stretch])
        start = 0
        for count, text in enumerate("".join(part.text for part in stretch).split(IMAGE)):
            if count:
                ids, learn, start = [*ids, IMAGE_TOKEN], [*learn, False], start + len(IMAGE)
            pieces = tokenizer.encode(text)
            ids += pieces.ids
            learn += _overlapping(marked[start : start + len(text)], pieces.starts, pieces.ends)
            start += len(text)
    return ids, learn


def _overlapping(
    marked: Bool[np.ndarray, " C"], starts: Iterable[int], ends: Iterable[int]
) -> list[bool]:
    """Returns which of the pieces hold a marked character; an empty one counts as the next."""
    return [
        bool(marked[start : max(end, start + 1)].any())
        for start, end in zip(starts, ends, strict=True)
    ]


def require_template(tokenizer: Tokenizer, name: str, id: str) -> None:
    """Refuses a tokenizer without the special tokens of a template, with a TokenError."""
    if missing := [token for token in template(name).needs if token not in tokenizer.special]:
        raise TokenError(
            f"{id}: template {name!r} needs the special tokens {', '.join(missing)}, the tokenizer "
            f"has {', '.join(sorted(tokenizer.special)) or 'none'}; choose the template of the "
            "tokenizer's model (model.template)"
        )


def _require_placeholders(turns: Sequence[Turn], num_media: int | None, id: str) -> None:
    if any(IMAGE in (turn.answer or "") for turn in turns):
        raise TokenError(f"{id}: got {IMAGE} in an answer, expected it in a question")
    count = sum((turn.question or "").count(IMAGE) for turn in turns)
    if num_media not in (None, count):
        raise TokenError(
            f"{id}: got {count} {IMAGE} in the questions, expected {num_media}: one for each medium"
        )
