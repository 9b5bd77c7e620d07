"""Made twelve-lead ECGs whose waves begin and end where we say: a share of what is learned from.

Cardiologists' marks teach what real waves look like; these teach that on a clean trace a wave ends
where it leaves the level, at rates and with shapes that few real records show.

Axes: L leads, T samples, N beats, W the three waves P, QRS, T.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

NUM_LEADS = 12
RATE_BPM = (28.0, 210.0)
NO_P, IRREGULAR, INVERTED_T, BIPHASIC_T = 0.2, 0.25, 0.25, 0.1


@dataclass(frozen=True)
class Made:
    """A made ECG.

    Attributes:
        signal_mv: float32.
        bounds: onset and offset of each beat's waves in samples, the same in all leads, NaN where
            there is no such wave.
    """

    signal_mv: Float[np.ndarray, "L T"]
    bounds: Float[np.ndarray, "N W 2"]


def made_ecg(rng: np.random.Generator, num_samples: int, rate_hz: float) -> Made:
    """Returns an ECG of random rate, intervals, shapes and amplitudes, without noise."""
    rr_s = 60.0 / np.exp(rng.uniform(*np.log(RATE_BPM)))
    spread = rng.uniform(0.05, 0.25) if rng.random() < IRREGULAR else rng.uniform(0.0, 0.03)
    with_p = rng.random() >= NO_P
    shape = _intervals_s(rng, rr_s)
    times_s = _beat_times_s(rng, rr_s, spread, num_samples / rate_hz)
    bounds = (times_s[:, None, None] + shape[None]) * rate_hz
    if not with_p:
        bounds[:, 0] = np.nan
    signal = np.zeros((NUM_LEADS, num_samples))
    at = np.arange(num_samples)
    for wave, draw in enumerate((_p_shape, _qrs_shape, _t_shape)):
        parts = draw(rng)
        for first, last in bounds[:, wave]:
            if np.isfinite(first):
                inside = slice(max(int(first), 0), min(int(last) + 2, num_samples))
                share = (at[inside] - first) / (last - first)
                for heights_mv, begin, peak, end, curve in parts:
                    signal[:, inside] += heights_mv[:, None] * _bell(share, begin, peak, end, curve)
    return Made(signal.astype(np.float32), bounds)


def _beat_times_s(
    rng: np.random.Generator, rr_s: float, spread: float, duration_s: float
) -> Float[np.ndarray, " N"]:
    """Returns QRS onsets that cover the record; an irregular rhythm keeps room for its waves."""
    count = int(duration_s / (0.7 * rr_s)) + 3
    rr = rr_s * np.clip(1.0 + spread * rng.standard_normal(count), 0.85, 1.8)
    return rng.uniform(-1.0, 0.5) * rr_s + np.cumsum(rr)


def _intervals_s(rng: np.random.Generator, rr_s: float) -> Float[np.ndarray, "W 2"]:
    """Returns onset and offset of P, QRS and T from QRS onset, none running into another."""
    room_s = 0.85 * rr_s  # the shortest interval between two beats
    qrs_s = rng.uniform(0.07, 0.12) if rng.random() < 0.75 else rng.uniform(0.12, 0.18)
    qt_s = np.clip(rng.normal(0.41, 0.03) * np.sqrt(min(rr_s, 1.4)), qrs_s + 0.12, 0.62)
    qt_s = min(qt_s, 0.72 * room_s)
    t_s = rng.uniform(0.45, 0.8) * (qt_s - qrs_s)
    left_s = room_s - qt_s
    p_s = min(rng.uniform(0.07, 0.13), 0.6 * left_s)
    pr_s = min(p_s + rng.uniform(0.01, 0.12), 0.95 * left_s)
    return np.array([[-pr_s, p_s - pr_s], [0.0, qrs_s], [qt_s - t_s, qt_s]])


Part = tuple[Float[np.ndarray, " L"], float, float, float, float]


def _signs(rng: np.random.Generator, share_down: float) -> Float[np.ndarray, " L"]:
    return np.where(rng.random(NUM_LEADS) < share_down, -1.0, 1.0)


def _p_shape(rng: np.random.Generator) -> list[Part]:
    height = rng.uniform(0.04, 0.25) * rng.uniform(0.4, 1.2, NUM_LEADS) * _signs(rng, 0.15)
    return [(height, 0.0, rng.uniform(0.35, 0.65), 1.0, _curve(rng))]


def _qrs_shape(rng: np.random.Generator) -> list[Part]:
    """Returns Q, R and S that fill the complex; each lead has its own heights."""
    tall = rng.uniform(0.5, 2.0)
    q_end, s_begin = rng.uniform(0.15, 0.35), rng.uniform(0.55, 0.8)
    q = -tall * rng.uniform(0.03, 0.3, NUM_LEADS) * (rng.random(NUM_LEADS) < 0.7)
    r = tall * rng.uniform(0.2, 1.0, NUM_LEADS) * _signs(rng, 0.2)
    s = -tall * rng.uniform(0.05, 0.9, NUM_LEADS) * (rng.random(NUM_LEADS) < 0.8)
    middle = rng.uniform(0.4, 0.6)
    r_begin = np.where(q == 0, 0.0, 0.7 * q_end)
    r_end = np.where(s == 0, 1.0, min(s_begin + 0.1, 0.95))
    parts: list[Part] = [(q, 0.0, 0.6 * q_end, q_end, _curve(rng))]
    curve = _curve(rng)
    for begin, end in {(b, e) for b, e in zip(r_begin.tolist(), r_end.tolist(), strict=True)}:
        here = (r_begin == begin) & (r_end == end)
        parts.append((r * here, begin, middle, end, curve))
    return [*parts, (s, s_begin, rng.uniform(s_begin + 0.05, 0.93), 1.0, _curve(rng))]


def _t_shape(rng: np.random.Generator) -> list[Part]:
    down = 0.8 if rng.random() < INVERTED_T else 0.15
    height = rng.uniform(0.1, 0.7) * rng.uniform(0.25, 1.2, NUM_LEADS) * _signs(rng, down)
    if rng.random() < BIPHASIC_T:
        return [
            (height, 0.0, 0.25, 0.5, _curve(rng)),
            (-rng.uniform(0.4, 1.0) * height, 0.5, 0.75, 1.0, _curve(rng)),
        ]
    return [(height, 0.0, rng.uniform(0.45, 0.7), 1.0, _curve(rng))]


def _curve(rng: np.random.Generator) -> float:
    """Returns how a wave rises: 1 is the raised cosine, less is steeper at its bounds."""
    return float(np.exp(rng.uniform(np.log(0.5), np.log(1.3))))


def _bell(
    share: Float[np.ndarray, " T"], begin: float, peak: float, end: float, curve: float
) -> Float[np.ndarray, " T"]:
    """Returns a wave from `begin` over `peak` (height 1) to `end`, nothing outside."""
    width = np.where(share < peak, peak - begin, end - peak)
    away = np.clip(np.abs(share - peak) / width, 0.0, 1.0)
    return (0.5 * (1.0 + np.cos(np.pi * away))) ** curve
