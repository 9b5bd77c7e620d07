"""Where the waves of each heartbeat begin, peak and end, found on all leads together.

Axes: L leads, N beats, T samples. A heartbeat has the same number in every lead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from data_prep.records import Record

FIDUCIALS = (
    "p_onset",
    "p_peak",
    "p_offset",
    "qrs_onset",
    "qrs_peak",
    "qrs_offset",
    "t_onset",
    "t_peak",
    "t_offset",
)
P_PEAK, QRS_PEAK, T_PEAK = 1, 4, 7
Method = Literal["trained", "neurokit2"]


@dataclass(frozen=True)
class Waves:
    """The marks of a record: for each lead and beat the nine FIDUCIALS as sample indices.

    Attributes:
        leads: names of the L leads.
        sampling_rate_hz: the rate that the indices count at.
        samples: index of each fiducial, NaN where the wave is absent.
    """

    leads: tuple[str, ...]
    sampling_rate_hz: float
    samples: Float[np.ndarray, "L N 9"]

    @property
    def num_beats(self) -> int:
        """The number N of heartbeats."""
        return self.samples.shape[1]


def no_waves(leads: tuple[str, ...], sampling_rate_hz: float) -> Waves:
    """Returns the marks of a record without a heartbeat."""
    return Waves(leads, sampling_rate_hz, np.empty((len(leads), 0, len(FIDUCIALS))))


def find_waves(record: Record, method: Method = "trained") -> Waves:
    """Returns the marks of every heartbeat of `record`, in order and within the record.

    Args:
        record: any sampling rate, any leads; missing samples (NaN) are bridged.
        method: `trained`, our network; or `neurokit2`, that package's wavelets on our beats.
    """
    if method == "neurokit2":
        from data_prep.neurokit import delineate
    else:
        from data_prep.delineate import delineate

    samples = delineate(record.signal_mv, record.sampling_rate_hz)
    if not samples.shape[1]:
        return no_waves(record.leads, record.sampling_rate_hz)
    samples[samples > record.signal_mv.shape[1] - 1] = np.nan
    return Waves(record.leads, record.sampling_rate_hz, in_order(samples))


def in_order(samples: Float[np.ndarray, "L N 9"]) -> Float[np.ndarray, "L N 9"]:
    """Returns the marks without what breaks p < qrs < t within a beat or overlaps its neighbours.

    A wave whose three marks are out of order, or whose peak is missing, goes as a whole; then
    a P that runs into its QRS or into the T before it, and a T that begins before its QRS ends or
    lasts into the next QRS.
    """
    waves = np.array(samples, dtype=np.float64).reshape(*samples.shape[:2], 3, 3)
    waves[waves < 0] = np.nan
    onset, peak, offset = np.moveaxis(waves, 3, 0)
    bad = ~np.isfinite(peak) | (onset >= peak) | (peak >= offset)
    waves[bad] = np.nan
    p, qrs, t = np.moveaxis(waves, 2, 0)  # views, each L N 3
    with np.errstate(invalid="ignore"):
        t[_first(t) < _last(qrs)] = np.nan
        t[:, :-1][_last(t)[:, :-1] >= _first(qrs)[:, 1:]] = np.nan
        p[_last(p) > _first(qrs)] = np.nan
        before = np.fmax(_last(qrs), _last(t))[:, :-1]
        p[:, 1:][_first(p)[:, 1:] <= before] = np.nan
    return waves.reshape(samples.shape)


def _first(wave: Float[np.ndarray, "L N 3"]) -> Float[np.ndarray, "L N"]:
    return np.fmin(wave[..., 0], wave[..., 1])


def _last(wave: Float[np.ndarray, "L N 3"]) -> Float[np.ndarray, "L N"]:
    return np.fmax(wave[..., 2], wave[..., 1])
