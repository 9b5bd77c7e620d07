"""NPY: an array of leads x samples or samples x leads, whose rate, leads and unit are stated."""

import math
import re
from pathlib import Path
from typing import Literal

import numpy as np

from data_prep.readers.assemble import assemble
from data_prep.readers.stated import stated
from data_prep.readers.units import mv_per_unit
from data_prep.records import MAX_VALUES, BadInput, Reading, Record

_MAX_HEADER = 1 << 12
# https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, of real numbers
_HEADER = re.compile(
    rb"\x93NUMPY[\x01-\x03]\x00.{2,4}?\{'descr': '(?P<kind>[<>|=]?(?:f[248]|[iu][1248]))', "
    rb"'fortran_order': (?P<fortran>True|False), 'shape': \((?P<shape>(?:\d{1,15},? ?){1,8})\), \}",
    re.DOTALL,
)


def read(path: Path, name: str, reading: Reading) -> Record:
    """The Record in an .npy file, called `name`, with what the .json beside it states.

    Raises:
      BadInput: rate, leads or unit are not stated, or the file is damaged, too large, or none of
        numbers in which one axis is the leads.
    """
    said = stated(path, reading)
    rate_hz, leads, unit = said.rate_of(path), said.leads_of(path), said.unit_of(path)
    rows = _rows(path, _mapped(path), len(leads))
    with np.errstate(over="ignore", invalid="ignore"):  # the check of voltages says it
        signal_mv = rows.astype(np.float32)
        signal_mv *= mv_per_unit(str(path), unit)
    return assemble(name, leads, signal_mv, rate_hz, meta=said.meta)


def _mapped(path: Path) -> np.ndarray:
    """The array, of which only what is used is read; nothing is unpickled or evaluated."""
    with path.open("rb") as file:
        start = file.read(_MAX_HEADER)
    found = _HEADER.match(start)
    length_bytes = {1: 2, 2: 4, 3: 4}.get(start[6] if found else 0, 0)
    offset = 8 + length_bytes + int.from_bytes(start[8 : 8 + length_bytes], "little")
    if not found or not length_bytes or offset < found.end():
        raise BadInput(f"{path}: no array of real numbers, expected what numpy.save writes")
    shape = tuple(int(length) for length in found["shape"].split(b",") if length.strip())
    size = math.prod(shape)
    if not 0 < size <= MAX_VALUES:
        raise BadInput(f"{path}: {size} numbers, expected 1 to {MAX_VALUES}; cut it")
    dtype = np.dtype(found["kind"].decode())
    if (needed := offset + size * dtype.itemsize) > (held := path.stat().st_size):
        raise BadInput(f"{path}: {held} bytes, expected {needed}; fetch the file again")
    order: Literal["C", "F"] = "F" if found["fortran"] == b"True" else "C"
    return np.memmap(path, dtype, "r", offset, shape, order)


def _rows(path: Path, array: np.ndarray, num_leads: int) -> np.ndarray:
    """The array as leads x samples: the axis that is as long as there are leads is the leads."""
    if array.ndim == 1 and num_leads == 1:
        return array[None]
    fitting = [axis for axis, length in enumerate(array.shape) if length == num_leads]
    if array.ndim != 2 or len(fitting) != 1:
        raise BadInput(
            f"{path}: array of {'x'.join(map(str, array.shape))}, expected two axes, of which "
            f"just one is as long as there are leads, {num_leads}; correct the leads or the array"
        )
    return array if fitting == [0] else array.T
