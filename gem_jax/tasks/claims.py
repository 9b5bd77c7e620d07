"""The task `claims`: what an answer says about an ECG, checked against the truth of that ECG.

The truth of the record's summary is what lies within the cardiologists' marks where a record has
them; findings in single leads, and records without marks, are judged by our own measurement.
Each claim type is scored by the record: numbers by their error, findings by the share of their
claims that the truth contradicts. Two controls say what a score is worth: the constant that does
best on the training records, and the same model shown another patient's ECG and page.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from data_prep.claims import Claim, check, parse
from data_prep.measure import Measurement
from data_prep.records import BadInput, Record
from data_prep.shards import Example, read_shard
from gem_jax.scores import absolute_error, angular_error, paired_bootstrap

# Scored by the size of their error; all other claim types by the share that is contradicted.
UNITS = {"heart_rate_bpm": "bpm", "axis_deg": "deg", "pr_ms": "ms", "qrs_ms": "ms", "qt_ms": "ms"}
SHARE = "share contradicted"


@dataclass(frozen=True)
class Case:
    """One ECG, the question about it, its teacher's answer, and what is true of it."""

    id: str
    record: Record
    image: str
    question: str
    answer: str
    truth: Measurement


def load(shard: Path) -> list[Case]:
    """Returns the cases of a shard that `gem-jax prep` wrote."""
    return [case_of(example) for example in read_shard(shard)]


def case_of(example: Example) -> Case:
    """Returns the case of a shard's example."""
    turns = example.conversations
    return Case(
        id=example.id,
        record=example.signal(),
        image=example.record.get("image") or "",
        question=turns[0]["value"],
        answer=turns[1]["value"],
        truth=example.true_measurement(),
    )


def by_quantity(answer: str) -> dict[str, list[Claim]]:
    """Returns the claims of an answer, grouped by claim type."""
    grouped: dict[str, list[Claim]] = {}
    for claim in parse(answer):
        grouped.setdefault(claim.quantity, []).append(claim)
    return grouped


def error(quantity: str, claims: Sequence[Claim], truth: Measurement) -> float:
    """Returns how wrong the claims of one type are; NaN where the truth does not say.

    The first claim counts for a number, every claim that can be checked for a finding.
    """
    if quantity in UNITS:
        measured = truth.summary.get(quantity)
        if measured is None:
            return np.nan
        said, true = np.array([float(claims[0].value)]), np.array([float(measured)])
        measure = angular_error if quantity == "axis_deg" else absolute_error
        return float(measure(said, true)[0])
    verdicts = [one.verdict for one in check(claims, truth) if one.verdict != "unverifiable"]
    return float(np.mean([one == "contradicted" for one in verdicts])) if verdicts else np.nan


def best_constants(cases: Sequence[Case]) -> dict[str, list[Claim]]:
    """Returns for each claim type the claims that, said of every record, err least on `cases`.

    The candidates are what the teacher says of them.
    """
    candidates: dict[str, dict[tuple, list[Claim]]] = {}
    for case in cases:
        for quantity, claims in by_quantity(case.answer).items():
            key = tuple((claim.value, claim.leads, claim.negated) for claim in claims)
            candidates.setdefault(quantity, {})[key] = claims

    def mean_error(quantity: str, claims: Sequence[Claim]) -> float:
        errors = [error(quantity, claims, case.truth) for case in cases]
        return float(np.nanmean(errors)) if not np.isnan(errors).all() else np.inf

    return {
        quantity: min(options.values(), key=functools.partial(mean_error, quantity))
        for quantity, options in candidates.items()
    }


def errors_of(
    quantity: str, said: Sequence[Mapping[str, list[Claim]]], cases: Sequence[Case]
) -> Float[np.ndarray, "R"]:
    """Returns the error on each record; NaN where the truth is silent, inf where the answer is."""
    teacher = [by_quantity(case.answer).get(quantity, []) for case in cases]
    errors = np.full(len(cases), np.nan)
    for index, (answer, case) in enumerate(zip(said, cases, strict=True)):
        if quantity in answer:
            errors[index] = error(quantity, answer[quantity], case.truth)
        elif teacher[index] and not np.isnan(error(quantity, teacher[index], case.truth)):
            errors[index] = np.inf
    return errors


def score(
    answers: Sequence[str],
    other_answers: Sequence[str],
    cases: Sequence[Case],
    train_cases: Sequence[Case],
) -> dict[str, dict]:
    """Returns {claim type: n, unit, better, model, constant, other_patient, difference, interval}.

    Difference is the model's error minus that of the better control, paired by record. An answer
    that leaves out what the teacher says of a record errs there as much as the worst compared
    number, or counts as contradicted; `unsaid` tells how often the model did.

    Args:
        answers: The model's, in the order of `cases`.
        other_answers: The model's when it is shown another patient's ECG and page.
        cases: Held-out records.
        train_cases: Training records, for the best constant.
    """
    constants = best_constants(train_cases)
    said = [by_quantity(answer) for answer in answers]
    other = [by_quantity(answer) for answer in other_answers]
    table = {}
    for quantity, claims in sorted(constants.items()):
        columns = np.stack(
            [
                errors_of(quantity, said, cases),
                errors_of(quantity, [{quantity: claims}] * len(cases), cases),
                errors_of(quantity, other, cases),
            ]
        )
        known = ~np.isnan(columns).any(axis=0)
        if known.any():
            table[quantity] = _row(quantity, columns[:, known])
    if not table:
        raise BadInput("claims: no record has a truth for what is claimed; measure them first")
    return table


def _row(quantity: str, columns: Float[np.ndarray, "3 R"]) -> dict:
    unsaid = int(np.isinf(columns[0]).sum())
    finite = columns[np.isfinite(columns)]
    worst = finite.max(initial=0.0) if quantity in UNITS else 1.0
    columns = np.where(np.isinf(columns), worst, columns)
    model, constant, other = columns
    better = constant if constant.mean() <= other.mean() else other
    difference = paired_bootstrap(model, better)
    return {
        "n": columns.shape[1],
        "unit": UNITS.get(quantity, SHARE),
        "better": "lower",
        "model": float(model.mean()),
        "constant": float(constant.mean()),
        "other_patient": float(other.mean()),
        "difference": difference.mean,
        "ci_low": difference.ci_low,
        "ci_high": difference.ci_high,
        "unsaid": unsaid,
    }
