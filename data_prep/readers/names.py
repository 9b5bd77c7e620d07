"""Leads by their names: every spelling of the twelve, and nothing that may be something else."""

import re
from collections.abc import Sequence

from data_prep.records import LEADS, BadInput

_CANONICAL = {lead.lower(): lead for lead in LEADS}
_OTHERWISE = {
    # CODE and others of the Romance languages; the nomenclature of some converters.
    **{f"d{lead.lower()}": lead for lead in LEADS[:3]},
    **{f"d{number}": lead for number, lead in enumerate(LEADS[:3], 1)},
    **{f"v{limb}": f"aV{limb.upper()}" for limb in "rlf"},
    **{f"c{number}": f"V{number}" for number in range(1, 7)},  # IEC
}
_BEFORE = re.compile(
    r"^(?:mdc_ecg_(?:lead|elec_potl)_|(?:(?:ecg|ekg)[ _:-]*)?(?:lead|derivation|channel)?[ _:-]*)"
)
_AFTER = re.compile(r"(?:\s*\(einthoven\)|,\s*augmented voltage,\s*\w+|\+)$")
_MINUS = re.compile(r"^[-−–]\s*")  # a sign or the dash that stands for it
_NUMBERED = re.compile(r"([cd])(\d+)", re.IGNORECASE)
_SAFE_NAME = re.compile(
    r"[A-Za-z]{0,4}[IV]{1,3}|[A-Za-z]{0,4}[ _-]?\d{1,2}|"
    r"(?i:resp|abp|art|cvp|pleth|ppg|emg|eeg|eog|ecg|ekg|spo2)"
)


def lead_name(spelled: str) -> str | None:
    """The canonical name of a lead (of `avr`, `Lead II`, `DIII`, `MDC_ECG_LEAD_V1`, `-aVR`).

    None if there is none: `MLII`, `V7` and numbered channels are none of the twelve.
    """
    bare = _AFTER.sub("", _BEFORE.sub("", _MINUS.sub("", spelled.strip().lower())))
    bare = re.sub(r"[ _-]", "", bare)
    return _CANONICAL.get(bare) or _OTHERWISE.get(bare)


def lead_names(where: object, spelled: Sequence[str]) -> list[str | None]:
    """`lead_name` of each, where `C1` or `D1` may also count channels: then they are no leads.

    Raises:
      BadInput: two are the same lead; `where` begins the message.
    """
    top = {"c": 6, "d": 3}
    counted = {
        found[1].lower()
        for text in spelled
        if (found := _NUMBERED.fullmatch(text.strip()))
        and not 1 <= int(found[2]) <= top[found[1].lower()]
    }
    names = [
        None
        if (found := _NUMBERED.fullmatch(text.strip())) and found[1].lower() in counted
        else lead_name(text)
        for text in spelled
    ]
    for row, lead in enumerate(names):
        if lead and (first := names.index(lead)) != row:
            raise BadInput(
                f"{where}: lead {lead} is there twice ({spelled[first]!r} and {spelled[row]!r}), "
                "expected each lead once; rename or remove one"
            )
    return names


def inverted(spelled: str) -> bool:
    """Whether a name says that its lead is stored upside down, as Cabrera's -aVR."""
    return bool(_MINUS.match(spelled.strip()))


def shown(spelled: str, number: int) -> str:
    """A signal's name for people; its number if the name could hold what identifies someone."""
    return f"signal {spelled!r}" if _SAFE_NAME.fullmatch(spelled) else f"signal {number}"
