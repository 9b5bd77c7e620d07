"""Corpus → instruction shards: measured, drawn, asked and answered, written with a manifest.

Each step is a function of its own and keeps what an earlier run finished; the manifest comes
last, so a folder with a manifest is complete.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

from data_prep.corpus import Item, corpus_items
from data_prep.files import write_whole
from data_prep.instruct import grounding_record
from data_prep.intervals import measure_waves
from data_prep.measure import measure_files
from data_prep.measurement import Measurement
from data_prep.progress import track
from data_prep.records import LEADS, BadInput, Record, read
from data_prep.shards import Example, encode, twelve, write_shard
from data_prep.teachers import Style

SPLITS = ("train", "test")
# About 1,000 pixels wide: sharp enough for a person, a few ten kilobytes.
PAGE_DPI = 92.0
PACKAGES = ("gem_jax", "array_record", "msgpack", "neurokit2", "numpy", "pillow", "scipy", "wfdb")


def measure(
    items: Sequence[Item], out: Path, processes: int = 2
) -> tuple[dict[str, Measurement], dict[str, str]]:
    """Returns the measurement of each record by id, and why the others were skipped."""
    measured: dict[str, Measurement] = {}
    skipped: dict[str, str] = {}
    results = measure_files(
        [item.path for item in items], processes=processes, cache_dir=out / "measurements"
    )
    for item, result in zip(items, track(results, len(items), "measure"), strict=True):
        reason = _unusable(result)
        if isinstance(result, Measurement) and reason is None:
            # As a reader of the shards will see it: digits that JSON drops must set no text.
            measured[item.id] = Measurement.from_json(result.to_json())
        else:
            skipped[item.id] = str(reason)
    return measured, skipped


def _unusable(result: Measurement | BadInput) -> str | None:
    """Returns why a record can teach nothing, None if it can: GEM reads twelve leads with beats."""
    if isinstance(result, BadInput):
        return str(result)
    missing = [lead for lead in LEADS if lead not in result.leads]
    if missing:
        return f"{result.record}: leads {', '.join(missing)} are missing, expected all twelve"
    if result.summary["heart_rate_bpm"] is None:
        return f"{result.record}: no heart rate was measured, expected two beats or more"
    return None


def render(items: Sequence[Item], out: Path) -> dict[str, str]:
    """Draws each record's page below `out` and returns the pages' paths by id, relative to `out`.

    A page that shows the same signal already is kept.
    """
    pages = {}
    for item in track(items, len(items), "render"):
        pages[item.id] = f"images/{item.id}.png"
        _draw_page(read(item.path), out / pages[item.id])
    return pages


def _draw_page(record: Record, path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    from data_prep.render import render as draw

    shown = hashlib.sha256(record.signal_mv.tobytes())
    shown.update(f"{record.leads} {record.sampling_rate_hz} {PAGE_DPI} {_versions()}".encode())
    if path.is_file() and _shown(path) == shown.hexdigest():
        return
    info = PngInfo()
    info.add_text("shown", shown.hexdigest())
    content = io.BytesIO()
    draw(record, dpi=PAGE_DPI).image.save(content, "PNG", pnginfo=info)
    write_whole(path, content.getvalue())


def _shown(path: Path) -> str | None:
    """Returns the fingerprint of what a page shows, None if it is no page of ours."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.info.get("shown")
    except UnidentifiedImageError:
        return None


def instruct(
    items: Sequence[Item],
    measured: Mapping[str, Measurement],
    pages: Mapping[str, str],
    style: Style,
) -> list[Example]:
    """Returns each record's example: signal, measurement, conversation, and truth where marked."""
    examples = []
    for item in track(items, len(items), "instruct"):
        record, m = read(item.path), measured[item.id]
        report = str(record.meta.get("report") or "")
        conversation = grounding_record(m, item.id, item.ecg, pages[item.id], style, report)
        truth = marked_truth(item, record) if item.marked else None
        examples.append(
            Example(
                record=conversation,
                measurement=m.to_json(),
                signal_mv=twelve(record),
                sampling_rate_hz=record.sampling_rate_hz,
                split=item.split,
                truth=truth,
                calibrated=record.calibrated,
                stored_leads=record.stored_leads,
            )
        )
    return examples


def marked_truth(item: Item, record: Record) -> dict[str, Any]:
    """Returns the summary measured within the cardiologists' marks, as `measure` prints it."""
    from data_prep.marks import read_marks

    return measure_waves(record, read_marks(item.path)).to_json()["global"]


def write(
    items: Sequence[Item],
    examples: Sequence[Example],
    out: Path,
    settings: Mapping[str, Any],
    skipped: Mapping[str, str],
) -> Path:
    """Writes a shard a split, then the manifest, and returns the manifest's path."""
    (out / "shards").mkdir(parents=True, exist_ok=True)
    shards = {}
    for split in SPLITS:
        elements = [encode(example) for example in examples if example.split == split]
        path = out / "shards" / f"{split}-00000-of-00001.array_record"
        path.unlink(missing_ok=True)
        if elements:
            digest = write_shard(path, elements)
            shards[split] = {
                "path": path.relative_to(out).as_posix(),
                "records": len(elements),
                "sha256": digest,
            }
    kept = {example.record["id"]: example.record for example in examples}
    records = [
        {"id": i.id, "ecg": i.ecg, "image": kept[i.id]["image"], "split": i.split}
        for i in items
        if i.id in kept
    ]
    manifest = {
        **settings,
        "versions": _versions(),
        "shards": shards,
        "records": records,
        "skipped": [{"id": name, "reason": reason} for name, reason in skipped.items()],
    }
    path = out / "manifest.json"
    write_whole(path, (json.dumps(manifest, indent=1) + "\n").encode())
    return path


@functools.cache
def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _make(out: Path) -> list[Path]:
    """Makes the folder and returns those that were not there before, innermost first."""
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--out {out}: {error.strerror}, expected a folder to write in") from error
    return new


def _refuse_all(corpus: str, skipped: Mapping[str, str], new: Sequence[Path]) -> NoReturn:
    """Leaves no new folder behind and says that no record can be used."""
    for folder in new:
        folder.rmdir()
    name, reason = next(iter(skipped.items()))
    more = f"; `gem-jax measure {corpus}` tells the others" if len(skipped) > 1 else ""
    raise BadInput(f"{corpus}: none of {len(skipped)} records can be used; {name}: {reason}{more}")


def main(
    corpus: str,
    *,
    out: Path,
    style: Style = "full",
    limit: int | None = None,
    test_fraction: float = 0.0,
    processes: int = 2,
) -> int:
    """Turn a corpus into instruction shards: measurements, pages, questions, answers, manifest.

    Args:
        corpus: `sample`, or a folder of records.
        out: Folder to write; an interrupted run goes on in it.
        style: Of the answers: a paragraph, or a fixed row of short sentences for small models.
        limit: Use at most so many records, spread evenly over the corpus.
        test_fraction: Share of a folder's records held out as `test`, drawn by a hash of the id:
            by record, so name it only where each patient has one record.
        processes: How many processes measure.
    """
    items = corpus_items(corpus, limit, test_fraction)
    new = _make(out)
    measured, skipped = measure(items, out, processes)
    good = [item for item in items if item.id in measured]
    if not good:
        _refuse_all(corpus, skipped, new)
    (out / "manifest.json").unlink(missing_ok=True)  # what is in `out` is no longer complete
    pages = render(good, out)
    examples = instruct(good, measured, pages, style)
    settings = {"corpus": corpus, "style": style, "limit": limit, "test_fraction": test_fraction}
    manifest = write(items, examples, out, settings, skipped)
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}", file=sys.stderr)
    print(f"{len(good)} records, {len(skipped)} skipped: {manifest}")
    return 0
