"""NPY: an array of leads x samples or samples x leads, whose rate, leads and unit are stated."""

from pathlib import Path

import numpy as np

from data_prep.readers.assemble import assemble
from data_prep.readers.stated import stated
from data_prep.readers.units import mv_per_unit
from data_prep.records import MAX_VALUES, BadInput, Reading, Record


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
        signal_mv = (rows * np.float64(mv_per_unit(str(path), unit))).astype(np.float32)
    return assemble(name, leads, signal_mv, rate_hz, meta=said.meta)


def _mapped(path: Path) -> np.ndarray:
    """The array, of which only what is used is read; nothing is unpickled."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, TypeError, SyntaxError, OverflowError, MemoryError) as error:
        reason = " ".join(str(error).split())[:100]
        raise BadInput(f"{path}: no array of numbers ({reason}); save it with numpy.save") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or not array.size:
        raise BadInput(
            f"{path}: holds {getattr(array, 'dtype', 'several arrays')}, expected real numbers; "
            "save it with numpy.save"
        )
    if array.size > MAX_VALUES:
        raise BadInput(f"{path}: {array.size} numbers, expected at most {MAX_VALUES}; cut it")
    return array


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
