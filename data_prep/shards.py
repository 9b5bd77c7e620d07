"""Shards: ArrayRecord files whose elements are msgpack maps with a signal and its instruction."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import numpy as np
from jaxtyping import Float

from data_prep.records import LEADS, BadInput, Record
from data_prep.sample_index import sha256

if TYPE_CHECKING:
    from data_prep.measurement import Measurement

KEYS = (
    "record",
    "measurement",
    "signal_mv",
    "num_samples",
    "sampling_rate_hz",
    "split",
    "truth",
    "calibrated",
)


@dataclass(frozen=True)
class Example:
    """One element of a shard.

    Attributes:
        record: The ECG-Grounding record.
        measurement: As `measure --json` prints it.
        signal_mv: Twelve leads in the order of `LEADS`, float32, NaN where a sample is missing.
        sampling_rate_hz: Of the signal, the record's own.
        split: `train` or `test`.
        truth: The summary measured within a cardiologist's marks, None without marks.
        calibrated: Whether the millivolts are to be trusted.
        stored_leads: Names of the leads in the order of the file; empty in older shards.
    """

    record: dict[str, Any]
    measurement: dict[str, Any]
    signal_mv: Float[np.ndarray, "12 T"]
    sampling_rate_hz: float
    split: str
    truth: dict[str, Any] | None = None
    calibrated: bool = True
    stored_leads: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The record's id."""
        return self.record["id"]

    @property
    def conversations(self) -> list[dict[str, str]]:
        """The turns, `from` human or gpt."""
        return self.record["conversations"]

    def signal(self) -> Record:
        """Returns the ECG itself, with the leads that were measured."""
        measured = self.measurement["leads"]
        leads = tuple(lead for lead in LEADS if lead in measured)
        return Record(
            name=self.id,
            leads=leads,
            signal_mv=self.signal_mv[[LEADS.index(lead) for lead in leads]],
            sampling_rate_hz=self.sampling_rate_hz,
            derived=tuple(lead for lead in leads if measured[lead]["derived"]),
            calibrated=self.calibrated,
            stored_leads=self.stored_leads,
        )

    def measured(self) -> Measurement:
        """Returns what was measured."""
        from data_prep.measurement import Measurement

        return Measurement.from_json(self.measurement)

    def true_measurement(self) -> Measurement:
        """Returns what was measured, with the summary within the cardiologist's marks if any."""
        m = self.measured()
        return dataclasses.replace(m, summary={**m.summary, **(self.truth or {})})


def twelve(record: Record) -> Float[np.ndarray, "12 T"]:
    """Returns the signal with a row for each of the twelve leads, NaN for one that is absent."""
    signal_mv = np.full((len(LEADS), record.signal_mv.shape[1]), np.nan, np.float32)
    signal_mv[[LEADS.index(lead) for lead in record.leads]] = record.signal_mv
    return signal_mv


def encode(example: Example) -> bytes:
    """Returns the element's bytes; equal examples give equal bytes."""
    signal_mv = np.ascontiguousarray(example.signal_mv, "<f4")
    truth = None if example.truth is None else _json(example.truth)
    fields = {
        "record": _json(example.record),
        "measurement": _json(example.measurement),
        "signal_mv": signal_mv.tobytes(),
        "num_samples": signal_mv.shape[1],
        "sampling_rate_hz": float(example.sampling_rate_hz),
        "split": example.split,
        "truth": truth,
        "calibrated": example.calibrated,
        "stored_leads": example.stored_leads,
    }
    return msgpack.packb(fields)


def decode(element: bytes) -> Example:
    """Returns the example that `encode` wrote.

    Raises:
        BadInput: The bytes are no such element.
    """
    try:
        fields = msgpack.unpackb(element)
    except (ValueError, msgpack.exceptions.ExtraData) as error:
        raise BadInput(
            f"shard: an element is no msgpack ({error}); write the shard anew"
        ) from error
    missing = [k for k in KEYS if not isinstance(fields, dict) or k not in fields]
    if missing:
        raise BadInput(f"shard: an element has no '{missing[0]}'; write the shard anew with prep")
    signal_mv = np.frombuffer(fields["signal_mv"], "<f4")
    if signal_mv.size != len(LEADS) * fields["num_samples"]:
        raise BadInput(
            f"shard: an element has {signal_mv.size} values, expected {len(LEADS)} leads x "
            f"{fields['num_samples']}; write the shard anew with prep"
        )
    return Example(
        record=json.loads(fields["record"]),
        measurement=json.loads(fields["measurement"]),
        signal_mv=signal_mv.reshape(len(LEADS), -1),
        sampling_rate_hz=fields["sampling_rate_hz"],
        split=fields["split"],
        truth=None if fields["truth"] is None else json.loads(fields["truth"]),
        calibrated=fields["calibrated"],
        stored_leads=tuple(fields.get("stored_leads", ())),
    )


def write_shard(path: Path, elements: Iterable[bytes]) -> str:
    """Writes an ArrayRecord file at once and returns its SHA-256.

    One record a group, so that a random read decompresses nothing else.
    """
    from array_record.python import array_record_module

    partial = path.with_name(path.name + ".partial")
    try:
        writer = array_record_module.ArrayRecordWriter(str(partial), "group_size:1")
        try:
            for element in elements:
                writer.write(element)
        finally:
            writer.close()
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return sha256(path)


def shard_files(folder: str | Path, split: str) -> list[Path]:
    """Returns the shards of one split in a folder, or in its `shards`; none if it has none."""
    pattern = f"{split}-*.array_record"
    return sorted(Path(folder).glob(pattern)) or sorted(Path(folder).glob(f"shards/{pattern}"))


def read_shard(path: Path) -> Iterator[Example]:
    """Yields the examples of a shard in order.

    Raises:
        BadInput: There is no such shard, or the file is none.
    """
    from array_record.python import array_record_module

    if not path.is_file():
        raise BadInput(f"{path}: no such shard; write it with prep")
    reader = array_record_module.ArrayRecordReader(str(path))
    if not reader.ok():
        # Closing a reader that could not open its file raises what was wrong with it.
        raise BadInput(f"{path}: is no whole ArrayRecord file; write the shard anew with prep")
    for _ in range(reader.num_records()):
        yield decode(reader.read())
    reader.close()


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
