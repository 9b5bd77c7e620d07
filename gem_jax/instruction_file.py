"""Official instruction files as a source of training rows, read as they are.

A file is a JSON list of {id, ecg, image, conversations}, the paths below two folders. It may hold
a million rows: they are walked through once, and only their places in the file are kept. Their
texts are somebody's words about the very record, so only noise is added to it, and the look of its
page changed (`page_look`). Axes: N rows.
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from data_prep import augment, records
from gem_jax.config import Config, ConfigError, SourceConfig
from gem_jax.inputs import Exhibit
from gem_jax.models.gem import GemConfig
from gem_jax.templates import IMAGE, TokenError
from gem_jax.tokens import media_paths, turns_of
from gem_jax.told import Told

# White noise that no reader of the record would mention.
NOISE_MV = (0.0, 0.02)
_SPACE = re.compile(r"[ \t\r\n]*")
# Half a character, which JSON can name and no text can hold.
_LONE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, eq=False)
class Instructions:
    """The rows of an official file by their places in it, in bytes."""

    source: SourceConfig
    places: Int[np.ndarray, "N 2"]

    def __len__(self) -> int:
        return len(self.places)

    def where(self, index: int) -> str:
        return f"{self.source.path}: row {index}"

    def fingerprint(self) -> str:
        """Returns what tells whether the file is the same as before."""
        with Path(self.source.path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def row(self, index: int) -> Any:
        """Returns a row as it stands there."""
        start, stop = self.places[index].tolist()
        with Path(self.source.path).open("rb") as file:
            file.seek(start)
            return json.loads(file.read(stop - start))

    def tell(self, index: int, config: Config, rng: np.random.Generator) -> Told:
        row = self.row(index)
        if faults := faults_of(row, self.source, config):
            raise TokenError("; ".join(faults))
        exhibits = []
        for ecg, image in shown_by(row, self.source):
            record = records.read(ecg) if ecg and (config.model.ecg or not image) else None
            if record and config.data.augment:
                noise = augment.Change(
                    noise_mv=rng.uniform(*NOISE_MV), seed=int(rng.integers(2**31))
                )
                record = augment.add_noise(record, noise)
            exhibits.append(Exhibit(record, image, config.data.reading))
        return Told(str(row["id"]), turns_of(row["conversations"]), tuple(exhibits))


def walk(path: Path) -> Iterator[tuple[Any, int, int]]:
    """Yields each row of a JSON list with where it begins and ends in the file, in bytes.

    Raises:
        ConfigError: when the file cannot be read or is no JSON list.
    """
    try:
        text = path.read_bytes().decode("utf-8")
        yield from _walk(text)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(
            f"{path}: {error}, expected a JSON list of {{id, ecg, image, conversations}}"
        ) from error


def _walk(text: str) -> Iterator[tuple[Any, int, int]]:
    decode = json.JSONDecoder().raw_decode
    at, seen, num_bytes = _expect(text, _after(text, int(text.startswith("\ufeff"))), "["), 0, 0
    more = text[at : at + 1] != "]"
    while more:
        row, end = decode(text, at)
        start = num_bytes + len(text[seen:at].encode())
        num_bytes, seen = start + len(text[at:end].encode()), end
        yield row, start, num_bytes
        at = _after(text, end)
        more = text[at : at + 1] != "]"
        at = _expect(text, at, ",") if more else at
    if (end := _expect(text, at, "]")) != len(text):
        raise json.JSONDecodeError("expected nothing behind the list", text, end)


def _expect(text: str, at: int, sign: str) -> int:
    """Returns where the text goes on behind a sign; JSONDecodeError if another stands there."""
    if text[at : at + 1] != sign:
        raise json.JSONDecodeError(f"expected {sign!r}", text, at)
    return _after(text, at + 1)


def _after(text: str, at: int) -> int:
    """Returns where the next character stands that is no space."""
    space = _SPACE.match(text, at)
    return space.end() if space else at


def shown_by(row: Mapping[str, Any], source: SourceConfig) -> list[tuple[Path | None, Path | None]]:
    """Returns what each placeholder shows: the path of an ECG, and of a page unless it is drawn.

    Raises:
        TokenError: when `ecg` or `image` is no path and no list of paths.
    """
    ecgs = [Path(source.ecgs, ecg) for ecg in media_paths(row.get("ecg") or None, "ecg")]
    images = [Path(source.images, page) for page in media_paths(row.get("image") or None, "image")]
    return list(itertools.zip_longest(ecgs, images if source.images else []))


def faults_of(row: Any, source: SourceConfig, config: Config) -> list[str]:
    """Returns why a row is not of the known shape; the files that it names are not looked for."""
    if not isinstance(row, dict):
        return [f"got a {type(row).__name__}, expected an object"]
    keys = f"(its keys: {', '.join(row)})"
    faults = [
        f"lacks '{key}' {keys}" for key in ("id", "conversations") if row.get(key) in (None, "", [])
    ]
    try:
        turns = turns_of(row.get("conversations") or [])
        counts = {key: len(media_paths(row.get(key) or None, key)) for key in ("ecg", "image")}
    except (TokenError, AttributeError, TypeError) as error:
        return [*faults, f"{error} {keys}"]
    if _LONE.search("".join(itertools.chain.from_iterable(turns))):
        faults.append(f"a text holds half a surrogate pair, expected whole characters {keys}")
    asked = sum(question.count(IMAGE) for question, _ in turns)
    return faults + _media_faults(counts, asked, source, config.model, config.data.media, keys)


def _media_faults(
    counts: dict[str, int],
    asked: int,
    source: SourceConfig,
    model: GemConfig,
    room: int,
    keys: str,
) -> list[str]:
    """Returns what of a row's ECGs and pages is missing or too much."""
    faults = []
    needed = {
        "ecg": model.ecg is not None or not source.images,
        "image": bool(source.images),
    }
    for key, other in (("ecg", "image"), ("image", "ecg")):
        lacking = counts[other] or asked
        allowed = key in source.allow_missing and (key == "image" or bool(source.images))
        if needed[key] and lacking and not counts[key] and not allowed:
            faults.append(f"lacks '{key}' {keys}; give it, or name it in allow_missing")
    if all(counts.values()) and counts["ecg"] != counts["image"]:
        faults.append(f"names {counts['ecg']} ECGs and {counts['image']} pages, expected pairs")
    elif (shown := max(counts.values())) != asked:
        faults.append(f"got {asked} {IMAGE} in the questions, expected {shown}: one for each ECG")
    elif shown > room:
        faults.append(f"shows {shown} ECGs, expected at most data.media = {room}")
    return faults
