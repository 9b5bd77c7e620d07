"""Intervals and rhythm from a record and its marks; with amplitudes and axis, its measurement.

A beat's global onset is the second earliest over the leads and its global offset the second latest,
so that no stray lead sets an interval (with fewer than three leads that have the mark: earliest and
latest). Intervals of the record are medians over all of its beats with a whole QRS, and the rate
counts all; axis, regularity and voltage indices are those of its own beats: ectopic ones are left
out.

Axes: L leads, T samples, N beats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from data_prep.amplitudes import amplitudes
from data_prep.beat_kinds import ectopic_beats
from data_prep.conditioning import bridged
from data_prep.frontal_axis import frontal_axis
from data_prep.measurement import BEAT_QUANTITIES, Measurement
from data_prep.nan_median import nan_median
from data_prep.pacing import paced_beats, pacing_jumps, pacing_spikes, without_spikes
from data_prep.records import Record
from data_prep.voltage import voltage_indices
from data_prep.waves import FIDUCIALS, Waves

# Longest less shortest RR of a regular rhythm: the usual bound of sinus arrhythmia
# (Soos and McComb, Sinus Arrhythmia, StatPearls).
REGULAR_RR_RANGE_MS = 120.0
GAP_MS = 50.0  # a shorter one hides no QRS
AMPLITUDES = tuple(key for key in BEAT_QUANTITIES if "_mv" in key)
NOT_ASSESSED = {
    "reasons": [],
    "leads": {},
    "lead_identity": {"verdict": "unknown", "finding": None, "likely_order": None},
}


def measure_waves(
    record: Record, waves: Waves, quality: Mapping[str, Any] | None = None
) -> Measurement:
    """Returns the measurement of a record within given marks.

    Args:
        record: the signal; its leads must include those of `waves`.
        waves: whoever made them: `find_waves`, cardiologists, an augmentation.
        quality: passed on; without it the quality is not assessed.
    """
    rows = [record.leads.index(lead) for lead in waves.leads]
    signal = record.signal_mv[rows]
    ms = 1000.0 / waves.sampling_rate_hz
    onset, offset = global_bounds(waves)
    rr_ms = _rr(waves, signal) * ms
    paced, clean = _pacing(signal, onset[1], offset[1], waves.sampling_rate_hz)
    ectopic = ectopic_beats(clean, waves, np.stack([onset[1], offset[1]]), rr_ms, paced)
    usual = _usual(waves, ectopic)
    beats = _beat_intervals(waves, ms) | amplitudes(clean, waves)
    beats["rr_ms"] = np.where(np.isfinite(waves.samples[:, :, 4]), rr_ms, np.nan)
    axis_deg = None
    if record.calibrated:
        own_onset, own_offset = (
            np.where(usual, onset[1], np.nan),
            np.where(usual, offset[1], np.nan),
        )
        axis_deg = frontal_axis(clean, waves, own_onset, own_offset)
    else:
        beats |= {key: np.full_like(beats[key], np.nan) for key in AMPLITUDES}
    summary = _summary(waves, onset * ms, offset * ms, rr_ms, usual)
    summary |= {"n_ectopic": _count(ectopic), "n_paced": _count(paced), "axis_deg": axis_deg}
    summary |= voltage_indices(waves.leads, beats, usual, summary["qrs_ms"])
    return Measurement(
        record=record.name,
        sampling_rate_hz=waves.sampling_rate_hz,
        duration_s=record.duration_s,
        leads=waves.leads,
        derived=tuple(lead for lead in record.derived if lead in waves.leads),
        waves=waves,
        beats=beats,
        summary=summary,
        ectopic=ectopic,
        paced=paced,
        quality=NOT_ASSESSED if quality is None else quality,
    )


def _pacing(
    signal: Float[np.ndarray, "L T"],
    onset: Float[np.ndarray, " N"],
    offset: Float[np.ndarray, " N"],
    rate_hz: float,
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, "L T"]]:
    """Returns which beats are paced, and the leads without spikes: no heart made them.

    Spikes and jumps are counted apart: a chance one of each kind is no second witness.
    """
    whole = bridged(signal)
    spikes = pacing_spikes(whole, rate_hz)
    jumps = pacing_jumps(whole, onset, offset, rate_hz)
    paced = np.fmax(paced_beats(spikes, onset, rate_hz), paced_beats(jumps, onset, rate_hz))
    return paced, without_spikes(signal, spikes, rate_hz)


def _usual(waves: Waves, ectopic: Float[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
    """Returns which beats are the record's own: those with a QRS that is not ectopic, if any."""
    qrs = np.isfinite(waves.samples[:, :, 4]).any(axis=0)
    own = qrs & (ectopic != 1)
    return own if own.any() else qrs


def _count(kind: Float[np.ndarray, " N"]) -> int | None:
    """Returns how many beats are of a kind, None where it cannot be told of any."""
    known = np.isfinite(kind)
    return int((kind == 1).sum()) if known.any() else None


def global_bounds(waves: Waves) -> tuple[Float[np.ndarray, "3 N"], Float[np.ndarray, "3 N"]]:
    """Returns each beat's global onset and offset, in samples, of P, QRS and T."""
    onsets, offsets = waves.samples[:, :, 0::3], waves.samples[:, :, 2::3]
    return _second_smallest(onsets).T, -_second_smallest(-offsets).T


def _second_smallest(marks: Float[np.ndarray, "L N 3"]) -> Float[np.ndarray, "N 3"]:
    """Returns the second smallest over leads; the smallest of fewer than three; NaN of none."""
    if not len(marks):
        return np.full(marks.shape[1:], np.nan)
    ordered = np.sort(marks, axis=0)  # NaN last
    if len(marks) < 3:
        return ordered[0]
    return np.where(np.isfinite(ordered[2]), ordered[1], ordered[0])


def _rr(waves: Waves, signal: Float[np.ndarray, "L T"]) -> Float[np.ndarray, " N"]:
    """Returns the samples from each QRS to the one before it, by the median of the leads' peaks.

    NaN for the first, for a beat without QRS, and where most leads are missing in between for as
    long as a QRS: beats may have gone unseen there.
    """
    time = nan_median(waves.samples[:, :, 4], axis=0)
    rr = np.full(len(time), np.nan)
    beats = np.flatnonzero(np.isfinite(time))
    rr[beats[1:]] = np.diff(time[beats])
    if len(beats) > 1 and not np.isfinite(signal.sum()):
        least = max(1, round(GAP_MS * waves.sampling_rate_hz / 1000))
        gone = np.isnan(signal).mean(axis=0) > 0.5
        edges = np.flatnonzero(np.diff(gone.astype(np.int8), prepend=0, append=0))
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            if end - begin >= least:
                across = (time[beats[:-1]] < begin) & (time[beats[1:]] >= begin)
                rr[beats[1:][across]] = np.nan
    return rr


def _beat_intervals(waves: Waves, ms: float) -> dict[str, Float[np.ndarray, "L N"]]:
    """Returns the intervals of each beat within each lead."""
    mark = dict(zip(FIDUCIALS, np.moveaxis(waves.samples, 2, 0), strict=True))
    return {
        "pr_ms": (mark["qrs_onset"] - mark["p_onset"]) * ms,
        "qrs_ms": (mark["qrs_offset"] - mark["qrs_onset"]) * ms,
        "qt_ms": (mark["t_offset"] - mark["qrs_onset"]) * ms,
        "p_ms": (mark["p_offset"] - mark["p_onset"]) * ms,
    }


def _summary(
    waves: Waves,
    onset_ms: Float[np.ndarray, "3 N"],
    offset_ms: Float[np.ndarray, "3 N"],
    rr_ms: Float[np.ndarray, " N"],
    usual: Bool[np.ndarray, " N"],
) -> dict[str, Any]:
    """Returns the numbers of the whole record, None where they are unknown.

    The rate is that of the mean RR, which counts the beats of an irregular rhythm right. Regularity
    and spread are of RR between usual beats; with fewer than two such, of all.
    """
    rr = rr_ms[np.isfinite(rr_ms)]
    rate_bpm = 60000.0 / float(rr.mean()) if len(rr) else None
    qrs = np.flatnonzero(np.isfinite(waves.samples[:, :, 4]).any(axis=0))
    own = qrs[1:][usual[qrs[1:]] & usual[qrs[:-1]]]
    own_rr = rr_ms[own][np.isfinite(rr_ms[own])]
    rr = own_rr if len(own_rr) > 1 else rr
    whole = np.isfinite(onset_ms[1]) & np.isfinite(offset_ms[1])  # not cut by the record's end
    onset_ms, offset_ms = onset_ms[:, whole], offset_ms[:, whole]
    qt_ms = _median(offset_ms[2] - onset_ms[1])
    return {
        "n_beats": len(qrs),
        "heart_rate_bpm": rate_bpm,
        "rr_sd_ms": float(rr.std(ddof=1)) if len(rr) > 1 else None,
        "rhythm_regular": bool(np.ptp(rr) <= REGULAR_RR_RANGE_MS) if len(rr) > 1 else None,
        "p_ms": _median(offset_ms[0] - onset_ms[0]),
        "pr_ms": _median(onset_ms[1] - onset_ms[0]),
        "qrs_ms": _median(offset_ms[1] - onset_ms[1]),
        "qt_ms": qt_ms,
        **corrected_qt(qt_ms, rate_bpm),
    }


def corrected_qt(qt_ms: float | None, rate_bpm: float | None) -> dict[str, float | None]:
    """Returns QT corrected for the rate by Bazett, Fridericia, Framingham and Hodges."""
    if qt_ms is None or rate_bpm is None:
        return dict.fromkeys(
            f"qtc_{name}_ms" for name in ("bazett", "fridericia", "framingham", "hodges")
        )
    rr_s = 60.0 / rate_bpm
    return {
        "qtc_bazett_ms": qt_ms / math.sqrt(rr_s),
        "qtc_fridericia_ms": qt_ms / math.cbrt(rr_s),
        "qtc_framingham_ms": qt_ms + 154.0 * (1.0 - rr_s),
        "qtc_hodges_ms": qt_ms + 1.75 * (rate_bpm - 60.0),
    }


def _median(values: Float[np.ndarray, " N"]) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None
