"""WFDB records: .hea with data in .dat, FLAC or the Challenge's .mat, in one segment or in many.

The header is checked against the files before anything is allocated by it. L leads, T samples.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from data_prep.readers.assemble import assemble
from data_prep.readers.gains import false_gains
from data_prep.readers.names import lead_names
from data_prep.readers.wfdb_comments import meta_of
from data_prep.readers.wfdb_files import NO_SAMPLES, by_file, check_files
from data_prep.readers.wfdb_header import DEFAULT_GAIN, Header, Signal, read_header
from data_prep.readers.wfdb_samples import BYTES, NOTHING, missing, read_bytes, read_flac
from data_prep.records import BadInput, Reading, Record
from data_prep.resampling import resample_rows

Row = Int[np.ndarray, "_"]  # a signal's samples, as many as it has in all frames


@dataclass(frozen=True)
class Piece:
    """What one header and its data hold of the twelve leads: a record, or one segment of it."""

    spelled: tuple[str, ...]  # of all signals
    leads: tuple[str | None, ...]  # what each is; None is left out
    signal_mv: Float[np.ndarray, "L T"]  # those that are a lead
    sampling_rate_hz: float
    notes: tuple[str, ...] = ()
    lead_notes: dict[str, list[str]] = field(default_factory=dict)
    damage: tuple[str, ...] = ()
    calibrated: bool = True


def read(stem: Path, reading: Reading) -> Record:
    """The Record whose header is at `stem`.hea.

    Raises:
      BadInput: something is missing, garbled or no voltage; see `read_header`.
    """
    header_path = _header_path(stem)
    header = read_header(header_path)
    if header.segments:
        from data_prep.readers.wfdb_segments import read_segments

        piece = read_segments(header_path, header)
    else:
        piece = read_piece(header_path, header)
    if piece.damage and reading.strict:
        raise BadInput(f"{stem}: {'; '.join(piece.damage)}; fetch the record again")
    return assemble(
        str(stem),
        piece.spelled,
        piece.signal_mv,
        piece.sampling_rate_hz,
        notes=piece.notes,
        lead_notes=piece.lead_notes,
        calibrated=piece.calibrated,
        meta=meta_of(header.comments),
    )


def check(stem: Path) -> None:
    """Refuses, as `read`, what is seen without reading a sample."""
    header_path = _header_path(stem)
    header = read_header(header_path)
    if header.segments:
        from data_prep.readers.wfdb_segments import segment_headers

        segment_headers(header_path, header)
    else:
        check_files(header_path, header)


def _header_path(stem: Path) -> Path:
    header_path = Path(f"{stem}.hea")
    if not header_path.is_file():
        raise BadInput(
            f"{stem}: no such record: looked for {header_path}; give the path of a WFDB record "
            "(NAME.hea with its data beside it)"
        )
    return header_path


def read_piece(header_path: Path, header: Header) -> Piece:
    """The leads of a header of one segment, all at the rate of the fastest.

    Raises:
      BadInput: see `check_files`.
    """
    num_frames, beyond = check_files(header_path, header)
    spelled = tuple(signal.name for signal in header.signals)
    leads = lead_names(header_path, spelled)
    raw = _raw_rows(header_path, header, num_frames)
    named = [
        (signal, lead, row)
        for signal, lead, row in zip(header.signals, leads, raw, strict=True)
        if lead
    ]
    gains = false_gains({lead: (s.mv_per_adu, s.format, row) for s, lead, row in named})
    units = sorted({signal.unit for signal, _, _ in named if signal.unit.lower() != "mv"})
    faults = {lead: _mismatches(signal, row) for signal, lead, row in named}
    rate_hz = header.sampling_rate_hz * max((s.samples_per_frame for s, _, _ in named), default=1)
    lead_notes, rows = {}, []
    for signal, lead, row in named:
        own_hz = header.sampling_rate_hz * signal.samples_per_frame
        rows.append(resample_rows(_millivolts(signal, row)[None], own_hz, rate_hz)[0])
        lead_notes[lead] = [*_gain_notes(signal), *faults[lead]]
        if own_hz != rate_hz:
            lead_notes[lead].append(f"sampled at {own_hz:g} Hz, brought to {rate_hz:g} Hz")
    return Piece(
        spelled,
        tuple(leads),
        np.stack(rows) if rows else np.empty((0, num_frames), np.float32),
        rate_hz,
        (*(f"stored in {unit}, converted to mV" for unit in units), *gains, *beyond),
        lead_notes,
        (*beyond, *(f"{lead}: {text}" for lead, texts in faults.items() for text in texts)),
        calibrated=not (gains or any(signal.gain == 0 for signal, _, _ in named)),
    )


def _raw_rows(header_path: Path, header: Header, num_frames: int) -> list[Row]:
    """The digital samples of every signal, in the header's order."""
    rows: dict[int, np.ndarray] = {}
    for name, group in by_file(header).items():
        data, first = header_path.parent / name, group[0]
        if first.format in BYTES:
            per_frame = sum(signal.samples_per_frame for signal in group)
            flat = read_bytes(data, first.byte_offset, first.format, num_frames * per_frame)
            frames = flat.reshape(num_frames, per_frame)
            ends = np.cumsum([signal.samples_per_frame for signal in group])
            columns = (
                list(np.ascontiguousarray(frames.T))  # rows side by side are read faster
                if per_frame == len(group)
                else np.split(frames, ends[:-1], axis=1)
            )
        else:
            samples = read_flac(data, first.format, num_frames * first.samples_per_frame)
            columns = list(samples.T)
        for signal, column in zip(group, columns, strict=True):
            row = column.reshape(-1)
            if first.format == "8":
                row = np.cumsum(row, dtype=np.int64) + (signal.first_value or 0)
            rows[id(signal)] = row
    return [
        rows.get(id(signal), np.full(num_frames * signal.samples_per_frame, NOTHING, np.int32))
        for signal in header.signals
    ]


def _millivolts(signal: Signal, row: Row) -> Float[np.ndarray, "T"]:
    """A signal in mV, moved earlier by its skew; NaN where a sample is missing."""
    with np.errstate(over="ignore", invalid="ignore"):  # the check of voltages says it
        signal_mv = ((row - float(signal.baseline)) * signal.mv_per_adu).astype(np.float32)
    signal_mv[missing(signal.format, row)] = np.nan
    if signal.skew:
        lag = signal.skew * signal.samples_per_frame
        signal_mv = np.append(signal_mv[lag:], np.full(lag, np.nan, np.float32))
    return signal_mv


def _gain_notes(signal: Signal) -> list[str]:
    if signal.gain:
        return []
    return [f"no gain in the header: {DEFAULT_GAIN:g} per {signal.unit} assumed"]


def _mismatches(signal: Signal, row: Row) -> list[str]:
    """Where the header's own check values disagree with the samples."""
    notes: list[str] = []
    if signal.format == NO_SAMPLES:
        return notes
    if signal.first_value not in (None, int(row[0])) and signal.format != "8":
        notes.append(f"first sample is {row[0]}, the header says {signal.first_value}")
    total = int(row.sum(dtype=np.int64))
    if signal.checksum is not None and (total - signal.checksum) % 65536:
        signed = 32768 if signal.checksum < 32768 else 0  # as the header has it
        own = (total + signed) % 65536 - signed
        notes.append(
            f"checksum is {own}, the header says {signal.checksum}: samples may be damaged"
        )
    return notes
