"""A WFDB header as far as a reader must trust it before any sample is read.

https://physionet.org/physiotools/wag/header-5.htm. The `wfdb` package fills gaps with
defaults and drops letters that are not ASCII (µV would become V); what is absent stays visible.
Messages show fields and no whole lines, which could name someone.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from data_prep.readers.names import lead_name
from data_prep.readers.units import MV_PER_UNIT
from data_prep.records import MAX_VALUES, BadInput

DEFAULT_GAIN = 200.0  # of the format, for a gain that is absent or 0
_MAX_HEADER_BYTES = 1 << 20
MAX_RATE_HZ = 100_000.0
_MAX_SEGMENTS = 10_000
_NAME = re.compile(r"(?P<name>[^/\\]+)(?:/(?P<segments>\d{1,9}))?")
_RATE = re.compile(r"(?P<rate>\d+\.?\d*|\.\d+)(?:/-?\d+\.?\d*(?:\(-?\d+\.?\d*\))?)?", re.ASCII)
_COUNT = re.compile(r"\d{1,15}", re.ASCII)
_WHOLE = re.compile(r"[-+]?\d{1,12}", re.ASCII)
_FORMAT = re.compile(
    r"(?P<format>\d+)(?:x(?P<per_frame>\d{1,6}))?(?::(?P<skew>\d{1,9}))?(?:\+(?P<offset>\d{1,15}))?"
)
_GAIN = re.compile(
    r"(?P<gain>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?:\((?P<baseline>-?\d{1,15})\))?"
    r"(?:/(?P<unit>\S+))?"
)


@dataclass(frozen=True)
class Signal:
    """One signal line: where its samples lie and how they become millivolts."""

    file_name: str
    format: str
    samples_per_frame: int
    skew: int  # samples by which the signal lags
    byte_offset: int
    gain: float  # adu per unit; 0 if the header gives none
    baseline: int
    unit: str
    first_value: int | None
    checksum: int | None
    name: str

    @property
    def mv_per_adu(self) -> float:
        """Millivolts per step of the converter, negative for an inverted signal."""
        return MV_PER_UNIT[self.unit.lower()] / (self.gain or DEFAULT_GAIN)


@dataclass(frozen=True)
class Segment:
    """One segment line: a record of its own, `~` for a gap, and its samples a signal."""

    name: str
    num_samples: int


@dataclass(frozen=True)
class Header:
    """A whole header: of signals, or of segments and then without signals of its own.

    `num_samples` is None where the header leaves it to the data.
    """

    sampling_rate_hz: float
    num_samples: int | None
    signals: tuple[Signal, ...]
    comments: tuple[str, ...]
    segments: tuple[Segment, ...] = ()


def read_header(path: Path, rate_hz: float | None = None) -> Header:
    """The header in a .hea file.

    Args:
      path: the file.
      rate_hz: of the record that this one is a segment of, for a header without a rate.

    Raises:
      BadInput: it is empty, garbled, without signals or without a rate, or a lead's unit is no
        voltage, or a file name leaves the folder.
    """
    lines = _text(path).splitlines()
    comments = tuple(line.strip()[1:].strip() for line in lines if line.strip().startswith("#"))
    numbered = [
        (number, line.strip())
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.strip().startswith("#")
    ]
    if not numbered:
        raise BadInput(f"{path}: empty header, expected a record line; fetch the file again")
    first = _record_line(f"{path}, line {numbered[0][0]}", numbered[0][1], rate_hz)
    lines_of = [(f"{path}, line {number}", line) for number, line in numbered[1:]]
    kind, promised = "signal", first.num_signals
    if first.num_segments is not None:
        kind, promised = "segment", first.num_segments
    if promised == 0 or promised != len(lines_of):
        raise BadInput(
            f"{path}: the record line promises {promised} {kind}s and {len(lines_of)} lines "
            f"follow, expected one line a {kind}, at least one; fetch the header again"
        )
    if kind == "segment":
        segments = tuple(_segment_line(where, line) for where, line in lines_of)
        _check_lengths(path, first.num_samples, segments)
        return Header(first.rate_hz, first.num_samples, (), comments, segments)
    signals = tuple(_signal_line(where, line) for where, line in lines_of)
    return Header(first.rate_hz, first.num_samples, signals, comments)


def _text(path: Path) -> str:
    if path.stat().st_size > _MAX_HEADER_BYTES:
        raise BadInput(f"{path}: {path.stat().st_size} bytes, expected a text header below 1 MiB")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"{path}: {error.strerror}, expected a file that can be read; check its permissions"
        ) from error
    if b"\0" in raw:
        raise BadInput(f"{path}: garbled header (zero bytes), expected text; fetch the file again")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


@dataclass(frozen=True)
class _RecordLine:
    num_signals: int
    num_segments: int | None
    rate_hz: float
    num_samples: int | None


def _record_line(where: str, line: str, rate_hz: float | None) -> _RecordLine:
    fields = line.split()
    name = _NAME.fullmatch(fields[0])
    counts = [_COUNT.fullmatch(field) for field in (fields[1:2] or [""]) + fields[3:4]]
    if not name or not all(counts):
        raise BadInput(
            f"{where}: garbled header, expected a record line 'name signals rate samples', "
            "the name without a slash; fetch the file again"
        )
    num_segments = int(name["segments"]) if name["segments"] else None
    if num_segments is not None and num_segments > _MAX_SEGMENTS:
        raise BadInput(
            f"{where}: {num_segments} segments, expected at most {_MAX_SEGMENTS}; name one of them"
        )
    num_samples = int(fields[3]) if len(fields) > 3 else 0  # 0 leaves it to the data, too
    rate = _sampling_rate_hz(where, fields, rate_hz)
    return _RecordLine(int(fields[1]), num_segments, rate, num_samples or None)


def _sampling_rate_hz(where: str, fields: list[str], default_hz: float | None) -> float:
    if len(fields) < 3:
        if default_hz is None:
            raise BadInput(
                f"{where}: sampling rate is missing, expected as third field; add it, every "
                "interval depends on it"
            )
        return default_hz
    low, high = 1.0, MAX_RATE_HZ
    rate = _RATE.fullmatch(fields[2])
    if not rate or not low <= float(rate["rate"]) <= high:
        raise BadInput(
            f"{where}: sampling rate {_short(fields[2])}, expected {low:g} to {high:g} Hz; "
            "correct the header"
        )
    return float(rate["rate"])


def _segment_line(where: str, line: str) -> Segment:
    fields = line.split()
    if len(fields) < 2 or not _COUNT.fullmatch(fields[1]):
        raise BadInput(
            f"{where}: garbled segment line, expected 'name samples'; fetch the file again"
        )
    if fields[0] != "~":
        _check_file_name(where, fields[0])
    return Segment(fields[0], int(fields[1]))


def _check_lengths(path: Path, num_samples: int | None, segments: tuple[Segment, ...]) -> None:
    held = sum(segment.num_samples for segment in segments)
    if held > MAX_VALUES:
        raise BadInput(f"{path}: {held} samples, expected at most {MAX_VALUES}; cut the record")
    if held == 0 or num_samples not in (None, held):
        raise BadInput(
            f"{path}: the record line promises {num_samples} samples and its segments {held}, "
            "expected the same, at least 1; fetch the header again"
        )


def _signal_line(where: str, line: str) -> Signal:
    fields = line.split(None, 8)
    form = _FORMAT.fullmatch(fields[1]) if len(fields) > 1 else None
    gain = _GAIN.fullmatch(fields[2]) if len(fields) > 2 else _GAIN.fullmatch("0")
    if not form or not gain:
        raise BadInput(
            f"{where}: garbled signal line, expected 'file format gain(baseline)/unit bits zero "
            "first checksum block name'; fetch the file again"
        )
    if fields[0] != "~" or form["format"] != "0":  # of a signal without samples
        _check_file_name(where, fields[0])
    name = fields[8].strip() if len(fields) > 8 else ""
    unit = gain["unit"] or "mV"
    if unit.lower() not in MV_PER_UNIT and lead_name(name):
        raise BadInput(
            f"{where}: unit {_short(unit)} is no voltage, expected mV, uV, µV, nV or V; "
            "correct the header"
        )
    zero = _integer(where, fields, 4) or 0
    return Signal(
        file_name=fields[0],
        format=form["format"],
        samples_per_frame=int(form["per_frame"] or 1),
        skew=int(form["skew"] or 0),
        byte_offset=int(form["offset"] or 0),
        gain=_number(where, "gain", gain["gain"]),
        baseline=zero if gain["baseline"] is None else int(gain["baseline"]),
        unit=unit,
        first_value=_integer(where, fields, 5),
        checksum=_integer(where, fields, 6),
        name=name,
    )


def _check_file_name(where: str, name: str) -> None:
    if "/" in name or "\\" in name or ":" in name or name[0] in ".~" or name == "-":
        raise BadInput(
            f"{where}: file name {_short(name)} leaves the record's folder, "
            "expected a plain file name; put the data beside the header"
        )
    if len(name) > 200 or not name.isprintable():
        raise BadInput(
            f"{where}: file name {_short(name)}, expected at most 200 letters that can be printed"
        )


def _integer(where: str, fields: list[str], index: int) -> int | None:
    if len(fields) <= index:
        return None
    if _WHOLE.fullmatch(fields[index]):
        return int(fields[index])
    raise BadInput(
        f"{where}: field {index + 1} is {_short(fields[index])}, expected a whole number; "
        "fetch the header again"
    )


def _number(where: str | Path, what: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or 0 < abs(number) < 1e-30:
        raise BadInput(f"{where}: {what} is {_short(text)}, expected a number; correct the header")
    return number


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
