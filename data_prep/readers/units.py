"""Units of voltage as files spell them; a unit that is not here is no voltage."""

import re

from data_prep.records import BadInput

_SCALES = (
    (1.0, ("mv", "millivolt", "millivolts")),
    (1e-3, ("uv", "µv", "μv", "microvolt", "microvolts")),
    (1e-6, ("nv", "nanovolt", "nanovolts")),
    (1e3, ("v", "volt", "volts")),
)
MV_PER_UNIT = {unit: scale for scale, units in _SCALES for unit in units}
_UNIT_IN_NAME = re.compile(
    r"^(?P<name>.*?)\s*(?:[(\[]\s*(?P<unit>[^)\]]*)[)\]]|/\s*(?P<over>\S+)"
    r"|[_\s](?P<after>[^_\s]{2,}))$"  # `I_V` need not be lead I in volts
)


def mv_per_unit(where: str, unit: str) -> float:
    """Millivolts a unit.

    Raises:
      BadInput: it is no voltage.
    """
    scale = MV_PER_UNIT.get(unit.strip().lower())
    if scale is None:
        raise BadInput(
            f"{where}: unit {unit[:20]!r} is no voltage, expected mV, uV, µV, nV or V; state it"
        )
    return scale


def split_unit(heading: str) -> tuple[str, str | None]:
    """A column's name and its unit: of `V1 (mV)`, `V1 [uV]`, `V1/mV`, `V1_mV`; None if not said."""
    found = _UNIT_IN_NAME.match(heading.strip())
    unit = (found["unit"] or found["over"] or found["after"] or "").strip() if found else ""
    if found and (unit.lower() in MV_PER_UNIT or found["unit"] is not None):
        return found["name"], unit
    return heading.strip(), None
