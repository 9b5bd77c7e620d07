"""A WFDB header as far as a reader must trust it before any sample is read.

https://physionet.org/physiotools/wag/header-5.htm. The `wfdb` package fills gaps with
defaults and drops letters that are not ASCII (µV would become V); what is absent stays visible.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from data_prep.records import BadInput

DEFAULT_GAIN = 200.0  # of the format, for a gain that is absent or 0
_MAX_HEADER_BYTES = 1 << 20
_RATES_HZ = (1.0, 100_000.0)
_MV_PER_UNIT = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "v": 1e3, "nv": 1e-6}
_FILE_NAME = re.compile(r"[-\w]+\.?\w*", re.ASCII)  # what wfdb can read
_NAME = re.compile(r"(?P<name>[-\w]+)(?:/(?P<segments>\d{1,9}))?", re.ASCII)
_RATE = re.compile(r"(?P<rate>\d+\.?\d*|\.\d+)(?:/-?\d+\.?\d*(?:\(-?\d+\.?\d*\))?)?", re.ASCII)
_COUNT = re.compile(r"\d{1,15}", re.ASCII)
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
        return _MV_PER_UNIT[self.unit.lower()] / (self.gain or DEFAULT_GAIN)


@dataclass(frozen=True)
class Header:
    """A whole header; `num_samples` is None where the header leaves it to the data."""

    sampling_rate_hz: float
    num_samples: int | None
    signals: tuple[Signal, ...]
    comments: tuple[str, ...]


def read_header(path: Path) -> Header:
    """The header in a .hea file.

    Raises:
      BadInput: it is empty, garbled, of several segments, without signals or without a rate, or a
        unit is no voltage, or a file name leaves the folder.
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
    num_signals, rate_hz, num_samples = _record_line(path, numbered[0][1])
    signal_lines = numbered[1:]
    if num_signals == 0 or num_signals != len(signal_lines):
        raise BadInput(
            f"{path}: the record line promises {num_signals} signals and "
            f"{len(signal_lines)} lines follow, expected one line a signal, "
            "at least one; fetch the header again"
        )
    signals = tuple(_signal_line(f"{path}, line {number}", line) for number, line in signal_lines)
    return Header(rate_hz, num_samples, signals, comments)


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
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _record_line(path: Path, line: str) -> tuple[int, float, int | None]:
    """Number of signals, sampling rate, and samples a signal if stated."""
    fields = line.split()
    name = _NAME.fullmatch(fields[0])
    counts = [_COUNT.fullmatch(field) for field in (fields[1:2] or [""]) + fields[3:4]]
    if not name or not all(counts):
        raise BadInput(
            f"{path}: garbled header, record line {_short(line)}, expected "
            "'name signals rate samples'; fetch the file again"
        )
    if name["segments"]:
        raise BadInput(
            f"{path}: a record of {name['segments']} segments, expected a single one; "
            "name one of its segments"
        )
    num_samples = int(fields[3]) if len(fields) > 3 else None
    if num_samples == 0:
        raise BadInput(
            f"{path}: 0 samples a signal, expected at least 1; state their number or leave it out"
        )
    return int(fields[1]), _sampling_rate_hz(path, fields), num_samples


def _sampling_rate_hz(path: Path, fields: list[str]) -> float:
    if len(fields) < 3:
        raise BadInput(
            f"{path}: sampling rate is missing, expected as third field of the first line; add it"
        )
    low, high = _RATES_HZ
    rate = _RATE.fullmatch(fields[2])
    if not rate or not low <= float(rate["rate"]) <= high:
        raise BadInput(
            f"{path}: sampling rate {_short(fields[2])}, expected {low:g} to {high:g} Hz; "
            "correct the header"
        )
    return float(rate["rate"])


def _signal_line(where: str, line: str) -> Signal:
    fields = line.split(None, 8)
    form = _FORMAT.fullmatch(fields[1]) if len(fields) > 1 else None
    gain = _GAIN.fullmatch(fields[2]) if len(fields) > 2 else _GAIN.fullmatch("0")
    if not form or not gain:
        raise BadInput(
            f"{where}: garbled signal line {_short(line)}, expected "
            "'file format gain(baseline)/unit bits zero first checksum block name'; "
            "fetch the file again"
        )
    _check_file_name(where, fields[0])
    unit = gain["unit"] or "mV"
    if unit.lower() not in _MV_PER_UNIT:
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
        name=fields[8].strip() if len(fields) > 8 else "",
    )


def _check_file_name(where: str, name: str) -> None:
    if "/" in name or "\\" in name or ":" in name or name in (".", "..") or name.startswith("~"):
        raise BadInput(
            f"{where}: file name {_short(name)} leaves the record's folder, "
            "expected a plain file name; put the data beside the header"
        )
    if not _FILE_NAME.fullmatch(name):
        raise BadInput(
            f"{where}: file name {_short(name)}, expected letters, digits, - and _ and one dot; "
            "rename it"
        )


def _integer(where: str, fields: list[str], index: int) -> int | None:
    if len(fields) <= index:
        return None
    try:
        return int(fields[index])
    except ValueError:
        raise BadInput(
            f"{where}: field {index + 1} is {_short(fields[index])}, expected a whole number; "
            "fetch the header again"
        ) from None


def _number(where: str | Path, what: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(f"{where}: {what} is {_short(text)}, expected a number; correct the header")
    return number


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
