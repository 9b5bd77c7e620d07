"""Conversations as rows of tokens: templates, placeholder expansion, loss mask; and our tokenizer.

Host code, numpy. A row is built at its final length: `<image>` becomes one placeholder a feature,
and `media_index` says which feature each placeholder receives. Only the answers and their stop
token carry loss. Axis: T tokens of the row.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from gem_jax.config import ConfigError

IMAGE = "<image>"
PAD, BOS, EOS = "<unk>", "<s>", "</s>"
ROLES = ("human", "gpt")


class TokenError(ValueError):
    """A conversation that cannot become a row: too long, without an answer, wrong placeholders."""


@dataclass(frozen=True)
class Template:
    """What stands around the turns; an answer ends with the tokenizer's end token."""

    system: str
    user: str
    assistant: str


TEMPLATES = {
    # The sentence of Vicuna 1.1, which LLaVA and GEM keep.
    "vicuna_v1": Template(
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions. ",
        "USER: {} ",
        "ASSISTANT:",
    ),
    # The same turns without a system sentence: a small model's row has no room for it.
    "bare": Template("", "USER: {} ", "ASSISTANT:"),
}


@dataclass(frozen=True)
class Row:
    """One conversation at its final length; padding has segment 0."""

    tokens: Int[np.ndarray, "T"]
    positions: Int[np.ndarray, "T"]
    segments: Int[np.ndarray, "T"]
    media_index: Int[np.ndarray, "T"]
    targets: Int[np.ndarray, "T"]
    loss_mask: Bool[np.ndarray, "T"]

    @property
    def length(self) -> int:
        """Tokens before the padding."""
        return int(self.segments.sum())

    def cut(self, length: int) -> "Row":
        """Returns the row with less padding; TokenError when a token would be lost."""
        if self.length > length:
            raise TokenError(f"row: got {self.length} tokens, expected at most {length}")
        parts = {name: values[:length] for name, values in vars(self).items()}
        return Row(**parts)


def template(name: str) -> Template:
    """Returns the template `name`; ConfigError lists the known ones."""
    if name not in TEMPLATES:
        raise ConfigError(f"model.template: got {name!r}, expected one of {sorted(TEMPLATES)}")
    return TEMPLATES[name]


def encode(
    tokenizer: Tokenizer,
    form: Template,
    turns: Sequence[tuple[str, str]],
    *,
    num_media: int,
    length: int,
    answer_open: bool = False,
) -> Row:
    """Returns the row of a conversation.

    Args:
        tokenizer: Ours, with the special tokens of this module.
        form: The words around the turns.
        turns: (question, answer) pairs; a question may hold `<image>` once in the conversation.
        num_media: Features that `<image>` stands for; 0 drops it: the row of text alone.
        length: Tokens of the row, padded on the right.
        answer_open: The last answer is left out: the row is a prompt that ends at the assistant's
            cue.

    Raises:
        TokenError: when the row is longer than `length` (nothing is cut: half an answer or half
            an ECG is never trained on), or the placeholders do not fit.
    """
    pieces, answers = _pieces(form, turns, answer_open)
    if sum(piece.count(IMAGE) for piece in pieces) != 1:
        raise TokenError(f"conversation: got {pieces!r}, expected {IMAGE} once among the questions")
    bos, eos, pad = special_ids(tokenizer)
    ids, media, learn = [bos], [-1], [False]
    for piece, is_answer in zip(pieces, answers, strict=True):
        for part, text in enumerate([piece] if is_answer else piece.split(IMAGE)):
            if part:
                ids += [pad] * num_media
                media += range(num_media)
                learn += [False] * num_media
            added = tokenizer.encode(text, add_special_tokens=False).ids
            added += [eos] * is_answer
            ids, media = ids + added, media + [-1] * len(added)
            learn += [is_answer] * len(added)
    return _padded(np.array(ids), np.array(media), np.array(learn), length)


def texts_of(form: Template, turns: Sequence[tuple[str, str]]) -> list[str]:
    """Returns the texts that a conversation's row is tokenized from, for training a tokenizer."""
    pieces, _ = _pieces(form, turns, answer_open=False)
    return [text for piece in pieces for text in piece.split(IMAGE) if text]


def special_ids(tokenizer: Tokenizer) -> tuple[int, int, int]:
    """Returns the ids of begin, end and padding; ConfigError when the tokenizer lacks one."""
    bos, eos, pad = (tokenizer.token_to_id(token) for token in (BOS, EOS, PAD))
    if bos is None or eos is None or pad is None:
        raise ConfigError(f"tokenizer: lacks a special token, expected {BOS}, {EOS} and {PAD}")
    return bos, eos, pad


def _pieces(
    form: Template, turns: Sequence[tuple[str, str]], answer_open: bool
) -> tuple[list[str], list[bool]]:
    """Returns the texts of the conversation in order and which of them are answers."""
    pieces, answers = [form.system], [False]
    for question, answer in turns:
        if IMAGE in answer:
            raise TokenError(f"conversation: got {IMAGE} in an answer, expected it in a question")
        pieces += [form.user.format(question) + form.assistant, f" {answer}"]
        answers += [False, True]
    return (pieces[:-1], answers[:-1]) if answer_open else (pieces, answers)


def _padded(ids: np.ndarray, media: np.ndarray, learn: np.ndarray, length: int) -> Row:
    count = len(ids)
    if count > length:
        raise TokenError(
            f"conversation: got {count} tokens, expected at most {length}; raise data.length or "
            "use shorter texts"
        )

    def pad(values: np.ndarray, fill: int | bool) -> np.ndarray:
        return np.concatenate([values, np.full(length - len(values), fill, values.dtype)])

    return Row(
        tokens=pad(ids, 0).astype(np.int32),
        positions=np.arange(length, dtype=np.int32),
        segments=pad(np.ones(count, np.int32), 0),
        media_index=pad(media, -1).astype(np.int32),
        targets=pad(ids[1:], 0).astype(np.int32),
        loss_mask=pad(learn[1:], False),
    )


def turns_of(conversations: Sequence[dict[str, str]]) -> list[tuple[str, str]]:
    """Returns the (question, answer) pairs of an ECG-Grounding record's conversations."""
    roles = [turn.get("from") for turn in conversations]
    if not roles or roles != list(ROLES) * (len(roles) // 2):
        raise TokenError(f"conversations: got roles {roles}, expected human, gpt alternating")
    texts = [turn["value"] for turn in conversations]
    return list(zip(texts[::2], texts[1::2], strict=True))


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Returns a byte-level BPE tokenizer of at most `vocab_size` pieces, digits kept single."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Writes the folder that `load_tokenizer` and transformers' AutoTokenizer read."""
    import json

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"unk_token": PAD, "pad_token": PAD, "bos_token": BOS, "eos_token": EOS}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        **names,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(names, indent=1) + "\n")


def load_tokenizer(folder: Path) -> Tokenizer:
    """Returns the tokenizer saved in `folder`; ConfigError if there is none."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(
            f"{path}: missing, expected a tokenizer.json; name its folder by data.tokenizer"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ConfigError(f"{path}: got {error}, expected a tokenizer.json") from error
    special_ids(tokenizer)
    return tokenizer
