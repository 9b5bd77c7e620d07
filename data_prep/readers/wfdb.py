"""WFDB records (.hea with .dat, FLAC or the Challenge's .mat), read through the `wfdb` package.

The header is checked against the files before wfdb allocates anything by it.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from data_prep.readers.assemble import assemble, lead_name
from data_prep.readers.wfdb_files import check_files
from data_prep.readers.wfdb_header import DEFAULT_GAIN, Header, Signal, read_header
from data_prep.records import BadInput, Record, without_suffix

# The value that says "no sample here": https://physionet.org/physiotools/wag/signal-5.htm
_INVALID = {
    "16": -(2**15),
    "24": -(2**23),
    "32": -(2**31),
    "61": -(2**15),
    "80": -(2**7),
    "160": -(2**15),
    "212": -(2**11),
    "310": -(2**9),
    "311": -(2**9),
    "508": -(2**7),
    "516": -(2**15),
    "524": -(2**23),
}
# Each sums to zero: Einthoven's law and Goldberger's leads.
_LIMB_RELATIONS = {
    "II = I + III": {"I": 1, "III": 1, "II": -1},
    "aVR = -(I + II)/2": {"I": 1, "II": 1, "aVR": 2},
    "aVL = (I - III)/2": {"I": 1, "III": -1, "aVL": -2},
    "aVF = (II + III)/2": {"II": 1, "III": 1, "aVF": -2},
}
_KEPT_COMMENTS = {
    "age": "age",
    "sex": "sex",
    "report": "report",
    "scp codes": "scp_codes",
    "fold": "fold",
}


def read(path: str | Path) -> Record:
    """The Record of a WFDB record, given with or without its suffix.

    Raises:
      BadInput: something is missing, garbled or no voltage; see `read_header`.
    """
    stem = without_suffix(Path(path))
    header, num_samples = promised(stem)
    raw = _raw_samples(stem, header, num_samples)
    names = [signal.name for signal in header.signals]
    false_gains = _false_gains(names, header.signals, raw)
    no_gain = [
        signal.name for signal in header.signals if signal.gain == 0 and lead_name(signal.name)
    ]
    return assemble(
        str(stem),
        names,
        _millivolts(header.signals, raw),
        header.sampling_rate_hz,
        notes=[*_unit_notes(header.signals), *false_gains],
        lead_notes=_lead_notes(header.signals, raw),
        calibrated=not (false_gains or no_gain),
        meta=_meta(header.comments),
    )


def promised(stem: Path) -> tuple[Header, int]:
    """A record's header and samples a signal, after its files were found to hold them.

    Raises:
      BadInput: as `read`, of what is seen without reading a sample.
    """
    header_path = Path(f"{stem}.hea")
    if not header_path.is_file():
        raise BadInput(
            f"{stem}: no such record: looked for {header_path}; give the path of a WFDB record "
            "(NAME.hea with its data beside it)"
        )
    header = read_header(header_path)
    return header, check_files(header_path, header)


def _raw_samples(stem: Path, header: Header, num_samples: int) -> Int[np.ndarray, "S T"]:
    """The digital samples of every signal, read by wfdb."""
    import wfdb

    try:
        raw = wfdb.rdrecord(str(stem), sampto=header.num_samples, physical=False).d_signal
    except (ValueError, LookupError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(f"{stem}: wfdb cannot read its samples: {reason}; fetch it again") from error
    if raw is None or raw.shape != (num_samples, len(header.signals)):
        raise BadInput(f"{stem}: fewer samples than the header promises; fetch the record again")
    return raw.T


def _millivolts(signals: Sequence[Signal], raw: Int[np.ndarray, "S T"]) -> Float[np.ndarray, "S T"]:
    baseline = np.array([signal.baseline for signal in signals])[:, None]
    scale = np.array([signal.mv_per_adu for signal in signals])[:, None]
    return np.where(_missing(signals, raw), np.nan, (raw - baseline) * scale)


def _missing(signals: Sequence[Signal], raw: Int[np.ndarray, "S T"]) -> np.ndarray:
    """True where a sample carries its format's mark of a missing one; format 8 has none."""
    no_such_value = np.iinfo(np.int64).max
    invalid = [_INVALID.get(signal.format, no_such_value) for signal in signals]
    return raw == np.array(invalid)[:, None]


def _unit_notes(signals: Sequence[Signal]) -> list[str]:
    units = sorted({signal.unit for signal in signals if signal.unit.lower() != "mv"})
    return [f"stored in {unit}, converted to mV" for unit in units]


def _lead_notes(signals: Sequence[Signal], raw: Int[np.ndarray, "S T"]) -> dict[str, list[str]]:
    notes: dict[str, list[str]] = defaultdict(list)
    for signal, row in zip(signals, raw, strict=True):
        lead = lead_name(signal.name)
        if lead is None:
            continue
        if signal.gain == 0:
            notes[lead].append(f"no gain in the header: {DEFAULT_GAIN:g} per {signal.unit} assumed")
        if signal.samples_per_frame > 1:
            notes[lead].append(f"{signal.samples_per_frame} samples a frame averaged to one")
        elif not signal.skew:
            notes[lead].extend(_mismatches(signal, row))
    return notes


def _mismatches(signal: Signal, row: Int[np.ndarray, "T"]) -> list[str]:
    """Where the header's own check values disagree with the samples."""
    notes = []
    if signal.first_value is not None and signal.first_value != row[0]:
        notes.append(f"first sample is {row[0]}, the header says {signal.first_value}")
    if signal.checksum is not None and (int(row.sum()) - signal.checksum) % 65536:
        notes.append("checksum of the header differs from the samples: they may be damaged")
    return notes


def _false_gains(
    names: Sequence[str], signals: Sequence[Signal], raw: Int[np.ndarray, "S T"]
) -> list[str]:
    """A note if the limb leads fit together in raw samples and not in millivolts.

    Einthoven's and Goldberger's relations hold for any one scale of the leads. If the raw samples
    obey them to rounding and the millivolts do not, the gains were not the recorder's.
    """
    rows = {lead_name(name): row for row, name in enumerate(names)}
    for relation, weights in _LIMB_RELATIONS.items():
        if not all(lead in rows for lead in weights):
            continue
        index = [rows[lead] for lead in weights]
        weight = np.array(list(weights.values()))
        kept = raw[index][:, ~_missing([signals[i] for i in index], raw[index]).any(axis=0)]
        scale = np.array([signals[i].mv_per_adu for i in index])
        if _holds(weight, kept) and not _nearly_holds(weight, kept * scale[:, None]):
            return [
                f"{relation} holds in the raw samples and not in mV: the header's gains are false, "
                "amplitudes and axis are unknown"
            ]
    return []


def _holds(weight: Int[np.ndarray, "K"], raw: Int[np.ndarray, "K T"]) -> bool:
    """Whether the weighted sum of raw samples is constant to rounding, in leads that do move."""
    if raw.size == 0 or np.ptp(raw, axis=1).min() < 20:
        return False
    return bool(np.ptp(weight @ raw) <= 2 * np.abs(weight).sum())


def _nearly_holds(weight: Int[np.ndarray, "K"], signal_mv: Float[np.ndarray, "K T"]) -> bool:
    """Whether the weighted sum in mV varies by less than 2 % of the leads."""
    return bool(np.ptp(weight @ signal_mv) < 0.02 * np.ptp(signal_mv, axis=1).max())


def _meta(comments: Sequence[str]) -> dict[str, Any]:
    """Age, sex, diagnoses and report of the header's comments; all other comments are left out."""
    meta: dict[str, Any] = {}
    for number, comment in enumerate(comments):
        match = re.fullmatch(r"<?([A-Za-z_ ]+?)>?\s*:\s*(.*)", comment)
        key, value = (match[1].lower(), match[2].strip()) if match else ("", "")
        if key == "diagnoses":  # of LUDB: one a line, to the end
            meta["diagnoses"] = tuple(
                text.strip() for text in comments[number + 1 :] if text.strip()
            )
            break
        if key == "dx":
            meta["diagnoses"] = tuple(code.strip() for code in value.split(",") if code.strip())
        elif key in _KEPT_COMMENTS and value:
            meta[_KEPT_COMMENTS[key]] = value
    if "age" in meta:
        meta["age"] = _age(meta["age"])
    if "sex" in meta:
        meta["sex"] = {"m": "M", "f": "F"}.get(meta["sex"][:1].lower())
    return meta


def _age(text: str) -> float | None:
    try:
        age = float(text)
    except ValueError:
        return None
    return age if 0 <= age <= 150 else None
