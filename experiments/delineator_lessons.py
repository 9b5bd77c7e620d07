"""What the delineation network learns from: marked ECGs, changed at random, made ECGs and noise.

Axes: L leads, T samples, N beats, S moments, K classes, F frames, W samples of a frame.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flax import struct
from jaxtyping import Float
from scipy import ndimage

from data_prep.conditioning import (
    MOMENT,
    RATE_HZ,
    WANDER_HZ,
    at_working_rate,
    between,
    bridged,
    frames,
)
from data_prep.marks import read_marks
from data_prep.network import CLASSES
from data_prep.records import BadInput, find, read
from data_prep.waves import P_PEAK, Waves
from experiments.made_ecgs import made_ecg

FOLDS = Path(__file__).with_name("ludb_folds.json")
NUM_LEADS = 12
NUM_SAMPLES = 4096  # 8.2 s
TIME_SCALE = (0.75, 1.35)
COARSE_HZ, COARSE_SHARE = 100, 0.15  # some records were sampled at a low rate
MICROVOLT_MV = 1e-3


@dataclass(frozen=True)
class Recording:
    """A marked ECG at RATE_HZ.

    Attributes:
        name: of the record.
        signal_mv: without wander.
        waves: rows of lead, class, onset, offset, peak in samples; NaN where a bound is not marked.
        marked_from: the first mark of each lead; earlier, nothing is known.
        marked_to: the last one.
        p_marked: False where the cardiologists left visible P waves unmarked (paced records).
    """

    name: str
    signal_mv: Float[np.ndarray, "L T"]
    waves: Float[np.ndarray, "M 5"]
    marked_from: Float[np.ndarray, " L"]
    marked_to: Float[np.ndarray, " L"]
    p_marked: bool


@struct.dataclass
class Lesson:
    """A batch; the joint classes are means over the leads."""

    frames: Float[np.ndarray, "B L F W"]
    alive: Float[np.ndarray, "B L"]
    classes: Float[np.ndarray, "B L S K"]
    marked: Float[np.ndarray, "B L S"]
    joint_classes: Float[np.ndarray, "B S K"]
    joint_marked: Float[np.ndarray, "B S"]


@dataclass(frozen=True)
class Scene:
    """One ECG and what is known of each moment of it: a lesson before it is shown."""

    signal_mv: Float[np.ndarray, "L T"]
    classes: Float[np.ndarray, "L S K"]
    marked: Float[np.ndarray, "L S"]


def folds(ludb: Path) -> list[list[str]]:
    """Returns the names of the records of each of five folds, as committed.

    Raises:
        BadInput: the folder holds a record that is in no fold.
    """
    parts: list[list[str]] = json.loads(FOLDS.read_text())
    known = {name for part in parts for name in part}
    if unknown := sorted({path.name for path in find([ludb])} - known):
        raise BadInput(
            f"{ludb}: records {', '.join(unknown[:5])} are in no fold of {FOLDS.name}, expected "
            "those of the delineator's own 120; leave them out: they are for testing"
        )
    return parts


def recordings(ludb: Path) -> list[Recording]:
    """Returns the marked records of a folder."""
    return [recording(path) for path in find([ludb])]


def recording(path: Path) -> Recording:
    """Returns a record of LUDB with its marks.

    Its header scales each lead to the same height; the stored samples are microvolts.
    """
    import wfdb

    record, marks = read(path), read_marks(path)
    raw = wfdb.rdrecord(str(path), physical=False)
    row = {name.lower(): i for i, name in enumerate(raw.sig_name)}
    signal = raw.d_signal.T[[row[lead.lower()] for lead in record.leads]] * MICROVOLT_MV
    bounds = marks.samples[..., [0, 2, 3, 5, 6, 8]].reshape(*marks.samples.shape[:2], 3, 2)
    peaks = marks.samples[..., [1, 4, 7]]
    lead, beat, wave = np.nonzero(np.isfinite(peaks))
    at = bounds[lead, beat, wave]
    rows = np.column_stack([lead, wave + 1, at, peaks[lead, beat, wave]])
    known = np.concatenate([bounds.reshape(len(peaks), -1), peaks.reshape(len(peaks), -1)], axis=1)
    return Recording(
        name=path.name,
        signal_mv=_without_wander(bridged(signal)),
        waves=rows,
        marked_from=np.fmin.reduce(known, axis=1),
        marked_to=np.fmax.reduce(known, axis=1),
        p_marked=not p_unmarked(path, marks),
    )


def _without_wander(x: Float[np.ndarray, "L T"]) -> Float[np.ndarray, "L T"]:
    return between(x, WANDER_HZ, math.inf)


def p_unmarked(path: Path, marks: Waves) -> bool:
    """Returns whether the record is paced and has no P mark: visible P waves were left out."""
    paced = "pacing" in path.with_suffix(".hea").read_text().lower()
    return paced and bool(np.isnan(marks.samples[..., P_PEAK]).all())


def batches(
    records: Sequence[Recording], plan: Iterable[tuple[int, int]], seed: int, made_share: float
) -> Iterator[Lesson]:
    """Yields a lesson for each (records, leads) of the plan, made ahead in another thread."""
    rng = np.random.default_rng(seed)

    def lesson(size: tuple[int, int]) -> Lesson:
        shown = [_shown(rng, _scene(rng, records, made_share), size[1]) for _ in range(size[0])]
        return Lesson(*(np.stack(parts) for parts in zip(*shown, strict=True)))

    with ThreadPoolExecutor(1) as ahead:
        waiting = None
        for size in plan:
            following = ahead.submit(lesson, size)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


def _scene(rng: np.random.Generator, records: Sequence[Recording], made_share: float) -> Scene:
    if rng.random() >= made_share:
        real = _real(rng, records[rng.integers(len(records))])
        return _disturbed(rng, _with_noise_leads(rng, real), 1.0)
    if rng.random() < 0.15:
        return _nothing(rng)
    return _disturbed(rng, _with_noise_leads(rng, _made(rng)), 0.3 * float(rng.random()) ** 2)


def _real(rng: np.random.Generator, record: Recording) -> Scene:
    """Returns a stretch of a record, its time stretched."""
    scale = float(np.exp(rng.uniform(*np.log(TIME_SCALE))))
    length = record.signal_mv.shape[1]
    start = rng.uniform(-0.05 * NUM_SAMPLES, max(length * scale - 0.95 * NUM_SAMPLES, 0.0))
    position = (np.arange(NUM_SAMPLES) + start) / scale
    before = np.clip(np.floor(position).astype(int), 0, length - 2)
    share = np.clip(position - before, 0.0, 1.0)
    signal = record.signal_mv[:, before] * (1 - share) + record.signal_mv[:, before + 1] * share
    waves = record.waves.copy()
    waves[:, 2:] = waves[:, 2:] * scale - start
    classes, marked = _known(waves)
    time = np.arange(marked.shape[1]) * MOMENT
    begin, end = record.marked_from * scale - start, record.marked_to * scale - start
    marked = marked & (time >= begin[:, None]) & (time <= end[:, None])
    marked &= (position >= 0)[::MOMENT] & (position <= length - 1)[::MOMENT]
    if not record.p_marked:
        marked &= classes[..., CLASSES.index("qrs") :].sum(axis=-1) > 0.5
    return Scene(signal, classes, marked)


def _known(
    waves: Float[np.ndarray, "M 5"],
) -> tuple[Float[np.ndarray, "L S K"], np.ndarray]:
    """Returns each moment's share of each class, and whether it is known: not near a bound that
    the cardiologists left out.
    """
    count = NUM_SAMPLES // MOMENT
    classes = np.zeros((NUM_LEADS, count, len(CLASSES)), np.float32)
    marked = np.ones((NUM_LEADS, count), bool)
    begin = np.arange(count) * MOMENT - 0.5
    for lead, class_, onset, offset, peak in waves.tolist():
        at = int(lead)
        if not math.isfinite(onset + offset):
            first = onset if math.isfinite(onset) else peak - 60
            last = offset if math.isfinite(offset) else peak + 60
            marked[at] &= (begin < first) | (begin > last)
            continue
        low, high = max(int(onset / MOMENT) - 1, 0), min(int(offset / MOMENT) + 3, count)
        if low < high:
            edge = begin[low:high]
            covered = np.minimum(edge + MOMENT, offset) - np.maximum(edge, onset)
            into = classes[at, low:high, int(class_)]
            np.maximum(into, np.minimum(covered / MOMENT, 1.0), out=into)
    classes[..., 0] = np.clip(1.0 - classes[..., 1:].sum(axis=-1), 0.0, 1.0)
    return classes / classes.sum(axis=-1, keepdims=True), marked


def _made(rng: np.random.Generator) -> Scene:
    made = made_ecg(rng, NUM_SAMPLES, RATE_HZ)
    beat, wave = np.nonzero(np.isfinite(made.bounds[..., 0]))
    at = made.bounds[beat, wave]
    classes, marked = _known(np.column_stack([0 * wave, wave + 1, at, at.mean(axis=1)]))
    every = [0] * NUM_LEADS  # the waves of the first lead are those of all
    return Scene(_without_wander(made.signal_mv), classes[every], marked[every])


def _nothing(rng: np.random.Generator) -> Scene:
    classes, marked = _known(np.empty((0, 5)))
    return Scene(0.1 * _noise(rng, NUM_LEADS), classes, marked)


def _noise(rng: np.random.Generator, leads: int) -> Float[np.ndarray, "L T"]:
    """Returns noise of unit size: white, its sum, whose slow waves are larger, or a hum."""
    noise = rng.standard_normal((leads, NUM_SAMPLES))
    kind = rng.random()
    if kind < 0.35:
        noise = _without_wander(np.cumsum(noise, axis=1))
    elif kind < 0.65:
        hz = np.exp(rng.uniform(*np.log([0.5, 70.0])))
        turns = hz * np.arange(NUM_SAMPLES) / RATE_HZ + rng.random((leads, 1))
        noise = rng.uniform(0.0, 0.1) * noise + np.sin(2 * np.pi * turns)
    return noise / noise.std(axis=1, keepdims=True)


def _with_noise_leads(rng: np.random.Generator, scene: Scene) -> Scene:
    """Returns the scene, at times with leads that hold nothing but noise: there are no waves."""
    if rng.random() >= 0.12:
        return scene
    which = rng.permutation(NUM_LEADS)[: rng.integers(1, 4)]
    signal, classes, marked = (
        scene.signal_mv.copy(),
        scene.classes.copy(),
        scene.marked.copy(),
    )
    signal[which] = signal.std() * _noise(rng, len(which)) * rng.uniform(0.3, 2.0)
    classes[which], marked[which] = np.eye(len(CLASSES))[0], True
    return Scene(signal, classes, marked)


def _disturbed(rng: np.random.Generator, scene: Scene, share: float) -> Scene:
    """Returns the scene with other gains and signs, noise, mains hum and wander."""
    gain = np.exp(rng.normal(0.0, 0.35, (NUM_LEADS, 1)))
    if rng.random() < 0.3:  # as a header that scales each lead to the same height
        gain = gain / np.maximum(np.ptp(scene.signal_mv, axis=1, keepdims=True), 1e-3)
    x = scene.signal_mv * gain * np.where(rng.random((NUM_LEADS, 1)) < 0.15, -1.0, 1.0)
    size = share * x.std(axis=1, keepdims=True)
    time_s = np.arange(NUM_SAMPLES) / RATE_HZ

    def wave(hz: float) -> Float[np.ndarray, "L T"]:
        return np.sin(2 * np.pi * (hz * time_s + rng.random((NUM_LEADS, 1))))

    if rng.random() < 0.5:
        uneven = np.exp(rng.normal(0.0, 0.5, (NUM_LEADS, 1)))
        x = x + size * rng.uniform(0.0, 0.12) * uneven * rng.standard_normal(x.shape)
    if rng.random() < 0.25:
        x = x + size * rng.uniform(0.0, 0.1) * wave(rng.choice([50.0, 60.0]))
    if rng.random() < 0.5:
        x = x + size * rng.uniform(0.0, 0.3) * (wave(rng.uniform(0.1, 0.7)) + wave(0.4))
    if rng.random() < COARSE_SHARE:
        blurred = ndimage.uniform_filter1d(x, RATE_HZ // COARSE_HZ, axis=1)
        coarse = blurred[:, :: RATE_HZ // COARSE_HZ]
        x = at_working_rate(coarse, COARSE_HZ)[:, :NUM_SAMPLES]
    return dataclasses.replace(scene, signal_mv=x)


def _shown(rng: np.random.Generator, scene: Scene, leads: int) -> tuple[np.ndarray, ...]:
    """Returns the fields of a lesson: some leads of the scene, of which some may be dead."""
    chosen = rng.permutation(NUM_LEADS)[:leads]
    alive = np.ones(leads, bool)
    if rng.random() < 0.25:
        alive[rng.integers(1, leads) :] = False
    shown = frames(between(scene.signal_mv[chosen[alive]], lowest_hz=0.0))
    seen = np.zeros((leads, *shown.shape[1:]), np.float32)
    seen[alive] = shown
    classes, marked = scene.classes[chosen], scene.marked[chosen] & alive[:, None]
    real = marked & (classes[..., 1:].sum(axis=(1, 2)) > 0)[:, None]  # not those of noise
    weight = real if real.any() else marked
    count = weight.sum(axis=0)
    joint = (classes * weight[..., None]).sum(axis=0) / np.maximum(count, 1)[:, None]
    return (
        seen,
        alive.astype(np.float32),
        classes,
        marked.astype(np.float32),
        joint.astype(np.float32),
        (2 * count >= weight.any(axis=1).sum()).astype(np.float32),
    )
