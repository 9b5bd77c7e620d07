"""Official instruction files of any number of short rows, on the goldens' records and pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny
from gem_jax.config import Config, SourceConfig

GOLDEN = Path(__file__).parent / "goldens" / "train_tiny"
ECGS, IMAGES = str(GOLDEN / "ecg"), str(GOLDEN / "img")


def row(number: int, **fields: Any) -> dict[str, Any]:
    """Returns a row as the official files have it; a field that is None is left out."""
    turns = [
        {"from": "human", "value": "<image>\nRate?"},
        {"from": "gpt", "value": f"{60 + number} bpm."},
    ]
    made = {
        "id": f"row{number}",
        "ecg": f"rec{number % 8}",
        "image": f"i{number % 5}.png",
        "conversations": turns,
    }
    return {key: value for key, value in (made | fields).items() if value is not None}


def write(path: Path, rows: list[Any]) -> Path:
    """Writes the rows as an official file and returns its path."""
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return path


def source(path: Path, **fields: Any) -> SourceConfig:
    """Returns the file as part of a mixture, with the goldens' folders."""
    return SourceConfig(str(path), **({"ecgs": ECGS, "images": IMAGES} | fields))


def config(prepared: Path, *parts: SourceConfig, **fields: Any) -> Config:
    """Returns the tiny recipe on these parts; four rows a batch, four steps."""
    data = {"shards": "", "mixture": parts, "batch_size": 4, "augment": False}
    recipe = tiny.changed(tiny.on(prepared, tiny.instruct()), data=data | fields)
    return tiny.changed(recipe, train={"steps": 4})
