"""Rows of tokens at their final length: placeholders expanded, targets shifted, padding.

Host code, numpy. A placeholder becomes one token a feature, and `media_index` says which feature of
the row each receives; which token is text and which is padding follows from lengths, never from an
id or a value. Axes: T tokens of the row, F features of one placeholder.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from gem_jax.templates import TokenError
from gem_jax.tokens import IGNORED, IMAGE_TOKEN, Encoded

Cut = Literal["refuse", "original"]
# Of a row, and of a batch: what has a value for each token.
TEXT_FIELDS = ("tokens", "positions", "segments", "media_index", "targets", "loss_mask")


@dataclass(frozen=True)
class Row:
    """One conversation at its final length; padding has segment 0."""

    tokens: Int[np.ndarray, " T"]
    positions: Int[np.ndarray, " T"]
    segments: Int[np.ndarray, " T"]
    media_index: Int[np.ndarray, " T"]
    targets: Int[np.ndarray, " T"]
    loss_mask: Bool[np.ndarray, " T"]
    num_cut: int = 0
    """Tokens that were cut off its end."""

    @property
    def length(self) -> int:
        """Tokens without the padding."""
        return int(self.segments.sum())


@dataclass(frozen=True)
class Merged:
    """A conversation with its placeholders expanded, at its own length."""

    tokens: Int[np.ndarray, " T"]
    media_index: Int[np.ndarray, " T"]
    """Which feature of the row a token receives; -1: it is text."""
    learn: Bool[np.ndarray, " T"]
    id: str

    @property
    def labels(self) -> Int[np.ndarray, " T"]:
        """The tokens that are learnt, -100 elsewhere, each at its own place."""
        return np.where(self.learn, self.tokens, IGNORED)

    def cut(self, length: int | None) -> "Merged":
        """Returns the first `length` tokens, as the original: perhaps within a feature block."""
        return Merged(self.tokens[:length], self.media_index[:length], self.learn[:length], self.id)

    def padded(self, length: int, side: str = "right") -> Row:
        """Returns the row of `length` tokens; the targets are one token ahead."""
        count = len(self.tokens)
        room = (length - count, 0) if side == "left" else (0, length - count)

        def pad(values: np.ndarray, fill: int | bool) -> np.ndarray:
            return np.pad(values, room, constant_values=fill)

        positions = np.maximum(np.arange(length) - room[0], 0)
        shifted = np.append(self.tokens[1:], 0), np.append(self.learn[1:], False)
        return Row(
            tokens=pad(self.tokens, 0).astype(np.int32),
            positions=positions.astype(np.int32),
            segments=pad(np.ones(count, np.int32), 0),
            media_index=pad(self.media_index, -1).astype(np.int32),
            targets=pad(shifted[0], 0).astype(np.int32),
            loss_mask=pad(shifted[1], False),
        )


def columns(rows: Sequence[Row]) -> dict[str, np.ndarray]:
    """Returns the text fields of a batch: the rows' own, (B, T), stacked."""
    return {field: np.stack([getattr(row, field) for row in rows]) for field in TEXT_FIELDS}


def merge(encoded: Encoded, media: Sequence[Int[np.ndarray, " _F"]]) -> Merged:
    """Returns the conversation with each placeholder as the features `media` gives it.

    An empty one leaves nothing of its placeholder: the text alone.

    Raises:
        TokenError: when there are more or fewer media than placeholders.
    """
    if len(media) != encoded.num_placeholders:
        raise TokenError(
            f"{encoded.id}: got {encoded.num_placeholders} placeholders, expected {len(media)}: "
            "one for each medium"
        )
    ends = np.flatnonzero(encoded.ids == IMAGE_TOKEN)
    # Feature tokens have the id 0; the model puts the features there by `media_index`.
    at = np.repeat(ends, [len(features) for features in media])
    features = np.concatenate([*media, np.arange(0)])
    tokens = np.insert(encoded.ids, at, 0)
    index = np.insert(np.full(len(encoded.ids), -1), at, features)
    learn = np.insert(encoded.learn, at, False)
    kept = tokens != IMAGE_TOKEN
    return Merged(tokens[kept], index[kept], learn[kept], encoded.id)


def expand(
    encoded: Encoded,
    media: Sequence[Int[np.ndarray, " _F"]],
    length: int,
    *,
    cut: Cut = "refuse",
    padding_side: str = "right",
) -> Row:
    """Returns the row of a conversation, for training, evaluation and generation alike.

    Args:
        encoded: The conversation.
        media: For each placeholder the features of the row that it receives.
        length: Tokens of the row, padded.
        cut: "refuse": a row that is too long is an error, half an answer or half an ECG is never
            shown; "original": it is cut at `length` wherever that falls.
        padding_side: Where the padding stands, `right` or `left`.

    Raises:
        TokenError: when the row is too long, is cut before all of its answers, or media and
            placeholders differ in number.
    """
    whole = merge(encoded, media)
    merged = whole.cut(length) if cut == "original" else whole
    if encoded.learn.any() and not merged.learn.any():
        raise TokenError(
            f"{encoded.id}: cut at {length} tokens, before its first answer; nothing is left to "
            "learn; raise data.length"
        )
    if (count := len(merged.tokens)) > length:
        raise TokenError(
            f"{encoded.id}: got {count} tokens, {len(np.concatenate([*media, []]))} of them "
            f"features, expected at most {length}; raise data.length or use shorter texts"
        )
    num_cut = len(whole.tokens) - len(merged.tokens)
    return dataclasses.replace(merged.padded(length, padding_side), num_cut=num_cut)
