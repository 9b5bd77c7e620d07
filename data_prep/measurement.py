"""The measurement of a record: per beat and lead, and of the record as a whole; its JSON form.

Axes: L leads, N beats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
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

    def to_json(self) -> dict[str, Any]:
        """Returns the object that `measure --json` prints: null for what is unknown."""
        columns: list[list[list[Any]]] = [
            _whole(self.waves.samples[:, :, i]) for i in range(len(FIDUCIALS))
        ]
        columns += [_rounded(self.beats[key], key) for key in BEAT_QUANTITIES]
        keys = (*FIDUCIALS, *BEAT_QUANTITIES)
        leads = {
            lead: {
                "derived": lead in self.derived,
                "beats": [
                    dict(zip(keys, values, strict=True))
                    for values in zip(*(column[i] for column in columns), strict=True)
                ],
            }
            for i, lead in enumerate(self.leads)
        }
        return {
            "record": self.record,
            "sampling_rate_hz": self.sampling_rate_hz,
            "duration_s": round(self.duration_s, 4),
            "leads": leads,
            "global": {key: _number(value, key) for key, value in self.summary.items()},
            "quality": dict(self.quality),
        }

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
        )


def _digits(key: str) -> int:
    return max(
        ((len(unit), digits) for unit, digits in DIGITS.items() if key.endswith(unit)),
        default=(0, 4),
    )[1]


def _number(value: Number, key: str) -> Number:
    if value is None or isinstance(value, bool | int):
        return value
    return round(float(value), _digits(key)) if math.isfinite(value) else None


def _whole(samples: Float[np.ndarray, "L N"]) -> list[list[int | None]]:
    return [[None if s != s else round(s) for s in row] for row in samples.tolist()]


def _rounded(values: Float[np.ndarray, "L N"], key: str) -> list[list[float | None]]:
    rows = np.round(values, _digits(key)).tolist()
    return [[None if v != v else v for v in row] for row in rows]
