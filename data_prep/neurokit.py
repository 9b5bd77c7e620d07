"""Marks by neurokit2, lead by lead on our beats: the peer to compare with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from data_prep import delineate as trained
from data_prep.conditioning import RATE_HZ, alive_leads, at_working_rate, bridged
from data_prep.waves import QRS_PEAK

# Its columns in the order of waves.FIDUCIALS; the R peak it takes as given.
COLUMNS = (
    "ECG_P_Onsets",
    "ECG_P_Peaks",
    "ECG_P_Offsets",
    "ECG_R_Onsets",
    None,
    "ECG_R_Offsets",
    "ECG_T_Onsets",
    "ECG_T_Peaks",
    "ECG_T_Offsets",
)

REACH = 30  # samples from our beat to its peak


def delineate(
    signal_mv: Float[np.ndarray, "L T"], sampling_rate_hz: float
) -> Float[np.ndarray, "L N 9"]:
    """Returns the marks of each beat as whole samples of `signal_mv`; NaN for what is not there."""
    peaks = trained.delineate(signal_mv, sampling_rate_hz)[..., QRS_PEAK]
    beats = np.sort(peaks[:, np.isfinite(peaks).any(axis=0)], axis=0)  # NaN last
    count = np.isfinite(beats).sum(axis=0)
    middle = beats[(count - 1) // 2, np.arange(beats.shape[1])] * (RATE_HZ / sampling_rate_hz)
    marks = np.full((len(signal_mv), len(middle), len(COLUMNS)), np.nan)
    if len(middle) > 2:  # it learns the width of its windows from the beats
        alive = alive_leads(signal_mv)
        x = at_working_rate(bridged(signal_mv[alive]), sampling_rate_hz)
        marks[alive] = [_lead(row, middle.astype(int)) for row in x]
    return np.round(marks * (sampling_rate_hz / RATE_HZ))


def _lead(row: Float[np.ndarray, " T"], beats: Int[np.ndarray, " N"]) -> Float[np.ndarray, "N 9"]:
    import neurokit2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of empty slices, where it finds no wave
        clean = neurokit2.ecg_clean(row, sampling_rate=RATE_HZ)
        near = np.clip(beats[:, None] + np.arange(-REACH, REACH + 1), 0, len(row) - 1)
        peaks = near[np.arange(len(beats)), np.abs(clean[near]).argmax(axis=1)]
        found = neurokit2.ecg_delineate(clean, peaks, sampling_rate=RATE_HZ, method="dwt")[1]
    return by_beat(peaks, found)


def by_beat(
    peaks: Int[np.ndarray, " N"], found: Mapping[str, Sequence[float]]
) -> Float[np.ndarray, "N 9"]:
    """Returns neurokit2's lists as marks; a beat may be missing from them: place tells which."""
    marks = np.full((len(peaks), len(COLUMNS)), np.nan)
    for i, column in enumerate(COLUMNS):
        if column is None:
            marks[:, i] = peaks
            continue
        at = np.asarray(found[column], dtype=float)
        at = at[np.isfinite(at)]
        beat = np.searchsorted(peaks, at) if i < QRS_PEAK else np.searchsorted(peaks, at) - 1
        known = (beat >= 0) & (beat < len(peaks))
        marks[beat[known], i] = at[known]
    return marks
