"""A synthetic ECG of known intervals and amplitudes is measured back, over rates and mild noise."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.findings import lead_median
from data_prep.intervals import measure_waves
from data_prep.measure import measure
from data_prep.measurement import Measurement
from synthetic import CHEST_R_MV, CHEST_S_MV, P_MV, QRS_MS, ecg, p_and_t_ms

WITHIN_MS, WITHIN_MV = 4.0, 0.02
# Faster, 20 ms part S from T: where QRS is found to end in a lead can cost some of a small S.
CROWDED_BPM = 150.0


def truth_ms(rate_bpm: float) -> dict[str, float]:
    p_ms, t_ms = p_and_t_ms(rate_bpm)
    onset = QRS_MS[0]
    return {
        "p_ms": p_ms[2] - p_ms[0],
        "pr_ms": onset - p_ms[0],
        "qrs_ms": QRS_MS[2] - onset,
        "qt_ms": t_ms[2] - onset,
    }


def truth_mv(t_mv: float) -> dict[tuple[str, str], float]:
    known = {("p_amp_mv", "V2"): 0.5 * P_MV, ("p_amp_mv", "II"): 0.7 * 1.5 * P_MV}
    known |= {("t_amp_mv", "V2"): t_mv, ("t_amp_mv", "II"): 0.7 * 1.5 * t_mv}
    for i, lead in enumerate(("V1", "V2", "V3", "V4", "V5", "V6")):
        known[("r_amp_mv", lead)] = CHEST_R_MV[i]
        known[("s_amp_mv", lead)] = -CHEST_S_MV[i]
    return known


def measured(level: str, **made: float) -> Measurement:
    record, waves = ecg(**made)  # type: ignore[arg-type]
    return measure_waves(record, waves) if level == "given" else measure(record)


@pytest.mark.parametrize("level", ["given", "found"])
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    rate_bpm=st.floats(30.0, 200.0),
    axis_deg=st.floats(-80.0, 110.0),
    t_mv=st.sampled_from([-0.3, 0.15, 0.5]),
    noise_mv=st.floats(0.0, 0.005),
    seed=st.integers(0, 99),
)
def test_what_was_made_is_measured(
    level: str, rate_bpm: float, axis_deg: float, t_mv: float, noise_mv: float, seed: int
) -> None:
    m = measured(
        level, rate_bpm=rate_bpm, axis_deg=axis_deg, t_mv=t_mv, noise_mv=noise_mv, seed=seed
    )
    assert m.summary["heart_rate_bpm"] == pytest.approx(rate_bpm, rel=0.005)
    assert m.summary["rhythm_regular"] is True
    assert m.summary["n_ectopic"] == 0
    for key, known in truth_ms(rate_bpm).items():
        assert m.summary[key] == pytest.approx(known, abs=WITHIN_MS), key
    qt_ms = truth_ms(rate_bpm)["qt_ms"]
    assert m.summary["qtc_fridericia_ms"] == pytest.approx(
        qt_ms / math.cbrt(60.0 / rate_bpm), abs=1.8 * WITHIN_MS
    )
    for (key, lead), height_mv in truth_mv(t_mv).items():
        if abs(height_mv) > 2 * WITHIN_MV and (level == "given" or rate_bpm <= CROWDED_BPM):
            assert lead_median(m, key, lead) == pytest.approx(height_mv, abs=WITHIN_MV), (key, lead)
    assert m.summary["axis_deg"] == pytest.approx(axis_deg, abs=3.0)


def test_another_ecg_is_not_what_was_made() -> None:
    slow, fast = measured("given", rate_bpm=60.0), measured("given", rate_bpm=150.0)
    off = [abs(slow.summary[key] - truth_ms(150.0)[key]) for key in ("pr_ms", "qt_ms")]  # type: ignore[operator]
    assert min(off) > 5 * WITHIN_MS
    assert abs(fast.summary["pr_ms"] - truth_ms(150.0)["pr_ms"]) < WITHIN_MS  # type: ignore[operator]
