"""The records of a corpus: those of the sample, or all in a folder, each with its split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from data_prep.records import BadInput, find
from data_prep.sample_index import SAMPLE, sample_records


@dataclass(frozen=True)
class Item:
    """One record of a corpus.

    Attributes:
        id: Names it in shards and manifest.
        path: Where its files lie, without suffix.
        ecg: The same, relative to the corpus.
        split: `train` or `test`.
        marked: Whether a cardiologist's marks lie beside it.
    """

    id: str
    path: Path
    ecg: str
    split: str
    marked: bool = False


def corpus_items(corpus: str, limit: int | None = None, test_fraction: float = 0.0) -> list[Item]:
    """Returns the records of the sample or of a folder.

    Args:
        corpus: `sample`, or a folder of records.
        limit: At most so many, spread evenly over the corpus.
        test_fraction: Of a folder's records, drawn by a hash of the id; the sample has its own.

    Raises:
        BadInput: No such corpus, no record in it, or a limit or fraction out of range.
    """
    if limit is not None and limit < 1:
        raise BadInput(f"--limit: got {limit}, expected 1 or more; leave it out for all records")
    if not 0.0 <= test_fraction < 1.0:
        raise BadInput(f"--test-fraction: got {test_fraction}, expected 0 or more and less than 1")
    if corpus != "sample" and not Path(corpus).is_dir():
        raise BadInput(f"{corpus}: no such corpus, expected 'sample' or a folder of records")
    items = _sample() if corpus == "sample" else _folder(Path(corpus), test_fraction)
    if limit is None or limit >= len(items):
        return items
    return [items[k * len(items) // limit] for k in range(limit)]


def _sample() -> list[Item]:
    return [
        Item(r.id, r.path, r.path.relative_to(SAMPLE).as_posix(), r.split, r.corpus == "ludb")
        for r in sample_records(verify=True)
    ]


def _folder(folder: Path, test_fraction: float) -> list[Item]:
    items = []
    for path in find([folder]):
        name = path.relative_to(folder).as_posix()
        drawn = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") / 2**32
        items.append(Item(name, path, name, "test" if drawn < test_fraction else "train"))
    return items
