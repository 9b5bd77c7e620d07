"""What one training row tells and shows before it is arrays, and what keeps it from being a row."""

from collections.abc import Sequence
from dataclasses import dataclass

from data_prep.measurement import Measurement
from data_prep.records import BadInput, Record
from gem_jax.inputs import Exhibit
from gem_jax.templates import TokenError

# What a record that cannot be read or used raises.
DEFECTS = (BadInput, TokenError, OSError)


@dataclass(frozen=True)
class Told:
    """A conversation with what its placeholders show; stage 0 also reads what was measured."""

    id: str
    turns: Sequence[tuple[str, str]]
    exhibits: tuple[Exhibit, ...]
    record: Record | None = None
    measured: Measurement | None = None


@dataclass(frozen=True)
class Broken:
    """A record that is skipped: where it stands, and why."""

    where: str
    reason: str

    def __str__(self):
        return f"{self.where}: {self.reason}"
