"""What is stated of a table or array: by its own text, by the .json beside it, by the caller.

NAME.json beside NAME.csv or NAME.npy: {"sampling_rate_hz": 500, "unit": "mV", "leads": ["I", …]},
and "age" and "sex" if known. Nothing is guessed from the numbers.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_prep.records import BadInput, Reading

_MAX_BYTES = 1 << 20
_RATES_HZ = (1.0, 100_000.0)


@dataclass(frozen=True)
class Stated:
    """What is known of a file's numbers; None and () where nobody said it."""

    rate_hz: float | None = None
    leads: tuple[str, ...] = ()
    unit: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def rate_of(self, path: Path) -> float:
        """The rate, which must be stated."""
        if self.rate_hz is None:
            raise BadInput(
                f"{path}: no sampling rate is stated; give it as sampling_rate_hz in "
                f"{path.with_suffix('.json').name} beside it, or with --rate"
            )
        low, high = _RATES_HZ
        if not low <= self.rate_hz <= high:
            raise BadInput(
                f"{path}: sampling rate {self.rate_hz:g}, expected {low:g} to {high:g} Hz; "
                "correct it"
            )
        return self.rate_hz

    def leads_of(self, path: Path) -> tuple[str, ...]:
        """The leads' names, which must be stated."""
        if not self.leads:
            raise BadInput(
                f"{path}: no leads are named; give them in their order as leads in "
                f"{path.with_suffix('.json').name} beside it, or as --leads I,II,…"
            )
        return self.leads

    def unit_of(self, path: Path) -> str:
        """The unit, which must be stated."""
        if self.unit is None:
            raise BadInput(
                f"{path}: no unit is stated, and amplitudes do not tell it; give it as unit in "
                f"{path.with_suffix('.json').name} beside it, or with --unit"
            )
        return self.unit


def names_in(text: str) -> tuple[str, ...]:
    """The names of leads in one word of a command line: of `I,II,V1`; none of an empty one."""
    return tuple(name.strip() for name in text.split(",")) if text.strip() else ()


def stated(path: Path, reading: Reading, own: Stated | None = None) -> Stated:
    """What is stated of a file: by itself, else by the .json beside it, else by the caller.

    Raises:
      BadInput: the .json is none, or a value in it is of another kind.
    """
    own = own or Stated()
    beside = _sidecar(path.with_suffix(".json"))
    return Stated(
        own.rate_hz or beside.rate_hz or reading.rate_hz,
        own.leads or beside.leads or reading.leads,
        own.unit or beside.unit or reading.unit,
        beside.meta,
    )


def _sidecar(path: Path) -> Stated:
    if not path.is_file():
        return Stated()
    if path.stat().st_size > _MAX_BYTES:
        raise BadInput(f"{path}: {path.stat().st_size} bytes, expected a small JSON object")
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: no JSON ({str(error)[:60]}); correct it") from None
    if not isinstance(said, dict):
        raise BadInput(f"{path}: got {type(said).__name__}, expected a JSON object")
    rate_hz, leads, unit = (said.get(key) for key in ("sampling_rate_hz", "leads", "unit"))
    if rate_hz is not None and not _is_number(rate_hz):
        raise BadInput(f"{path}: sampling_rate_hz is {str(rate_hz)[:40]!r}, expected a number")
    if unit is not None and not isinstance(unit, str):
        raise BadInput(f"{path}: unit is {str(unit)[:40]!r}, expected a text")
    if leads is not None and not (
        isinstance(leads, list) and all(isinstance(x, str) for x in leads)
    ):
        raise BadInput(f"{path}: leads is {str(leads)[:40]!r}, expected a list of names")
    meta: dict[str, Any] = {}
    if _is_number(said.get("age")) and 0 <= said["age"] <= 150:
        meta["age"] = float(said["age"])
    if isinstance(said.get("sex"), str):
        meta["sex"] = {"m": "M", "f": "F"}.get(said["sex"][:1].lower())
    return Stated(None if rate_hz is None else float(rate_hz), tuple(leads or ()), unit, meta)


def _is_number(value: object) -> bool:
    """Whether JSON gave a finite number; an int beyond every float is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False
