"""What a finding means in numbers: the table that teacher, claims and checks share.

A finding holds where all its rows hold. Thresholds are those of the named statement for adults;
where this project measures at another place than the statement, the row says so.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

LIMB = ("I", "II", "III", "aVR", "aVL", "aVF")
CHEST = ("V1", "V2", "V3", "V4", "V5", "V6")
GROUPS = {
    "lateral": ("I", "aVL"),
    "inferior": ("II", "III", "aVF"),
    "chest": ("V2", "V3", "V4", "V5", "V6"),
}
# Neighbours on the body: the frontal plane in Cabrera's order, the chest from right to left.
CONTIGUOUS = (("aVL", "I", "II", "aVF", "III"), CHEST)

CONDUCTION = "Surawicz et al., AHA/ACCF/HRS recommendations III, 2009"
REPOLARISATION = "Rautaharju et al., AHA/ACCF/HRS recommendations IV, 2009"
ISCHAEMIA = "Wagner et al., AHA/ACCF/HRS recommendations VI, 2009"
BRADYCARDIA = "Kusumoto et al., ACC/AHA/HRS guideline on bradycardia, 2018"
FIBRILLATION = "Hindricks et al., ESC guidelines on atrial fibrillation, 2020"
TACHYCARDIA = "Page et al., ACC/AHA/HRS guideline on supraventricular tachycardia, 2015"
TEXTBOOK = "Surawicz and Knilans, Chou's Electrocardiography in Clinical Practice, 6th ed., 2008"

Comparison = Literal[">", ">=", "<", "<="]


@dataclass(frozen=True)
class Criterion:
    """One condition of a finding; `leads` is empty where the quantity is of the whole record."""

    finding: str
    leads: tuple[str, ...]
    quantity: str
    comparison: Comparison
    threshold: float
    unit: str
    source: str


CRITERIA = (
    Criterion("bradycardia", (), "heart_rate_bpm", "<", 60.0, "bpm", TEXTBOOK),
    Criterion("tachycardia", (), "heart_rate_bpm", ">", 100.0, "bpm", TACHYCARDIA),
    # Of the beats with a QRS, the share with a P wave in at least half the leads. Fibrillation has
    # no P waves at all; half leaves room for a delineator that misses or invents some.
    Criterion("p waves", (), "p_share", ">=", 0.5, "", FIBRILLATION),
    Criterion("normal axis", (), "axis_deg", ">=", -30.0, "deg", CONDUCTION),
    Criterion("normal axis", (), "axis_deg", "<=", 90.0, "deg", CONDUCTION),
    Criterion("left axis", (), "axis_deg", "<", -30.0, "deg", CONDUCTION),
    Criterion("left axis", (), "axis_deg", ">=", -90.0, "deg", CONDUCTION),
    Criterion("right axis", (), "axis_deg", ">", 90.0, "deg", CONDUCTION),
    Criterion("right axis", (), "axis_deg", "<=", 180.0, "deg", CONDUCTION),
    Criterion("extreme axis", (), "axis_deg", "<", -90.0, "deg", CONDUCTION),
    Criterion("extreme axis", (), "axis_deg", ">=", -180.0, "deg", CONDUCTION),
    Criterion("prolonged PR", (), "pr_ms", ">", 200.0, "ms", BRADYCARDIA),
    Criterion("short PR", (), "pr_ms", "<", 120.0, "ms", TEXTBOOK),
    Criterion("wide QRS", (), "qrs_ms", ">=", 120.0, "ms", CONDUCTION),
    # 460 ms for women and 450 ms for men: the higher one, as the sex is often unknown.
    Criterion("prolonged QTc", (), "qtc_bazett_ms", ">=", 460.0, "ms", REPOLARISATION),
    Criterion("short QTc", (), "qtc_bazett_ms", "<=", 390.0, "ms", REPOLARISATION),
    Criterion("upright T", LIMB + CHEST, "t_amp_mv", ">=", 0.1, "mV", REPOLARISATION),
    Criterion("inverted T", LIMB + CHEST, "t_amp_mv", "<=", -0.1, "mV", REPOLARISATION),
    # The statement reads the J point, this project J + 60 ms; it counts in two contiguous leads.
    Criterion("ST elevation", ("V2", "V3"), "st_mv", ">=", 0.2, "mV", ISCHAEMIA),
    Criterion(
        "ST elevation",
        ("I", "II", "III", "aVL", "aVF", "V1", "V4", "V5", "V6"),
        "st_mv",
        ">=",
        0.1,
        "mV",
        ISCHAEMIA,
    ),
    Criterion("ST depression", ("V2", "V3"), "st_mv", "<=", -0.05, "mV", ISCHAEMIA),
    Criterion(
        "ST depression",
        ("I", "II", "III", "aVL", "aVF", "V1", "V4", "V5", "V6"),
        "st_mv",
        "<=",
        -0.1,
        "mV",
        ISCHAEMIA,
    ),
    # The transition is the first chest lead whose R is at least as large as its S.
    Criterion("transition", CHEST, "r_to_s", ">=", 1.0, "", TEXTBOOK),
)
AXIS_CATEGORIES = ("normal", "left", "right", "extreme")


def holds(finding: str, value: float, lead: str | None = None, slack: float = 0.0) -> bool:
    """Returns whether `value` meets all rows of a finding, each eased by `slack`.

    Args:
        finding: A name of the table.
        value: The quantity of the finding, in its unit.
        lead: The lead it was measured in; None where the quantity is of the whole record.
        slack: How far outside its threshold the value may still be; negative is stricter.
    """
    rows = [c for c in CRITERIA if c.finding == finding and (lead is None or lead in c.leads)]
    return bool(rows) and all(_meets(value, row, slack) for row in rows)


def contiguous(leads: set[str]) -> set[str]:
    """Returns those of the leads that have a neighbour on the body among them."""
    pairs = [pair for order in CONTIGUOUS for pair in itertools.pairwise(order)]
    return {lead for pair in pairs if leads.issuperset(pair) for lead in pair}


def _meets(value: float, row: Criterion, slack: float) -> bool:
    match row.comparison:
        case ">":
            return value > row.threshold - slack
        case ">=":
            return value >= row.threshold - slack
        case "<":
            return value < row.threshold + slack
        case "<=":
            return value <= row.threshold + slack
