"""LLaMA's tokenizer.model: text into pieces and back, by sentencepiece.

As the slow tokenizer of transformers 4.37 does it, which the official weights were trained with:
special tokens are cut out first, then what stands between them is encoded. Newer releases differ.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sentencepiece.sentencepiece_model_pb2 as sentencepiece_model
from sentencepiece import SentencePieceProcessor

from gem_jax.config import ConfigError

SPACE = "▁"


@dataclass(frozen=True)
class Pieces:
    """A text's token ids and the characters, [start, end), that each stands for."""

    ids: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]


@dataclass(frozen=True)
class SentencePieces:
    """A tokenizer.model with its special tokens.

    `legacy`: every part between special tokens begins with a space of its own, not the text alone.
    """

    model: bytes = field(repr=False)
    legacy: bool
    special: Mapping[str, int]

    @functools.cached_property
    def processor(self) -> SentencePieceProcessor:
        """The model; in the later manner it adds no space by itself."""
        return SentencePieceProcessor(model_proto=_without_prefix(self.model, not self.legacy))

    @property
    def num_pieces(self) -> int:
        """Rows of the model, without tokens added to it."""
        return self.processor.get_piece_size()

    def encode(self, text: str) -> Pieces:
        """Returns the text's pieces; special tokens in it become their ids."""
        if not text:
            return Pieces((), (), ())
        shift = 0 if self.legacy else 1
        whole = text if self.legacy else SPACE + text.replace(SPACE, " ")
        found: list[tuple[int, int, int]] = []
        for part in re.finditer(self._splitter, whole):
            if part[0] in self.special:
                found.append((self.special[part[0]], part.start() - shift, part.end() - shift))
            else:
                found += self._part(part[0], part.start() - shift)
        if not self.legacy and len(found) > 1 and found[1][0] in self.special.values():
            lone_space = found[0][0] == self.processor.piece_to_id(SPACE)
            found = found[1:] if lone_space else found
        ids, starts, ends = zip(*found, strict=True)
        return Pieces(ids, tuple(max(0, start) for start in starts), ends)

    def decode(self, ids: Sequence[int], skip_special: bool) -> str:
        """Returns the text of the ids, without the space that encoding put before it."""
        names = {id: name for name, id in self.special.items()}
        kept = [id for id in ids if not (skip_special and id in names)]
        told, run = "", []
        for place, id in enumerate(kept):
            if id not in names:
                piece = self.processor.id_to_piece(int(id))
                run.append(piece.removeprefix(SPACE) if place == 0 else piece)
                continue
            after_text = place > 0 and kept[place - 1] not in names
            told += " " * (self.legacy and after_text) + self.processor.decode_pieces(run)
            told, run = told + names[id], []
        return told + self.processor.decode_pieces(run)

    @functools.cached_property
    def _splitter(self) -> str:
        """Matches a special token, the longest first, or the text up to the next."""
        special = "|".join(re.escape(name) for name in sorted(self.special, key=len)[::-1])
        return f"(?s:{special}|.+?(?={special}|\\Z))"

    def _part(self, part: str, offset: int) -> list[tuple[int, int, int]]:
        """Returns (id, start, end) of the pieces of text without special tokens."""
        encode = functools.partial(self.processor.encode, out_type=str)
        if self.legacy:
            # The first piece holds the added space: it starts one character before the text.
            pieces, start = encode(part), offset - self._adds_prefix
        elif part.startswith((SPACE, " ")):
            # Spaces in front keep their pieces only behind something.
            unknown = self.processor.id_to_piece(self.processor.unk_id())
            pieces, start = encode(unknown + part)[len(encode(unknown)) :], offset
        else:
            pieces, start = encode(part), offset
        located = self._located(pieces, start)
        if not located or located[-1][2] != offset + len(part):
            raise ConfigError(
                f"tokenizer.model: got pieces {pieces} of {part!r}, expected each character once: "
                "a model that rewrites its text (a normaliser) is none of LLaMA's"
            )
        return [(id, max(first, offset), end) for id, first, end in located]

    @functools.cached_property
    def _adds_prefix(self) -> int:
        return int(_proto(self.model).normalizer_spec.add_dummy_prefix)

    def _located(self, pieces: Sequence[str], start: int) -> list[tuple[int, int, int]]:
        """Returns (id, start, end) of the pieces; the bytes of a character share its place."""
        located = []
        for piece in pieces:
            id = self.processor.piece_to_id(piece)
            byte = int(piece[1:-1], 16) if self.processor.is_byte(id) else None
            first_of_character = byte is None or byte & 0xC0 != 0x80
            begin = start if first_of_character else start - 1
            start = begin + (len(piece) if byte is None else 1)
            located.append((id, begin, start))
        return located


def _proto(model: bytes) -> Any:
    proto: Any = sentencepiece_model.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(model)
    return proto


def _without_prefix(model: bytes, without: bool) -> bytes:
    """Returns the model, `without` its rule that a text begins with a space."""
    proto = _proto(model)
    proto.normalizer_spec.add_dummy_prefix &= not without
    return proto.SerializeToString()
