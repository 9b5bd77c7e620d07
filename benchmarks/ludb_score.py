"""How well found waves agree with cardiologists' marks: the definitions of the published tables.

A wave is matched by its peak, within 150 ms, each mark with the nearest find that is still free.
What lies before the first mark of a lead or after its last is no false find: LUDB leaves the waves
at both ends unmarked. Errors of bounds are pooled over all matched waves, none is clipped; a bound
that was not found is counted apart. P is not scored in a paced record without a single P mark:
there, visible P waves were left unmarked.

Axes: N waves, B the two bounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from data_prep.waves import Waves

TOLERANCE_MS = 150.0
WAVES = ("P", "QRS", "T")


@dataclass
class Score:
    """Counts of one kind of wave, and the errors of its bounds in ms.

    Attributes:
        matched: marks with a find.
        missed: marks without one.
        invented: finds without a mark.
        errors_ms: found minus marked, of onsets and of offsets.
        unbounded: matched marks whose onset, or offset, was not found.
    """

    matched: int = 0
    missed: int = 0
    invented: int = 0
    errors_ms: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    unbounded: list[int] = field(default_factory=lambda: [0, 0])

    @property
    def sensitivity(self) -> float:
        """Share of the marks that were found, in percent."""
        return 100.0 * self.matched / max(self.matched + self.missed, 1)

    @property
    def predictive_value(self) -> float:
        """Share of the finds that are marked, in percent."""
        return 100.0 * self.matched / max(self.matched + self.invented, 1)

    def error(self, bound: int) -> tuple[float, float, float]:
        """Returns mean and standard deviation in ms, and the percentage not found, of a bound."""
        errors = np.array(self.errors_ms[bound] or [np.nan])
        share = 100.0 * self.unbounded[bound] / max(len(errors) + self.unbounded[bound], 1)
        return float(errors.mean()), float(errors.std()), share


def score(
    found: Mapping[str, Waves], marked: Mapping[str, Waves], p_unmarked: Sequence[str] = ()
) -> dict[str, Score]:
    """Returns the scores of P, QRS and T over all marked records.

    Args:
        found: by name of the record; one that is missing counts as nothing found.
        marked: the cardiologists' marks.
        p_unmarked: records whose P is not scored.
    """
    scores = {wave: Score() for wave in WAVES}
    for name, truth in marked.items():
        for i, lead in enumerate(truth.leads):
            theirs = truth.samples[i].reshape(-1, 3, 3)
            if np.isnan(theirs).all():
                continue
            ends = np.nanmin(theirs), np.nanmax(theirs)
            ours = _of_lead(found.get(name), lead)
            for w, wave in enumerate(WAVES):
                if wave != "P" or name not in p_unmarked:
                    ms = 1000.0 / truth.sampling_rate_hz
                    _add(scores[wave], ours[:, w], theirs[:, w], ends, ms)
    return scores


def _of_lead(waves: Waves | None, lead: str) -> Float[np.ndarray, "N 3 3"]:
    if waves is None or lead not in waves.leads:
        return np.empty((0, 3, 3))
    return waves.samples[waves.leads.index(lead)].reshape(-1, 3, 3)


def _add(
    into: Score,
    ours: Float[np.ndarray, "N 3"],
    theirs: Float[np.ndarray, "N 3"],
    ends: tuple[float, float],
    ms: float,
) -> None:
    """Adds one lead's waves of one kind: rows of onset, peak, offset in samples of `ms`."""
    tolerance, beyond = TOLERANCE_MS / ms, TOLERANCE_MS / ms / 3
    theirs = theirs[np.isfinite(theirs[:, 1])]
    ours = ours[(ours[:, 1] >= ends[0] - beyond) & (ours[:, 1] <= ends[1] + beyond)]
    free = np.ones(len(ours), bool)
    for mark in theirs:
        away = np.where(free, np.abs(ours[:, 1] - mark[1]), np.inf)
        if not away.size or away.min() > tolerance:
            into.missed += 1
            continue
        nearest = int(away.argmin())
        free[nearest] = False
        into.matched += 1
        for bound, column in enumerate((0, 2)):
            if np.isfinite(mark[column]):
                error_ms = (ours[nearest, column] - mark[column]) * ms
                if np.isfinite(error_ms):
                    into.errors_ms[bound].append(float(error_ms))
                else:
                    into.unbounded[bound] += 1
    into.invented += int((free & (ours[:, 1] >= ends[0]) & (ours[:, 1] <= ends[1])).sum())
