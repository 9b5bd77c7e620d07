"""Dense targets of stage 0: what our measurement finds under each token of the ECG encoder.

Axes: L leads, N beats, P tokens (patches, without the class token), G summary values.
"""

import numpy as np
from jaxtyping import Bool, Float

from data_prep.measure import Measurement
from gem_jax.models.ecg import EcgConfig
from gem_jax.models.pretrain import NUM_QRS_VALUES, NUM_SUMMARY_VALUES, NUM_WAVES

# (mean, spread) that bring a quantity near zero mean and unit spread in adults at rest.
AREA_MV_MS = (0.0, 30.0)
AMPLITUDE_MV = (0.0, 0.7)
RR_MS = (850.0, 250.0)
RATE_BPM = (75.0, 20.0)
PR_MS = (160.0, 30.0)
QRS_MS = (100.0, 20.0)
QT_MS = (400.0, 50.0)


def _scaled(value: float | np.ndarray | None, scale: tuple[float, float]) -> np.ndarray:
    mean, spread = scale
    known = np.asarray(np.nan if value is None else value, np.float32)
    return np.asarray((known - mean) / spread)


def summary_targets(measured: Measurement) -> Float[np.ndarray, "G"]:
    """Returns rate, axis (cosine, sine), PR, QRS and QT, scaled; NaN where not measured."""
    values = measured.summary
    axis_rad = np.deg2rad(np.nan if values["axis_deg"] is None else values["axis_deg"])
    targets = np.array(
        [
            _scaled(values["heart_rate_bpm"], RATE_BPM),
            np.cos(axis_rad),
            np.sin(axis_rad),
            _scaled(values["pr_ms"], PR_MS),
            _scaled(values["qrs_ms"], QRS_MS),
            _scaled(values["qt_ms"], QT_MS),
        ],
        np.float32,
    )
    assert targets.shape == (NUM_SUMMARY_VALUES,)
    return targets


def wave_targets(
    measured: Measurement, config: EcgConfig, rate_hz: float
) -> Bool[np.ndarray, "P L W"]:
    """Returns which of P, QRS and T lies over each token's samples, per lead."""
    tokens, patch = config.num_tokens - 1, config.patch_size
    edges = np.arange(tokens) * patch
    scale = rate_hz / measured.waves.sampling_rate_hz
    found = np.zeros((tokens, len(measured.leads), NUM_WAVES), bool)
    for wave in range(NUM_WAVES):
        onset = measured.waves.samples[:, :, 3 * wave] * scale
        offset = measured.waves.samples[:, :, 3 * wave + 2] * scale
        overlaps = (onset < edges[:, None, None] + patch) & (offset >= edges[:, None, None])
        found[:, :, wave] = overlaps.any(axis=-1)
    return found


def qrs_targets(
    measured: Measurement, config: EcgConfig, rate_hz: float
) -> Float[np.ndarray, "P L Q"]:
    """Returns net QRS area, its largest deflection and the RR before it, at the token of its peak.

    NaN at every other token.
    """
    tokens = config.num_tokens - 1
    targets = np.full((tokens, len(measured.leads), NUM_QRS_VALUES), np.nan, np.float32)
    peak = measured.waves.samples[:, :, 4] * (rate_hz / measured.waves.sampling_rate_hz)
    lead, beat = np.nonzero(np.isfinite(peak) & (peak < tokens * config.patch_size))
    token = (peak[lead, beat] // config.patch_size).astype(int)
    beats = measured.beats
    deflection = np.nan_to_num(beats["r_amp_mv"]) + np.fmin(
        np.nan_to_num(beats["q_amp_mv"]), np.nan_to_num(beats["s_amp_mv"])
    )
    values = (
        _scaled(beats["qrs_area_mv_ms"], AREA_MV_MS),
        _scaled(deflection, AMPLITUDE_MV),
        _scaled(beats["rr_ms"], RR_MS),
    )
    for column, value in enumerate(values):
        targets[token, lead, column] = value[lead, beat]
    return targets
