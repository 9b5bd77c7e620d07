"""CSV: one column a lead, named in the first row; its rate and unit stated.

A unit may stand in a name (`V1 (mV)`), rate and unit in `# sampling_rate_hz: 500`, `# unit: mV`,
the rate in a column of times (`time_s`, `time (ms)`), either in the .json beside the file.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from data_prep.readers.assemble import assemble
from data_prep.readers.names import lead_names
from data_prep.readers.stated import Stated, stated
from data_prep.readers.units import mv_per_unit, split_unit
from data_prep.records import BadInput, Reading, Record

_MAX_BYTES = 1 << 23  # three minutes of twelve leads at 500 Hz
_MAX_LINE = 1 << 14
_PEEK_BYTES = 1 << 14
_MISSING = ("", "nan", "na", "n/a", "#n/a", "null", "none")
_STATEMENT = re.compile(
    r"#\s*(?P<key>sampling_rate_hz|unit)\s*[:=]\s*(?P<value>\S.*?)(?:\s*hz)?", re.IGNORECASE
)
_SEPARATOR = re.compile(r"sep=.?")  # Excel's
_TIME = re.compile(r"t(?:ime)?\s*(?:[_(\[]\s*(?P<unit>m?s)\s*[)\]]?)?", re.IGNORECASE)
_JITTER = 0.5  # of a step: times are rounded in the file, a row that is missing is a step more


@dataclass(frozen=True)
class _Table:
    headings: tuple[str, ...]  # () if the first row holds numbers
    rows: list[str]
    first_line: int  # of the rows, in the file
    delimiter: str
    said: Stated


def holds_leads(path: Path) -> bool:
    """Whether a table's first row names a lead or is of numbers: else it is no ECG's."""
    with path.open("rb") as file:
        text = file.read(_PEEK_BYTES)
    try:
        headings = _parse(path, text, peek=True).headings
        return not headings or _name_leads(path, headings)
    except BadInput:
        return True  # `read` says what is wrong


def _name_leads(path: Path, headings: tuple[str, ...]) -> bool:
    return any(lead_names(path, [split_unit(heading)[0] for heading in headings]))


def read(path: Path, name: str, reading: Reading) -> Record:
    """The Record in a .csv file, called `name`.

    Raises:
      BadInput: leads, rate or unit are not stated, a row or cell is damaged, or it is too large.
    """
    if (size := path.stat().st_size) > _MAX_BYTES:
        raise BadInput(f"{path}: {size} bytes, expected at most {_MAX_BYTES}; cut it")
    table = _parse(path, path.read_bytes())
    said = stated(path, reading, table.said)
    headings = table.headings
    if not headings or (said.leads and not _name_leads(path, headings)):
        headings = said.leads_of(path)
    columns = [split_unit(heading) for heading in headings]
    spelled = [text for text, _ in columns]
    names = lead_names(path, spelled)
    numbers = _numbers(path, table, len(headings))
    rate_hz = _rate_by_times(path, headings, numbers) or said.rate_of(path)
    kept = [column for column, lead in enumerate(names) if lead]
    scales = [mv_per_unit(str(path), columns[at][1] or said.unit_of(path)) for at in kept]
    with np.errstate(over="ignore", invalid="ignore"):  # the check of voltages says it
        signal_mv = (numbers[:, kept].T * np.array(scales)[:, None]).astype(np.float32)
    told = [text for text, lead in zip(spelled, names, strict=True) if lead or not _is_index(text)]
    return assemble(name, told, signal_mv, rate_hz, meta=said.meta)


def _is_index(heading: str) -> bool:
    """Whether a column only counts or times the rows."""
    counts = heading.lower() in ("", "index", "sample", "unnamed: 0")
    return counts or bool(_TIME.fullmatch(heading))


def _parse(path: Path, raw: bytes, peek: bool = False) -> _Table:
    """A file's text as headings and rows, with what its comments state."""
    if b"\0" in raw:
        raise BadInput(f"{path}: zero bytes, expected text in UTF-8; save it as such")
    text = raw.decode("utf-8-sig", "replace").replace('"', "")
    lines = text.splitlines()
    if peek and len(raw) == _PEEK_BYTES:
        lines = lines[:1] if len(lines) == 1 else lines[:-1]
    if (longest := max(map(len, lines), default=0)) > _MAX_LINE:
        raise BadInput(f"{path}: a line of {longest} letters, expected at most {_MAX_LINE}")
    said, start = Stated(), 0
    while start < len(lines) and _is_preface(lines[start].strip()):
        if found := _STATEMENT.fullmatch(lines[start].strip()):
            said = _with_statement(path, said, found["key"].lower(), found["value"])
        start += 1
    lines = [line for line in lines[start:] if line.strip()]
    if not lines:
        raise BadInput(f"{path}: empty, expected a row of lead names and rows of numbers")
    delimiter = max(";\t,|", key=lines[0].count)
    first = [cell.strip() for cell in lines[0].split(delimiter)]
    if all(_is_number(cell, delimiter) for cell in first):
        return _Table((), lines, start + 1, delimiter, said)
    return _Table(tuple(first), lines[1:], start + 2, delimiter, said)


def _is_preface(line: str) -> bool:
    return not line or line.startswith("#") or bool(_SEPARATOR.fullmatch(line))


def _with_statement(path: Path, said: Stated, key: str, value: str) -> Stated:
    if key == "unit":
        return replace(said, unit=value)
    try:
        return replace(said, rate_hz=float(value))
    except ValueError:
        raise BadInput(f"{path}: sampling_rate_hz is {value[:40]!r}, expected a number") from None


def _numbers(path: Path, table: _Table, width: int) -> Float[np.ndarray, "T C"]:
    """All cells as numbers; NaN for an empty one."""
    if not table.rows:
        raise BadInput(f"{path}: no row of numbers below the names, expected at least one")
    numbers: list[float] = []
    for row, line in enumerate(table.rows, table.first_line):
        cells = line.split(table.delimiter)
        if len(cells) != width:
            cure = "fetch the file again"
            if table.delimiter == "," and len(cells) > width:
                cure = "if commas are decimal ones, part the cells by semicolons"
            raise BadInput(f"{path}, row {row}: {len(cells)} cells, expected {width}; {cure}")
        try:
            numbers += map(float, cells)
        except ValueError:
            del numbers[(row - table.first_line) * width :]
            numbers += _odd_numbers(f"{path}, row {row}", cells, table.delimiter)
    return np.array(numbers, np.float64).reshape(-1, width)


def _odd_numbers(where: str, cells: list[str], delimiter: str) -> list[float]:
    """The numbers of a row of which some are missing, or have a decimal comma."""
    for column, cell in enumerate(cells, 1):
        if not _is_number(cell, delimiter):
            raise BadInput(
                f"{where}, column {column}: no number, expected numbers parted by commas, "
                "semicolons, tabs or |; correct the file"
            )
    return [_number(cell, delimiter) for cell in cells]


def _number(cell: str, delimiter: str) -> float:
    """A cell as a number; where commas part no cells, they may be decimal ones."""
    try:
        return float(cell)
    except ValueError:
        if cell.strip().lower() in _MISSING:
            return float("nan")
        if delimiter == ",":
            raise
        return float(cell.replace(",", "."))


def _is_number(cell: str, delimiter: str) -> bool:
    try:
        _number(cell, delimiter)
    except ValueError:
        return False
    return True


def _rate_by_times(
    path: Path, headings: tuple[str, ...], numbers: Float[np.ndarray, "T C"]
) -> float | None:
    """The rate of a column of times in a stated unit, if there is one.

    Raises:
      BadInput: its steps are not the same.
    """
    for column, heading in enumerate(headings):
        found = _TIME.fullmatch(heading)
        if not found or not found["unit"] or len(numbers) < 2:
            continue
        times = numbers[:, column] / (1000 if found["unit"].lower() == "ms" else 1)
        step = (times[-1] - times[0]) / (len(times) - 1)
        if not step > 0 or not np.abs(np.diff(times) - step).max() <= _JITTER * step:
            raise BadInput(f"{path}: the times in {heading!r} are uneven, expected equal steps")
        return round(float(1 / step), 6)
    return None
