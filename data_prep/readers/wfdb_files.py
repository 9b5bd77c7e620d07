"""Whether the data files of a WFDB header are there and hold what it promises."""

from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from data_prep.readers.wfdb_header import Header, Signal
from data_prep.records import BadInput

# Bytes a sample: https://physionet.org/physiotools/wag/signal-5.htm
_BYTES = {
    "8": Fraction(1),
    "16": Fraction(2),
    "24": Fraction(3),
    "32": Fraction(4),
    "61": Fraction(2),
    "80": Fraction(1),
    "160": Fraction(2),
    "212": Fraction(3, 2),
    "310": Fraction(4, 3),
    "311": Fraction(4, 3),
}
_FLAC = ("508", "516", "524")


def check_files(header_path: Path, header: Header) -> int:
    """Samples a signal (frames), after each file was found to hold them.

    Raises:
      BadInput: a file is missing, lies elsewhere, is too short or of a format that is not read.
    """
    groups: dict[str, list[Signal]] = defaultdict(list)
    for signal in header.signals:
        groups[signal.file_name].append(signal)
    held = []
    for name, group in groups.items():
        data = _data_file(header_path, name)
        frames = _frames_held(header_path, data, group)
        if header.num_samples is not None and frames < header.num_samples:
            raise BadInput(_too_short(data, group, header.num_samples, frames))
        held.append(frames)
    num_samples = header.num_samples or min(held)
    if num_samples == 0:
        raise BadInput(
            f"{header_path}: its data holds no sample, expected at least one; fetch it again"
        )
    if (skew := max(signal.skew for signal in header.signals)) >= num_samples:
        raise BadInput(
            f"{header_path}: a skew of {skew} samples in a record of {num_samples}, "
            "expected less; correct the header"
        )
    return num_samples


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
    if per_frame == 0:
        raise BadInput(f"{header_path}: 0 samples a frame in {data.name}, expected at least 1")
    if form in _FLAC:
        return _flac_frames(data, group)
    if form not in _BYTES:
        raise BadInput(
            f"{header_path}: format {form} is unknown, "
            f"expected one of {', '.join([*_BYTES, *_FLAC])}; "
            "convert the record"
        )
    size = max(data.stat().st_size - group[0].byte_offset, 0)
    return int(size / _BYTES[form]) // per_frame


def _flac_frames(data: Path, group: Sequence[Signal]) -> int:
    import soundfile

    try:
        info = soundfile.info(str(data))
    except soundfile.LibsndfileError as error:
        raise BadInput(
            f"{data}: {error.error_string} Expected FLAC; fetch the file again"
        ) from None
    if info.format != "FLAC" or info.channels != len(group):
        raise BadInput(
            f"{data}: {info.format} of {info.channels} channels, expected FLAC of {len(group)}; "
            "fetch the file again"
        )
    return info.frames // group[0].samples_per_frame


def _too_short(data: Path, group: Sequence[Signal], expected: int, held: int) -> str:
    form = group[0].format
    if form in _FLAC:
        return f"{data}: {held} samples, expected {expected}; fetch the file again"
    per_frame = sum(signal.samples_per_frame for signal in group)
    needed = group[0].byte_offset + -(-expected * per_frame * _BYTES[form] // 1)
    return (
        f"{data}: {data.stat().st_size} bytes, expected {needed} ({len(group)} signals of "
        f"{expected} samples in format {form}); fetch the file again"
    )
