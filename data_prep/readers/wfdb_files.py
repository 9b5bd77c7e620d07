"""Whether the data files of a WFDB header are there and hold what it promises."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from data_prep.readers.wfdb_header import MAX_RATE_HZ, Header, Signal
from data_prep.readers.wfdb_samples import BYTES, FLAC_BITS, num_bytes
from data_prep.records import MAX_VALUES, BadInput

NO_SAMPLES = "0"  # the format of a signal without a file


def by_file(header: Header) -> dict[str, list[Signal]]:
    """The signals of each data file, in its order; those without samples are in none."""
    groups: dict[str, list[Signal]] = defaultdict(list)
    for signal in header.signals:
        if signal.format != NO_SAMPLES:
            groups[signal.file_name].append(signal)
    return groups


def check_files(header_path: Path, header: Header) -> tuple[int, list[str]]:
    """Frames of the record, after each file was found to hold them, and what a file holds beyond.

    Raises:
      BadInput: a file is missing, lies elsewhere, is too short or of a format that is not read.
    """
    held, frames_of = [], {}
    for name, group in by_file(header).items():
        data = _data_file(header_path, name)
        frames = _frames_held(header_path, data, group)
        if header.num_samples is not None and frames < header.num_samples:
            raise BadInput(_too_short(data, group, header.num_samples, frames))
        held.append(frames)
        frames_of[name] = frames
    num_frames = header.num_samples or min(held, default=0)
    if num_frames == 0:
        raise BadInput(
            f"{header_path}: its data holds no sample, expected at least one; fetch it again"
        )
    per_frame = max(signal.samples_per_frame for signal in header.signals)
    values = num_frames * per_frame * len(header.signals)
    rate_hz = per_frame * header.sampling_rate_hz
    if values > MAX_VALUES or rate_hz > MAX_RATE_HZ:
        raise BadInput(
            f"{header_path}: {values} samples at {rate_hz:g} Hz, expected at most {MAX_VALUES} "
            f"and {MAX_RATE_HZ:g} Hz; cut the record, or correct the header"
        )
    if (skew := max(signal.skew for signal in header.signals)) >= num_frames:
        raise BadInput(
            f"{header_path}: a skew of {skew} samples in a record of {num_frames}, "
            "expected less; correct the header"
        )
    return num_frames, _beyond(num_frames, frames_of, by_file(header))


def _beyond(
    num_frames: int, frames_of: dict[str, int], groups: dict[str, list[Signal]]
) -> list[str]:
    """Notes of the files that go on after the record's end."""
    notes = []
    for name, frames in frames_of.items():
        form = groups[name][0].format
        per_frame = sum(signal.samples_per_frame for signal in groups[name])
        filler = 2 if form in ("212", "310", "311") else 0  # samples that only fill up a block
        if (frames - num_frames) * per_frame > filler:
            notes.append(
                f"{name} holds {frames} samples a signal, the header says {num_frames}: "
                "the rest is left out"
            )
    return notes


def _data_file(header_path: Path, name: str) -> Path:
    data = header_path.parent / name
    if not data.is_file():
        raise BadInput(
            f"{header_path}: its data file {name} is missing (looked for {data}); "
            "put it beside the header"
        )
    # Its name has no folder, so only a link leaves; to resolve each path costs more than to read.
    if data.is_symlink() and data.resolve().parent not in {
        header_path.parent.resolve(),
        header_path.resolve().parent,
    }:
        raise BadInput(
            f"{header_path}: its data file {name} is a link that leaves the record's folder, "
            "expected the file itself; copy it there"
        )
    return data


def _frames_held(header_path: Path, data: Path, group: Sequence[Signal]) -> int:
    """How many samples of each signal a data file holds."""
    form = group[0].format
    if len({(signal.format, signal.byte_offset) for signal in group}) > 1:
        raise BadInput(
            f"{header_path}: {data.name} is given in two formats or offsets, expected one; "
            "correct the header"
        )
    per_frame = sum(signal.samples_per_frame for signal in group)
    if not all(signal.samples_per_frame for signal in group):
        raise BadInput(f"{header_path}: 0 samples a frame in {data.name}, expected at least 1")
    if form in FLAC_BITS:
        return _flac_frames(data, group)
    if form not in BYTES:
        raise BadInput(
            f"{header_path}: format {form} is unknown, expected one of "
            f"{', '.join([*BYTES, *FLAC_BITS])}; convert the record"
        )
    size = max(data.stat().st_size - group[0].byte_offset, 0)
    frames = int(size / BYTES[form]) // per_frame
    return frames - (num_bytes(form, frames * per_frame) > size)


def _flac_frames(data: Path, group: Sequence[Signal]) -> int:
    import soundfile

    try:
        info = soundfile.info(str(data))
    except soundfile.LibsndfileError as error:
        raise BadInput(
            f"{data}: {error.error_string} Expected FLAC; fetch the file again"
        ) from None
    same = len({signal.samples_per_frame for signal in group}) == 1
    if info.format != "FLAC" or info.channels != len(group) or not same:
        raise BadInput(
            f"{data}: {info.format} of {info.channels} channels, expected FLAC of {len(group)} "
            "of one rate; fetch the file again"
        )
    return info.frames // group[0].samples_per_frame


def _too_short(data: Path, group: Sequence[Signal], expected: int, held: int) -> str:
    form = group[0].format
    if form in FLAC_BITS:
        return f"{data}: {held} samples, expected {expected}; fetch the file again"
    per_frame = sum(signal.samples_per_frame for signal in group)
    needed = group[0].byte_offset + num_bytes(form, expected * per_frame)
    return (
        f"{data}: {data.stat().st_size} bytes, expected {needed} ({len(group)} signals of "
        f"{expected} samples in format {form}); fetch the file again"
    )
