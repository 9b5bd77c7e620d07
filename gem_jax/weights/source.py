"""What a checkpoint keeps of the folder that it was imported from, so that its export is the same.

{"layout", "name", "config"} and, where there are such, "generation_config", "encoders" (the
configs of the encoders' own files) and "shards" (tensors in each file). JSON, as it was.
"""

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from gem_jax.weights.files import PICKLES, read_json
from gem_jax.weights.names import gem_slots
from gem_jax.weights.read import Import


def source_of(folder: Path, plan: Import) -> dict[str, Any]:
    """Returns what to keep of `folder`, which `plan` imports."""
    official = plan.layout != "transformers"
    kept: dict[str, Any] = {
        "layout": "official" if official else "transformers",
        "name": folder.resolve().name,
        "config": read_json(plan.described / "config.json"),
    }
    generation = folder / "generation_config.json"
    if generation.is_file():
        kept["generation_config"] = read_json(generation)
    if plan.encoder_configs:
        kept["encoders"] = encoders_of(plan.encoder_configs)
    shards = _shards(plan) if official else ()
    return kept | ({"shards": shards} if len(shards) > 1 else {})


def encoders_of(files: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Returns the configs in `files`, by `vision` and `ecg`."""
    return {part: read_json(file) for part, file in files.items()}


def encoder_config(source: Mapping[str, Any] | None, part: str) -> dict[str, Any] | None:
    """Returns the config of the `vision` or `ecg` encoder as it was; None where none is kept."""
    return ((source or {}).get("encoders") or {}).get(part)


def _shards(plan: Import) -> list[int]:
    """Returns the tensors in each file; none where the files are not filled as ours would be."""
    entries = plan.folder.entries
    files = [entries[name].file for name in gem_slots(plan.config) if name in entries]
    counts = [len(list(run)) for _, run in groupby(files)]
    filled = len(counts) == len(set(files)) and not any(file.suffix in PICKLES for file in files)
    return counts if filled else []
