"""The cardiologists' marks of a LUDB record, as Waves.

LUDB keeps one WFDB annotation file a lead (NAME.i … NAME.v6): `p`, `N` and `t` are the peaks
of P, QRS and T, each between `(` and `)`. Axes: L leads, N beats.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.records import LEADS, BadInput, canonical_order, without_suffix
from data_prep.waves import FIDUCIALS, Waves

# QRS peaks of one heartbeat lie up to 145 ms apart between leads (bundle branch block, paced),
# those of two heartbeats at least 260 ms.
_SAME_BEAT_S = 0.16
# Longest PR: a P wave farther ahead was not conducted to this QRS.
_MAX_PR_S = 0.5
_COLUMN = {"p": 0, "N": 3, "t": 6}
_NAN = float("nan")


class _Wave(NamedTuple):
    kind: str  # p, N or t
    onset: float
    peak: float
    offset: float


class _Beat(NamedTuple):
    reference: float  # QRS peak, or P peak where no QRS followed
    conducted: bool
    waves: tuple[_Wave, ...]


def read_marks(
    record_path: str | Path,
    leads: Sequence[str] = LEADS,
    start: int = 0,
    stop: int | None = None,
) -> Waves:
    """The marked waves of a LUDB record; beat k is the same heartbeat in every lead.

    A bracket that the cardiologists left out is NaN. A P wave without its QRS is a beat of its own.

    Args:
      record_path: with or without a suffix of WFDB.
      leads: those whose marks are read, where they have any.
      start: only marks from this sample of the record on; they stay at samples of the record.
      stop: only marks before this one; there may be none.

    Raises:
      BadInput: the record has no annotation file, or one cannot be read.
    """
    stem = without_suffix(Path(record_path))
    files = {lead: stem.with_name(f"{stem.name}.{lead.lower()}") for lead in canonical_order(leads)}
    marked = canonical_order(lead for lead, path in files.items() if path.is_file())
    if not marked:
        raise BadInput(
            f"{record_path}: no marks: looked for {stem}.i to {stem}.v6; "
            "expected a LUDB record with its annotation files"
        )
    rate_hz = _sampling_rate_hz(stem)
    beats = {lead: _beats(_waves(stem, lead, rate_hz, (start, stop)), rate_hz) for lead in marked}
    return Waves(leads=marked, sampling_rate_hz=rate_hz, samples=_align(beats, marked, rate_hz))


def _sampling_rate_hz(stem: Path) -> float:
    from data_prep.readers.wfdb_header import read_header

    return read_header(stem.with_name(stem.name + ".hea")).sampling_rate_hz


def _waves(stem: Path, lead: str, rate_hz: float, window: tuple[int, int | None]) -> list[_Wave]:
    """The waves of one lead in order of time, at samples of the record."""
    import wfdb

    try:
        marks = wfdb.rdann(str(stem), lead.lower())
    except (ValueError, LookupError, OSError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(
            f"{stem}.{lead.lower()}: not a WFDB annotation file: {reason}; fetch it again"
        ) from error
    samples = np.asarray(marks.sample)
    if marks.fs and marks.fs != rate_hz:  # the file counts time at a rate of its own
        samples = np.round(samples * (rate_hz / marks.fs)).astype(int)
    start, stop = window
    inside = (samples >= start) & (samples < (math.inf if stop is None else stop))
    kept = np.flatnonzero(inside)
    return pair_brackets([marks.symbol[k] for k in kept], samples[kept].tolist())


def pair_brackets(symbols: Sequence[str], samples: Sequence[int]) -> list[_Wave]:
    """Each peak with the brackets around it; of a mark set several times the middle one.

    A bracket belongs to a peak if no other mark lies between them. WFDB keeps one mark a sample, so
    an onset that coincides with its peak (a QRS without Q) is not stored, or stored a few samples
    late: where only the end of a wave is marked, it begins at its peak.
    """
    marks = _runs(symbols, samples)
    around = [("", _NAN), *marks, ("", _NAN), ("", _NAN)]
    waves = []
    for index, (symbol, peak) in enumerate(marks, start=1):
        if symbol not in _COLUMN:
            continue
        before, after, second = around[index - 1], around[index + 1], around[index + 2]
        late_onset = after[0] == "(" and second[0] == ")"
        end = second if late_onset else after
        offset = end[1] if end[0] == ")" else _NAN
        onset = before[1] if before[0] == "(" else peak if offset > peak else _NAN
        waves.append(_Wave(symbol, onset, peak, offset))
    return waves


def _runs(symbols: Sequence[str], samples: Sequence[int]) -> list[tuple[str, float]]:
    runs: list[tuple[str, list[float]]] = []
    for symbol, sample in zip(symbols, samples, strict=True):
        if runs and runs[-1][0] == symbol:
            runs[-1][1].append(float(sample))
        else:
            runs.append((symbol, [float(sample)]))
    return [(symbol, marks[len(marks) // 2]) for symbol, marks in runs]


def _beats(waves: Sequence[_Wave], rate_hz: float) -> list[_Beat]:
    """The beats of one lead: each QRS with the P just before it and the first T after it."""
    beats = []
    pending: list[_Wave] = []  # P waves since the last QRS
    for index, wave in enumerate(waves):
        if wave.kind == "p":
            pending.append(wave)
        elif wave.kind == "N":
            own = [p for p in pending[-1:] if wave.peak - p.peak <= _MAX_PR_S * rate_hz]
            beats += [_Beat(p.peak, False, (p,)) for p in pending if p not in own]
            following = next((w for w in waves[index + 1 :] if w.kind != "p"), None)
            own += [following] if following and following.kind == "t" else []
            beats.append(_Beat(wave.peak, True, (wave, *own)))
            pending = []
    # P waves after the last marked QRS belong to a beat that was not marked.
    return beats


def _align(beats: dict[str, list[_Beat]], leads: tuple[str, ...], rate_hz: float) -> np.ndarray:
    """Samples (L, N, 9) with the beats of all leads in common columns, in order of time."""
    columns: list[tuple[float, dict[str, _Beat]]] = []
    for conducted in (True, False):
        pooled = sorted(
            (beat.reference, lead, beat)
            for lead in leads
            for beat in beats[lead]
            if beat.conducted is conducted
        )
        for group in _clusters(pooled, _SAME_BEAT_S * rate_hz):
            reference = float(np.median([beat.reference for beat in group.values()]))
            columns.append((reference, group))
    columns.sort(key=lambda column: column[0])
    samples = np.full((len(leads), len(columns), len(FIDUCIALS)), np.nan)
    for number, (_, group) in enumerate(columns):
        for lead, beat in group.items():
            for wave in beat.waves:
                first = _COLUMN[wave.kind]
                samples[leads.index(lead), number, first : first + 3] = wave[1:]
    return samples


def _clusters(pooled: Sequence[tuple[float, str, _Beat]], width: float) -> list[dict[str, _Beat]]:
    """Beats in order of time, grouped: within `width` of the group's first, one a lead."""
    groups: list[dict[str, _Beat]] = []
    start = -math.inf
    for reference, lead, beat in pooled:
        if reference - start > width or lead in groups[-1]:
            groups.append({})
            start = reference
        groups[-1][lead] = beat
    return groups
