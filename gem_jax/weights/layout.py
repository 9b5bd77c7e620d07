"""Which of the known layouts a folder of weights has: its config.json says it, its names agree."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gem_jax.weights.families import FAMILIES
from gem_jax.weights.files import WeightsError, open_folder, read_json, some

LAYOUTS = {
    "official": tuple(own.llava for own in FAMILIES.values()),
    "language model": tuple(own.llm for own in FAMILIES.values()),
    "transformers": ("LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration"),
    "CLIP": ("CLIPModel", "CLIPVisionModel"),
}


def layout_of(folder: Path) -> str:
    """Returns the layout of `folder`, one of LAYOUTS.

    Raises:
        WeightsError: naming the folder's first tensors and the known layouts when it has another.
    """
    values = read_json(folder / "config.json")
    layout = named_layout(values)
    if layout is None:
        got = f"architectures {values.get('architectures')!r}"
        raise unknown_layout(folder, got, open_folder(folder).entries)
    return layout


def named_layout(values: Mapping[str, Any]) -> str | None:
    """Returns the layout that a config.json names; None: none that is known."""
    named = values.get("architectures")
    found = [layout for layout, known in LAYOUTS.items() if named in [[name] for name in known]]
    return found[0] if found else None


def unknown_layout(folder: Path, got: str, names: Collection[str]) -> WeightsError:
    """Returns the error that says what lies in `folder`, and what could."""
    known = "; ".join(f"{layout} ({', '.join(names)})" for layout, names in LAYOUTS.items())
    first = some(list(names)) or "none"
    return WeightsError(
        f"{folder}: unknown layout: got {got} and tensors {first}, expected one of: {known}"
    )
