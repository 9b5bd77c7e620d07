"""The measurement of a record: per beat and lead, and of the record as a whole; its JSON form.

Axes: L leads, N beats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float

from data_prep.waves import FIDUCIALS, Waves

# Digits kept of a quantity, by the unit at the end of its name: finer than any ECG can tell.
DIGITS = {"_mv": 4, "_ms": 2, "_bpm": 2, "_deg": 2, "_mv_ms": 3}
BEAT_QUANTITIES = (
    "rr_ms",
    "pr_ms",
    "qrs_ms",
    "qt_ms",
    "p_ms",
    "p_amp_mv",
    "q_amp_mv",
    "r_amp_mv",
    "s_amp_mv",
    "t_amp_mv",
    "st_mv",
    "qrs_area_mv_ms",
)
BEAT_KINDS = ("ectopic", "paced")  # of the heartbeat: the same in every lead
Number = float | int | bool | None
Summary = Mapping[str, Number]


@dataclass(frozen=True)
class Measurement:
    """What was measured in one record.

    Attributes:
        record: name of the record.
        sampling_rate_hz: the rate that the marks count at.
        duration_s: length of the record.
        leads: names of the L leads.
        derived: those that were computed from others.
        waves: the marks.
        beats: each of BEAT_QUANTITIES for each lead and beat, NaN where unknown.
        summary: the numbers of the whole record, None where unknown.
        quality: what to beware of, and whether the leads are what they are called.
        ectopic: of each beat 1 or 0, NaN where it cannot be told; None if nobody looked.
        paced: the same.
    """

    record: str
    sampling_rate_hz: float
    duration_s: float
    leads: tuple[str, ...]
    derived: tuple[str, ...]
    waves: Waves
    beats: Mapping[str, Float[np.ndarray, "L N"]]
    summary: Summary
    quality: Mapping[str, Any] = field(default_factory=dict)
    ectopic: Float[np.ndarray, " N"] | None = None
    paced: Float[np.ndarray, " N"] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the object that `measure --json` prints: null for what is unknown."""
        kinds = [_flags(kind, self.waves.num_beats) for kind in (self.ectopic, self.paced)]
        keys = (*FIDUCIALS, *BEAT_QUANTITIES, *BEAT_KINDS)
        leads = {
            lead: {
                "derived": lead in self.derived,
                "beats": [
                    dict(zip(keys, (*row, ectopic, paced), strict=True))
                    for row, ectopic, paced in zip(rows, *kinds, strict=True)
                ],
            }
            for lead, rows in zip(self.leads, self._rows(), strict=True)
        }
        return {
            "record": self.record,
            "sampling_rate_hz": self.sampling_rate_hz,
            "duration_s": round(self.duration_s, 4),
            "leads": leads,
            "global": {key: _number(value, key) for key, value in self.summary.items()},
            "quality": dict(self.quality),
        }

    def _rows(self) -> list[list[list[float | int | None]]]:
        """Returns the marks and quantities of each lead and beat, rounded, None where unknown."""
        samples = self.waves.samples
        quantities = [np.round(self.beats[key], _digits(key)) for key in BEAT_QUANTITIES]
        whole = np.rint(np.nan_to_num(samples)).astype(np.int64)
        table = np.concatenate([whole.astype(object), np.stack(quantities, -1)], -1, dtype=object)
        table[np.isnan(np.concatenate([samples, np.stack(quantities, -1)], -1))] = None
        return table.tolist()

    @staticmethod
    def from_json(measured: Mapping[str, Any]) -> Measurement:
        """Returns the measurement of an object of `to_json`."""
        leads = tuple(measured["leads"])
        keys = (*FIDUCIALS, *BEAT_QUANTITIES)
        rows = [
            [[beat[key] for key in keys] for beat in measured["leads"][lead]["beats"]]
            for lead in leads
        ]
        table = np.array(rows, dtype=np.float64).reshape(len(leads), -1, len(keys))
        split = len(FIDUCIALS)
        first = measured["leads"][leads[0]]["beats"]
        ectopic, paced = (
            np.array([beat.get(kind) for beat in first], dtype=np.float64) for kind in BEAT_KINDS
        )
        return Measurement(
            record=measured["record"],
            sampling_rate_hz=measured["sampling_rate_hz"],
            duration_s=measured["duration_s"],
            leads=leads,
            derived=tuple(lead for lead in leads if measured["leads"][lead]["derived"]),
            waves=Waves(leads, measured["sampling_rate_hz"], table[..., :split]),
            beats={key: table[..., split + i] for i, key in enumerate(BEAT_QUANTITIES)},
            summary=measured["global"],
            quality=measured["quality"],
            ectopic=ectopic,
            paced=paced,
        )


@cache
def _digits(key: str) -> int:
    return max(
        ((len(unit), digits) for unit, digits in DIGITS.items() if key.endswith(unit)),
        default=(0, 4),
    )[1]


def _number(value: Number, key: str) -> Number:
    if value is None or isinstance(value, bool | int):
        return value
    return round(float(value), _digits(key)) if math.isfinite(value) else None


def _flags(kind: Float[np.ndarray, " N"] | None, num_beats: int) -> list[bool | None]:
    if kind is None:
        return [None] * num_beats
    return [None if value != value else bool(value) for value in kind.tolist()]
