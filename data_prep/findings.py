"""What a measurement shows in words: axis, rhythm, T waves, ST segments, R/S transition.

Teacher and claims both ask here, so that a text and its check can never use two definitions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from data_prep.criteria import AXIS_CATEGORIES, CHEST, contiguous, holds
from data_prep.waves import FIDUCIALS

if TYPE_CHECKING:
    from data_prep.measurement import Measurement

Polarity = Literal["upright", "flat", "inverted"]


def lead_median(m: Measurement, key: str, lead: str) -> float | None:
    """Returns the median over the beats of one quantity in one lead, None if there is none."""
    if lead not in m.leads or key not in m.beats:
        return None
    values = m.beats[key][m.leads.index(lead)]
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else None


def group_median(m: Measurement, key: str, leads: Iterable[str]) -> float | None:
    """Returns the median over leads of `lead_median`, None unless every lead has one."""
    values = [lead_median(m, key, lead) for lead in leads]
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known and len(known) == len(values) else None


def number(m: Measurement, key: str) -> float | None:
    """Returns one number of the measurement's summary, None where it is null or absent."""
    value = m.summary.get(key)
    return None if value is None else float(value)


def axis_category(axis_deg: float) -> str:
    """Returns normal, left, right or extreme for an axis in degrees, any turn of it."""
    wrapped = (axis_deg + 180.0) % 360.0 - 180.0
    wrapped = 180.0 if wrapped == -180.0 else wrapped
    return next(name for name in AXIS_CATEGORIES if holds(f"{name} axis", wrapped))


def p_share(m: Measurement) -> float | None:
    """Returns the share of beats that show a P wave in half of the leads or more."""
    peaks = np.isfinite(m.waves.samples[:, :, FIDUCIALS.index("p_peak")])
    beats = np.isfinite(m.waves.samples[:, :, FIDUCIALS.index("qrs_peak")]).any(axis=0)
    if not beats.any():
        return None
    return float((peaks[:, beats].mean(axis=0) >= 0.5).mean())


def rhythm(m: Measurement) -> str | None:
    """Returns the rhythm as regularity, P waves and rate show it, None if not measurable."""
    regular, rate_bpm = m.summary.get("rhythm_regular"), number(m, "heart_rate_bpm")
    share = p_share(m)
    if regular is None or rate_bpm is None or share is None:
        return None
    with_p = holds("p waves", share)
    if not regular:
        return "irregular rhythm with P waves" if with_p else "irregular rhythm without P waves"
    if not with_p:
        return "regular rhythm without P waves"
    if holds("bradycardia", rate_bpm):
        return "sinus bradycardia"
    return "sinus tachycardia" if holds("tachycardia", rate_bpm) else "sinus rhythm"


def t_polarity(t_amp_mv: float, lead: str = "V2", slack_mv: float = 0.0) -> Polarity:
    """Returns the direction of a T wave; `slack_mv` moves its amplitude before judging."""
    if holds("upright T", t_amp_mv + slack_mv, lead):
        return "upright"
    return "inverted" if holds("inverted T", t_amp_mv + slack_mv, lead) else "flat"


def st_leads(m: Measurement, finding: str) -> tuple[str, ...]:
    """Returns the leads with an ST finding that a contiguous lead shares, in lead order."""
    kept = contiguous({lead for lead in m.leads if _st(m, finding, lead)})
    return tuple(lead for lead in m.leads if lead in kept)


def st_known(m: Measurement) -> bool:
    """Returns whether the ST level is known in any lead."""
    return any(lead_median(m, "st_mv", lead) is not None for lead in m.leads)


def _st(m: Measurement, finding: str, lead: str) -> bool:
    value = lead_median(m, "st_mv", lead)
    return value is not None and holds(finding, value, lead)


def transition(m: Measurement, ease: float = 1.0) -> str | None:
    """Returns the first chest lead whose R is at least its S, `none` without one, None if unknown.

    Args:
        m: The measurement.
        ease: Factor on R before comparing, to ask how near a tie was.
    """
    for lead in CHEST:
        r_mv, s_mv = r_and_s(m, lead)
        if r_mv is None or s_mv is None:
            return None
        if holds("transition", ease * r_mv / s_mv if s_mv else math.inf, lead):
            return lead
    return "none"


def r_and_s(m: Measurement, lead: str) -> tuple[float | None, float | None]:
    """Returns the sizes of R and S in mV; a missing wave beside a measured one has size 0."""
    r_mv, s_mv = lead_median(m, "r_amp_mv", lead), lead_median(m, "s_amp_mv", lead)
    if r_mv is None and s_mv is None:
        # A QS complex has neither: its one wave is the Q.
        s_mv = lead_median(m, "q_amp_mv", lead)
        return (None, None) if s_mv is None else (0.0, abs(s_mv))
    return abs(r_mv or 0.0), abs(s_mv or 0.0)


def joined(words: Sequence[str]) -> str:
    """Returns the words as an English list: `II, III and aVF`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def listed(leads: Sequence[str]) -> str:
    """Returns the leads as an English list, three or more chest leads in a row as `V2-V5`."""
    runs: list[list[str]] = []
    for lead in leads:
        if runs and lead in CHEST[1:] and runs[-1][-1] == CHEST[CHEST.index(lead) - 1]:
            runs[-1].append(lead)
        else:
            runs.append([lead])
    words = [[f"{run[0]}-{run[-1]}"] if len(run) > 2 else run for run in runs]
    return joined([word for run in words for word in run])
