"""WFDB records of several segments: one record, each segment with its own gains, NaN in the gaps.

In the fixed layout every segment has the same signals; in the variable one the first segment, of
no samples, names them all, and each of the others has some of them.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np
from jaxtyping import Float

from data_prep.readers.names import inverted
from data_prep.readers.wfdb import Piece, read_piece
from data_prep.readers.wfdb_files import check_files
from data_prep.readers.wfdb_header import Header, Segment, read_header
from data_prep.records import MAX_VALUES, BadInput
from data_prep.resampling import resample_rows


def segment_headers(header_path: Path, header: Header) -> list[tuple[Segment, Path, Header]]:
    """The segments that are there, each with its header's path, after their files were checked.

    Raises:
      BadInput: a segment is missing, of several segments itself, or of another rate or length than
        the record's header says; its name is in the message.
    """
    found = []
    for segment in header.segments:
        if segment.name == "~":
            continue
        where = f"{header_path}, segment {segment.name}"
        path = header_path.parent / f"{segment.name}.hea"
        if not path.is_file():
            raise BadInput(f"{where}: is missing (looked for {path}); put it beside the header")
        own = read_header(path, header.sampling_rate_hz)
        if own.segments or own.sampling_rate_hz != header.sampling_rate_hz:
            kind = f"{len(own.segments)} segments" if own.segments else f"{own.sampling_rate_hz} Hz"
            raise BadInput(
                f"{where}: is of {kind}, expected signals at {header.sampling_rate_hz} Hz; "
                "correct the header"
            )
        if segment.num_samples:
            _check_length(where, segment, path, own)
        found.append((segment, path, own))
    return found


def _check_length(where: str, segment: Segment, path: Path, own: Header) -> None:
    try:
        num_frames, _ = check_files(path, own)
    except BadInput as bad:
        raise BadInput(f"{where}: {bad}") from None
    if num_frames != segment.num_samples:
        raise BadInput(
            f"{where}: {num_frames} samples, the record's header says {segment.num_samples}; "
            "correct the header"
        )


def read_segments(header_path: Path, header: Header) -> Piece:
    """The record of all segments, at the rate of the fastest lead.

    Raises:
      BadInput: see `segment_headers`, or the record is too long.
    """
    pieces = {
        segment.name: read_piece(path, own)
        for segment, path, own in segment_headers(header_path, header)
        if segment.num_samples
    }
    leads = list(dict.fromkeys(lead for piece in pieces.values() for lead in piece.leads if lead))
    rate_hz = max(
        (piece.sampling_rate_hz for piece in pieces.values() if any(piece.leads)),
        default=header.sampling_rate_hz,
    )
    per_frame = round(rate_hz / header.sampling_rate_hz)
    length = per_frame * sum(segment.num_samples for segment in header.segments)
    if length * max(len(leads), 1) > MAX_VALUES:
        raise BadInput(
            f"{header_path}: {length} samples a lead, expected at most "
            f"{MAX_VALUES // max(len(leads), 1)}; cut the record"
        )
    signal_mv = np.full((len(leads), length), np.nan, np.float32)
    start = 0
    for segment in header.segments:
        stop = start + segment.num_samples * per_frame
        if segment.num_samples and segment.name in pieces:
            piece = pieces[segment.name]
            own = [leads.index(lead) for lead in piece.leads if lead]
            if own:
                rows = resample_rows(piece.signal_mv, piece.sampling_rate_hz, rate_hz)
                signal_mv[own, start:stop] = rows[:, : stop - start]
        start = stop
    return _joined(header_path, header, pieces, leads, signal_mv, rate_hz)


def _joined(
    header_path: Path,
    header: Header,
    pieces: dict[str, Piece],
    leads: list[str],
    signal_mv: Float[np.ndarray, "L T"],
    rate_hz: float,
) -> Piece:
    """The whole as one piece: what a segment's notes say names the segment."""
    notes: list[str] = []
    damage: list[str] = []
    lead_notes: dict[str, list[str]] = defaultdict(list)
    spelled: dict[str, str | None] = {}
    for name, piece in pieces.items():
        notes += [f"segment {name}: {note}" for note in piece.notes]
        damage += [f"segment {name}: {text}" for text in piece.damage]
        for of, said in piece.lead_notes.items():
            lead_notes[of] += [f"segment {name}: {note}" for note in said]
        for text, lead in zip(piece.spelled, piece.leads, strict=True):
            if lead is None or lead not in spelled.values():
                spelled[text] = lead
            elif any(inverted(text) != inverted(one) for one, of in spelled.items() if of == lead):
                raise BadInput(
                    f"{header_path}, segment {name}: {lead} is inverted there and upright "
                    "elsewhere, expected the same in all segments; name one of them"
                )
    gaps = [segment for segment in header.segments if segment.name == "~" and segment.num_samples]
    if gaps:
        lost_s = sum(segment.num_samples for segment in gaps) / header.sampling_rate_hz
        notes.append(f"gaps between segments: {lost_s:.2f} s are missing")
    named = [text for text, lead in spelled.items() if lead]
    named.sort(key=lambda text: leads.index(spelled[text] or ""))
    others = [text for text, lead in spelled.items() if not lead]
    calibrated = all(piece.calibrated for piece in pieces.values())
    return Piece(
        (*named, *others),
        (*leads, *[None] * len(others)),
        signal_mv,
        rate_hz,
        tuple(notes),
        dict(lead_notes),
        tuple(damage),
        calibrated,
    )
