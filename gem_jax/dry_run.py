"""What a run would be trained with: every field by its flag's name, marked where changed."""

import dataclasses
from typing import Any

from gem_jax.config import Config


def told(recipe: Config, config: Config) -> str:
    """Returns the resolved `config`, a field a line, and its difference from the recipe's.

    A field that flags have changed begins with `*` and ends with the recipe's value.
    """
    before, now = fields(recipe), fields(config)
    lines = [_line(name, before, value) for name, value in now.items()]
    gone = [f"* {name} is gone  (recipe: {before[name]!r})" for name in before.keys() - now.keys()]
    changed = sum(line.startswith("*") for line in lines + gone)
    last = f"{changed} fields differ from the recipe's" if changed else "as the recipe says"
    return "\n".join([*lines, *sorted(gone), last])


def fields(config: Any, within: str = "") -> dict[str, Any]:
    """Returns {dotted name: value} of a config's dataclasses, in their order."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        found |= _fields(getattr(config, field.name), within + field.name)
    return found


def _fields(value: Any, name: str) -> dict[str, Any]:
    if dataclasses.is_dataclass(value):
        return fields(value, f"{name}.")
    if isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
        parts = [fields(part, f"{name}.{number}.") for number, part in enumerate(value)]
        return {key: kept for part in parts for key, kept in part.items()}
    return {name: value}


def _line(name: str, before: dict[str, Any], now: Any) -> str:
    recipe = repr(before[name]) if name in before else "not there"
    same = recipe == repr(now)
    return f"  {name} = {now!r}" if same else f"* {name} = {now!r}  (recipe: {recipe})"
