"""Label-true changes of a record: the waves move with the signal, so every number stays right.

Three changes are exact. Stretching time by s multiplies every interval by s and divides the rate
by s. Turning the frontal heart vector by an angle moves the electrical axis by that angle: the
limb leads are six views of one vector in a plane, so they follow from two of them. A gain
multiplies every amplitude. A window only leaves waves out. Noise comes last and is added after
measuring, so that the numbers stay those of the clean signal.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from data_prep.records import BadInput, Record
from data_prep.waves import FIDUCIALS, Waves

TIME_SCALE = (0.7, 1.45)
GAIN = (0.7, 1.4)
# Healthy axes crowd around +45 degrees; a wide turn shows the model every axis about equally.
ROTATION_SD_DEG = 60.0
LENGTH_S = (6.0, 10.0)
NOISE_MV = (0.0, 0.03)
WANDER_MV = (0.0, 0.15)
WANDER_HZ = (0.05, 0.5)

# Each limb lead as a sum of I and aVF: Einthoven's II = I / 2 + aVF, and so on.
FROM_I_AND_AVF = {
    "I": (1.0, 0.0),
    "II": (0.5, 1.0),
    "III": (-0.5, 1.0),
    "aVR": (-0.75, -0.5),
    "aVL": (0.75, -0.5),
    "aVF": (0.0, 1.0),
}


@dataclass(frozen=True)
class Change:
    """What is done to a record; the window is in seconds of the stretched record.

    Attributes:
        time_scale: Factor on every time; 1.2 makes the rhythm a sixth slower.
        rotation_deg: Angle added to the frontal axis.
        gain: Factor on every amplitude.
        start_s: Where the window begins.
        length_s: How long the window is; it ends earlier where the record does.
        noise_mv: Standard deviation of the white noise.
        wander_mv: Amplitude of the baseline wander.
        seed: Of noise and wander.
    """

    time_scale: float = 1.0
    rotation_deg: float = 0.0
    gain: float = 1.0
    start_s: float = 0.0
    length_s: float = 10.0
    noise_mv: float = 0.0
    wander_mv: float = 0.0
    seed: int = 0


def draw(rng: np.random.Generator, duration_s: float = 10.0) -> Change:
    """Returns a random change for a record of `duration_s` seconds."""
    time_scale = math.exp(rng.uniform(*np.log(TIME_SCALE)))
    stretched_s = duration_s * time_scale
    longest_s = min(LENGTH_S[1], stretched_s)
    length_s = rng.uniform(min(LENGTH_S[0], longest_s), longest_s)
    return Change(
        time_scale=time_scale,
        rotation_deg=(rng.normal(0.0, ROTATION_SD_DEG) + 180.0) % 360.0 - 180.0,
        gain=math.exp(rng.uniform(*np.log(GAIN))),
        start_s=rng.uniform(0.0, stretched_s - length_s),
        length_s=length_s,
        noise_mv=rng.uniform(*NOISE_MV),
        wander_mv=rng.uniform(*WANDER_MV),
        seed=int(rng.integers(2**31)),
    )


def apply(record: Record, waves: Waves, change: Change) -> tuple[Record, Waves]:
    """Returns the changed record and its waves, without noise.

    Onsets and offsets move exactly with time. A turned limb lead has another shape, so its
    peaks move to the largest deflection between the same onset and offset.

    Raises:
        BadInput: A rotation without leads I and aVF, or a window that leaves no signal.
    """
    start = round(change.start_s * record.sampling_rate_hz)
    signal_mv = _window(record, start, change) * np.float32(change.gain)
    start_s = start / record.sampling_rate_hz
    duration_s = (signal_mv.shape[1] - 1) / record.sampling_rate_hz
    waves = _move(waves, change.time_scale, start_s, duration_s)
    if change.rotation_deg:
        signal_mv = _rotate(signal_mv, record, change.rotation_deg)
    record = dataclasses.replace(record, signal_mv=signal_mv)
    return record, _repeak(record, waves) if change.rotation_deg else waves


def add_noise(record: Record, change: Change) -> Record:
    """Returns the record with the change's white noise and baseline wander.

    Both are drawn for the electrodes: the limb leads keep Einthoven's and Goldberger's relations.
    """
    if not change.noise_mv and not change.wander_mv:
        return record
    rng = np.random.default_rng(change.seed)
    num_leads, num_samples = record.signal_mv.shape
    noise_mv = rng.standard_normal((num_leads, num_samples), dtype=np.float32) * change.noise_mv
    noise_mv += change.wander_mv * _wander(rng, num_leads, num_samples, record.sampling_rate_hz)
    limbs = _limbs(record)
    pair = noise_mv[: min(2, num_leads)]
    if len(pair) == 2:
        noise_mv[limbs] = _coefficients(record) @ pair
    return dataclasses.replace(record, signal_mv=record.signal_mv + noise_mv.astype(np.float32))


def _window(record: Record, start: int, change: Change) -> Float[np.ndarray, "L T"]:
    """Returns the stretched signal from sample `start` on, by linear interpolation."""
    old = record.signal_mv
    end = start + round(change.length_s * record.sampling_rate_hz)
    end = min(end, math.floor((old.shape[1] - 1) * change.time_scale) + 1)
    if start < 0 or end - start < 2:
        raise BadInput(
            f"{record.name}: a window of {change.length_s:g} s from {change.start_s:g} s leaves no "
            f"signal of {old.shape[1] / record.sampling_rate_hz:g} s stretched by "
            f"{change.time_scale:g}; choose an earlier start"
        )
    if change.time_scale == 1.0:
        return old[:, start:end]
    position = np.arange(start, end) / change.time_scale
    left = np.minimum(position.astype(np.int64), old.shape[1] - 2)
    part = (position - left).astype(np.float32)
    before = np.take(old, left, axis=1)
    return before + part * (np.take(old, left + 1, axis=1) - before)


def _move(waves: Waves, time_scale: float, start_s: float, duration_s: float) -> Waves:
    """Returns the waves inside the window; a beat with no mark left in any lead is removed."""
    rate_hz = waves.sampling_rate_hz
    samples = waves.samples * time_scale - start_s * rate_hz
    inside = (samples >= 0) & (samples <= duration_s * rate_hz)
    samples = np.where(inside, samples, np.nan)
    return dataclasses.replace(waves, samples=samples[:, inside.any(axis=(0, 2))])


def _limbs(record: Record) -> list[int]:
    return [k for k, lead in enumerate(record.leads) if lead in FROM_I_AND_AVF]


def _coefficients(record: Record) -> Float[np.ndarray, "limbs 2"]:
    rows = [FROM_I_AND_AVF[lead] for lead in record.leads if lead in FROM_I_AND_AVF]
    return np.asarray(rows, np.float32).reshape(-1, 2)


def _rotate(
    signal_mv: Float[np.ndarray, "L T"], record: Record, rotation_deg: float
) -> Float[np.ndarray, "L T"]:
    """Returns the signal with its frontal heart vector (I, 2 / sqrt(3) aVF) turned."""
    missing = [lead for lead in ("I", "aVF") if lead not in record.leads]
    if missing:
        raise BadInput(
            f"{record.name}: no lead {missing[0]}, and turning the frontal axis needs I and aVF; "
            "derive the limb leads first or leave the rotation out"
        )
    cos, sin = math.cos(math.radians(rotation_deg)), math.sin(math.radians(rotation_deg))
    half_root_3 = math.sqrt(3.0) / 2.0
    turn = np.array([[cos, -sin / half_root_3], [sin * half_root_3, cos]], np.float32)
    pair = signal_mv[[record.leads.index("I"), record.leads.index("aVF")]]
    signal_mv = signal_mv.copy()
    signal_mv[_limbs(record)] = (_coefficients(record) @ turn) @ pair
    return signal_mv


def _repeak(record: Record, waves: Waves) -> Waves:
    """Returns the waves with the limb leads' peaks at the largest deflection of each wave."""
    limbs = [k for k, lead in enumerate(waves.leads) if lead in FROM_I_AND_AVF]
    rows = [record.leads.index(waves.leads[k]) for k in limbs]
    ratio = record.sampling_rate_hz / waves.sampling_rate_hz
    samples = waves.samples.copy()
    marks = samples[limbs] * ratio
    base = _level(record.signal_mv[rows], marks[..., FIDUCIALS.index("qrs_onset")], record)
    for wave in ("p", "qrs", "t"):
        onset, peak, offset = (FIDUCIALS.index(f"{wave}_{m}") for m in ("onset", "peak", "offset"))
        found = _largest(record.signal_mv[rows], base, marks[..., onset], marks[..., offset])
        known = np.isfinite(found) & np.isfinite(marks[..., peak])
        samples[limbs, :, peak] = np.where(known, found / ratio, samples[limbs, :, peak])
    return dataclasses.replace(waves, samples=samples)


def _level(
    signal_mv: Float[np.ndarray, "L T"], qrs_onset: Float[np.ndarray, "L N"], record: Record
) -> Float[np.ndarray, "L N"]:
    """Returns the level just before each QRS; 0 where there is no QRS or no sample."""
    at = np.nan_to_num(qrs_onset).astype(np.int64).clip(0, signal_mv.shape[1] - 1)
    level = np.take_along_axis(signal_mv, at, axis=1)
    return np.where(np.isfinite(qrs_onset) & np.isfinite(level), level, 0.0)


def _largest(
    signal_mv: Float[np.ndarray, "L T"],
    level: Float[np.ndarray, "L N"],
    onset: Float[np.ndarray, "L N"],
    offset: Float[np.ndarray, "L N"],
) -> Float[np.ndarray, "L N"]:
    """Returns the sample of the largest deflection from the level, NaN without both bounds."""
    known = np.isfinite(onset) & np.isfinite(offset) & (offset >= onset)
    if not known.any():
        return np.full(onset.shape, np.nan)
    first: Int[np.ndarray, "L N"] = np.where(known, np.ceil(onset), 0).astype(np.int64)
    last: Int[np.ndarray, "L N"] = np.where(known, np.floor(offset), 0).astype(np.int64)
    steps = first[..., None] + np.arange((last - first).max() + 1)
    inside = (steps <= last[..., None]) & (steps < signal_mv.shape[1])
    row = np.arange(len(signal_mv))[:, None, None]
    height = np.abs(signal_mv[row, steps.clip(0, signal_mv.shape[1] - 1)] - level[..., None])
    height = np.where(inside & np.isfinite(height), height, -1.0)
    return np.where(known & (height.max(axis=-1) >= 0), first + height.argmax(axis=-1), np.nan)


def _wander(
    rng: np.random.Generator, num_leads: int, num_samples: int, rate_hz: float
) -> Float[np.ndarray, "L T"]:
    """Returns a slow sine of amplitude 1 for each lead, of random frequency and phase."""
    frequency_hz = rng.uniform(*WANDER_HZ, size=(num_leads, 1))
    phase = rng.uniform(0.0, 2.0 * math.pi, size=(num_leads, 1))
    turns = (2.0 * math.pi * frequency_hz / rate_hz).astype(np.float32)
    steps = np.arange(num_samples, dtype=np.float32)
    return np.sin(turns * steps + phase.astype(np.float32))
