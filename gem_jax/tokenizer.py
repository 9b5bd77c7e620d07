"""The tokenizer of a folder: one interface over sentencepiece and `tokenizers`; and our own BPE.

A folder holds tokenizer.model (LLaMA), tokenizer.json, or vocab.json and merges.txt (Qwen2);
tokenizer_config.json names the special tokens.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from gem_jax.config import ConfigError
from gem_jax.sentencepieces import Pieces, SentencePieces

PAD, BOS, EOS = "<unk>", "<s>", "</s>"
SILENT = ("<image>", "<pad>")
SETTINGS = "tokenizer_config.json"
FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    SETTINGS,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
# Qwen2's words: as GPT-2's, but every digit is one, and line ends stay with what precedes them.
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class FastPieces:
    """A tokenizer of the library `tokenizers`, of any kind: byte-level BPE, Unigram, metaspaces."""

    inner: tokenizers.Tokenizer

    def encode(self, text: str) -> Pieces:
        """Returns the text's pieces; special tokens in it become their ids."""
        made = self.inner.encode(text, add_special_tokens=False)
        starts, ends = zip(*made.offsets, strict=True) if made.ids else ((), ())
        return Pieces(tuple(made.ids), starts, ends)

    def decode(self, ids: Sequence[int], skip_special: bool) -> str:
        """Returns the text of the ids."""
        return self.inner.decode(list(ids), skip_special_tokens=skip_special)


@dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back. A special token that the tokenizer has not is None."""

    engine: SentencePieces | FastPieces
    vocabulary: Mapping[str, int] = field(repr=False)
    special: Mapping[str, int]
    """Tokens that never come from ordinary text."""
    adds_bos: bool
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    unk_id: int | None
    files: Mapping[str, bytes] = field(repr=False)
    """What `save_tokenizer` writes: those of its folder, byte for byte."""

    @property
    def num_tokens(self) -> int:
        """One more than the highest id; an embedding table may have more rows, never meant."""
        return max(self.vocabulary.values()) + 1

    @property
    def num_sayable(self) -> int:
        """One more than the highest id that an answer may hold.

        transformers' LLaVA adds tokens behind the vocabulary that stand for no text.
        """
        silent = {self.token_id(token) for token in SILENT}
        count = self.num_tokens
        while count - 1 in silent:
            count -= 1
        return count

    def token_id(self, token: str) -> int | None:
        """Returns the id of a token."""
        return self.vocabulary.get(token)

    def encode(self, text: str) -> Pieces:
        """Returns the text's pieces, without a begin token."""
        return self.engine.encode(text)

    def encode_with_bos(self, text: str) -> list[int]:
        """Returns the ids that `tokenizer(text).input_ids` of transformers gives."""
        begin = [self.bos_id] if self.adds_bos and self.bos_id is not None else []
        return [*begin, *self.encode(text).ids]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Returns the text of the ids."""
        return self.engine.decode(ids, skip_special)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Returns the tokenizer in `folder`.

    Where tokenizer.model and tokenizer.json both are, tokenizer.model decides: the official
    weights were trained with it, and the tokenizer.json beside it treats what follows a special
    token otherwise.

    Raises:
        ConfigError: when there is none, or it cannot be read.
    """
    files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
    try:
        return _of_files(files, folder)
    except ConfigError:
        raise
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{folder}: got {type(error).__name__} {error} in the tokenizer's settings, expected "
            "them as transformers writes them"
        ) from error


def _of_files(files: dict[str, bytes], folder: Path) -> Tokenizer:
    if "tokenizer.model" in files:
        return _from_sentencepiece(files, folder)
    if "tokenizer.json" in files:
        return _from_json(files, folder)
    if {"vocab.json", "merges.txt"} <= set(files):
        return _from_merges(files, folder)
    raise ConfigError(
        f"{folder}: got no tokenizer, expected tokenizer.model, tokenizer.json, or vocab.json and "
        "merges.txt; name its folder by data.tokenizer"
    )


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Writes the folder that `load_tokenizer` and transformers' AutoTokenizer read."""
    folder.mkdir(parents=True, exist_ok=True)
    files = dict(tokenizer.files)
    settings = _settings(files, folder)
    if settings.get("model_max_length") != max_length:
        settings["model_max_length"] = max_length
        files[SETTINGS] = _as_json(settings)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Returns a byte-level BPE tokenizer of at most `vocab_size` pieces, digits kept single."""
    inner = tokenizers.Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    names = {"unk_token": PAD, "pad_token": PAD, "bos_token": BOS, "eos_token": EOS}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": None,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        **names,
    }
    files = {
        "tokenizer.json": inner.to_str(pretty=True).encode(),
        SETTINGS: _as_json(settings),
        "special_tokens_map.json": _as_json(names),
    }
    return _of_fast(inner, files, Path())


def _from_sentencepiece(files: dict[str, bytes], folder: Path) -> Tokenizer:
    settings = _settings(files, folder)
    _json(files, "tokenizer.json", folder)  # unused here, but not for whoever gets the folder
    try:
        plain = SentencePieces(files["tokenizer.model"], legacy=True, special={})
        size, processor = plain.num_pieces, plain.processor
    except Exception as error:  # sentencepiece and protobuf raise nothing narrower in common
        raise ConfigError(
            f"{folder / 'tokenizer.model'}: got {error}, expected a sentencepiece model"
        ) from error
    vocabulary = {processor.id_to_piece(id): id for id in range(size)}
    own = [processor.unk_id(), processor.bos_id(), processor.eos_id()]
    special = {processor.id_to_piece(id): id for id in own if id >= 0}
    special |= _added(files, folder)
    # Without the key, transformers takes the older manner.
    legacy = settings.get("legacy")
    engine = SentencePieces(files["tokenizer.model"], legacy is None or bool(legacy), special)
    names = {"bos_token": BOS, "eos_token": EOS, "unk_token": PAD}
    return _tokenizer(
        engine, vocabulary | special, special, files, folder, names, settings.get("add_bos_token")
    )


def _from_json(files: dict[str, bytes], folder: Path) -> Tokenizer:
    try:
        inner = tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())
    except Exception as error:  # tokenizers raises nothing narrower
        raise ConfigError(
            f"{folder / 'tokenizer.json'}: got {error}, expected a tokenizer.json"
        ) from error
    return _of_fast(inner, files, folder)


def _from_merges(files: dict[str, bytes], folder: Path) -> Tokenizer:
    kind = _settings(files, folder).get("tokenizer_class", "Qwen2Tokenizer")
    if kind.removesuffix("Fast") != "Qwen2Tokenizer":
        raise ConfigError(
            f"{folder / SETTINGS}: tokenizer_class: got {kind!r} with vocab.json and merges.txt "
            "alone, expected Qwen2Tokenizer; other classes need tokenizer.json"
        )
    vocabulary = str(folder / "vocab.json"), str(folder / "merges.txt")
    try:
        inner = tokenizers.Tokenizer(models.BPE.from_file(*vocabulary))
    except Exception as error:  # tokenizers raises nothing narrower
        raise ConfigError(
            f"{folder / 'vocab.json'}: got {error}, expected a vocabulary and its merges"
        ) from error
    inner.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(QWEN_WORDS), behavior="isolated")
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.pre_tokenizer = pre_tokenizers.Sequence([words, pieces])
    inner.decoder = decoders.ByteLevel()
    for token, id in sorted(_added(files, folder).items(), key=lambda pair: pair[1]):
        inner.add_special_tokens([AddedToken(token, normalized=False)])
        if (got := inner.token_to_id(token)) != id:
            raise ConfigError(
                f"{folder / SETTINGS}: {token}: got id {id}, expected {got}, the next after the "
                "vocabulary"
            )
    return _of_fast(inner, files, folder)


def _of_fast(inner: tokenizers.Tokenizer, files: dict[str, bytes], folder: Path) -> Tokenizer:
    added = inner.get_added_tokens_decoder()
    special = {token.content: id for id, token in added.items() if token.special}
    adds_bos = _settings(files, folder).get("add_bos_token")
    if adds_bos is None:
        adds_bos = bool(inner.encode("").ids)
    return _tokenizer(FastPieces(inner), inner.get_vocab(), special, files, folder, {}, adds_bos)


def _tokenizer(
    engine: SentencePieces | FastPieces,
    vocabulary: Mapping[str, int],
    special: Mapping[str, int],
    files: dict[str, bytes],
    folder: Path,
    names: Mapping[str, str],
    adds_bos: bool | None,
) -> Tokenizer:
    """Returns the tokenizer; `names` are those of special tokens that no file names."""
    named = {**names, **_json(files, "special_tokens_map.json", folder), **_settings(files, folder)}
    ids = {
        f"{kind}_id": vocabulary.get(_content(named.get(f"{kind}_token")) or "")
        for kind in ("bos", "eos", "pad", "unk")
    }
    return Tokenizer(
        engine, vocabulary, special, adds_bos is None or bool(adds_bos), **ids, files=files
    )


def _added(files: dict[str, bytes], folder: Path) -> dict[str, int]:
    """Returns the tokens that the settings add to the vocabulary."""
    decoder = _settings(files, folder).get("added_tokens_decoder") or {}
    added = {str(_content(token)): int(id) for id, token in decoder.items()}
    return {**_json(files, "added_tokens.json", folder), **added}


def _content(token: str | dict | None) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _settings(files: Mapping[str, bytes], folder: Path) -> dict[str, Any]:
    return _json(files, SETTINGS, folder)


def _json(files: Mapping[str, bytes], name: str, folder: Path) -> dict[str, Any]:
    """Returns the object in a file; empty where there is none."""
    try:
        values = json.loads(files.get(name, b"{}"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{folder / name}: got {error}, expected JSON") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{folder / name}: got {type(values).__name__}, expected an object")
    return values


def _as_json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=1) + "\n").encode()
