"""The records of data_prep/sample: which there are, in which split, and whether they are intact."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_prep.records import BadInput

SAMPLE = Path(__file__).parent / "sample"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class SampleRecord:
    """One record of the sample.

    Attributes:
      id: unique, e.g. `ludb/1`.
      path: WFDB path without suffix.
      corpus: where it comes from; LUDB records carry cardiologists' marks.
      split: `test` records are held out, and all of LUDB.
      licence: of the record, by its SPDX name.
    """

    id: str
    path: Path
    corpus: Literal["ludb", "ptbxl"]
    split: Literal["train", "test"]
    licence: str


def sample_records(folder: str | Path = SAMPLE, *, verify: bool = False) -> list[SampleRecord]:
    """The records of the manifest in its order, each of another patient.

    Args:
      folder: the sample's folder.
      verify: compare every file with its checksum first.

    Raises:
      BadInput: the manifest is missing or garbled, or a file is missing or altered.
    """
    folder = Path(folder)
    records = []
    for entry in _entries(folder / MANIFEST):
        if verify:
            _verify(folder, entry["id"], entry["sha256"])
        records.append(
            SampleRecord(
                id=entry["id"],
                path=folder / entry["path"],
                corpus=entry["corpus"],
                split=entry["split"],
                licence=entry["licence"],
            )
        )
    return records


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _entries(manifest: Path) -> list[dict]:
    try:
        return json.loads(manifest.read_text(encoding="utf-8"))["records"]
    except FileNotFoundError:
        raise BadInput(
            f"{manifest}: missing; the sample needs a checkout of the repository"
        ) from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise BadInput(
            f"{manifest}: garbled ({error}), expected JSON with 'records'; restore it"
        ) from None


def _verify(folder: Path, record_id: str, checksums: Mapping[str, str]) -> None:
    for name, expected in checksums.items():
        path = folder / name
        if not path.is_file():
            raise BadInput(f"{path}: missing, expected a file of record {record_id}; restore it")
        if (got := sha256(path)) != expected:
            raise BadInput(
                f"{path}: sha256 is {got[:12]}…, expected {expected[:12]}…; "
                "the file was altered, restore it"
            )
