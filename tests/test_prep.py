"""A corpus becomes shards: complete, repeatable, resumable; what is bad is skipped by name."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import wfdb_records
from data_prep import prep
from data_prep.claims import check, parse
from data_prep.measurement import Measurement
from data_prep.prep import corpus_items, main
from data_prep.records import LEADS, BadInput, read
from data_prep.sample_index import SAMPLE, sample_records
from data_prep.shards import Example, decode, encode, read_shard, sha256, twelve, write_shard

SHARD = "shards/{}-00000-of-00001.array_record"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("prep")
    assert main("sample", out=out, style="brief", limit=5, processes=1) == 0
    return out


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good records and one whose data are missing."""
    folder = tmp_path / "records"
    (folder / "ward").mkdir(parents=True)
    first, second = sample_records()[:2]
    for record, place in ((first, folder / "ward"), (second, folder)):
        name = record.path.name
        for path in (*record.path.parent.glob(f"{name}*.dat"), record.path.with_suffix(".hea")):
            if path.stem.split("_")[0] == name:
                shutil.copy(path, place / path.name)
    header = first.path.with_suffix(".hea").read_text()
    (folder / "broken.hea").write_text(header.replace(f"{first.path.name}_", "broken_"))
    return folder


def examples(out: Path) -> list[Example]:
    paths = [out / SHARD.format(split) for split in ("train", "test")]
    return [example for path in paths if path.is_file() for example in read_shard(path)]


def test_the_manifest_tells_what_was_written(prepared: Path) -> None:
    manifest = json.loads((prepared / "manifest.json").read_text())
    assert manifest["style"] == "brief"
    assert len(manifest["records"]) == 5
    assert manifest["skipped"] == []
    assert manifest["versions"]["numpy"] == np.__version__
    for split, shard in manifest["shards"].items():
        assert sha256(prepared / shard["path"]) == shard["sha256"]
        here = [row for row in manifest["records"] if row["split"] == split]
        assert shard["records"] == len(here)
    official = {record.id: record.split for record in sample_records()}
    assert all(official[row["id"]] == row["split"] for row in manifest["records"])


def test_an_element_holds_signal_answer_and_truth(prepared: Path) -> None:
    for example in examples(prepared):
        source = read(SAMPLE / example.record["ecg"])
        np.testing.assert_array_equal(example.signal_mv, twelve(source))
        assert example.sampling_rate_hz == source.sampling_rate_hz
        m = Measurement.from_json(example.measurement)
        answer = example.record["conversations"][1]["value"]
        judged = check(parse(answer), m)
        assert len(judged) >= 4
        assert {verdict.verdict for verdict in judged} == {"supported"}
        assert (example.truth is not None) == example.record["id"].startswith("ludb")
        if example.truth:
            near = example.measurement["global"]["heart_rate_bpm"]
            assert example.truth["heart_rate_bpm"] == pytest.approx(near, abs=10)


def test_the_page_is_for_people(prepared: Path) -> None:
    for example in examples(prepared):
        with Image.open(prepared / example.record["image"]) as page:
            assert 900 <= page.width <= 1100


def test_a_second_run_keeps_pages_and_repeats_shards(prepared: Path) -> None:
    before = json.loads((prepared / "manifest.json").read_text())
    pages = sorted(prepared.glob("images/**/*.png"))
    stamps = [page.stat().st_mtime_ns for page in pages]
    pages[0].write_bytes(b"half a page")
    main("sample", out=prepared, style="brief", limit=5, processes=1)
    assert json.loads((prepared / "manifest.json").read_text()) == before
    assert [page.stat().st_mtime_ns for page in pages[1:]] == stamps[1:]
    with Image.open(pages[0]) as page:
        assert page.width > 900


def test_an_interrupted_run_leaves_no_manifest(prepared: Path, tmp_path, monkeypatch) -> None:
    out = tmp_path / "out"
    shutil.copytree(prepared, out)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prep, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main("sample", out=out, style="full", limit=5, processes=1)
    assert not (out / "manifest.json").exists()
    assert not list(out.rglob("*.partial"))


def test_a_folder_is_read_and_bad_records_are_skipped(folder, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert main(str(folder), out=out, processes=1) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert {row["split"] for row in manifest["records"]} == {"train"}
    assert len(manifest["records"]) == 2
    assert [row["id"] for row in manifest["skipped"]] == ["broken"]
    assert "skipped broken: " in capsys.readouterr().err
    assert any(row["id"].startswith("ward/") for row in manifest["records"])
    assert not (out / SHARD.format("test")).exists()
    assert all(example.truth is None for example in examples(out))


def test_a_folder_can_hold_out_a_share(folder: Path) -> None:
    none = {item.split for item in corpus_items(str(folder))}
    most = [item.split for item in corpus_items(str(folder), test_fraction=0.99)]
    assert none == {"train"}
    assert most.count("test") >= 2


def test_a_limit_spreads_over_the_corpus() -> None:
    items = corpus_items("sample", limit=20)
    assert len(items) == 20
    assert {item.split for item in items} == {"train", "test"}
    assert {item.id.split("/")[0] for item in items} == {"ludb", "ptbxl"}


REFUSED = [
    ({"corpus": "nowhere"}, "no such corpus"),
    ({"corpus": "sample", "limit": 0}, "--limit: got 0"),
    ({"corpus": "sample", "test_fraction": 1.0}, "--test-fraction: got 1.0"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_bad_usage_is_refused_in_one_line(arguments: dict, message: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(BadInput, match=message) as error:
        main(**arguments, out=out)
    assert "\n" not in str(error.value)
    assert not out.exists()


def test_a_file_as_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(BadInput, match="expected a folder to write in"):
        main("sample", out=tmp_path / "out", limit=1, processes=1)
    assert (tmp_path / "out").read_text() == "mine"


def test_a_folder_without_a_usable_record_is_refused(folder: Path, tmp_path: Path) -> None:
    for path in folder.rglob("*.dat"):
        path.unlink()
    with pytest.raises(BadInput, match="none of 3 records can be used"):
        main(str(folder), out=tmp_path / "out", processes=1)


def test_encoding_gives_back_the_example_bit_for_bit() -> None:
    signal_mv = np.random.default_rng(0).normal(size=(len(LEADS), 50)).astype(np.float32)
    signal_mv[3, 7] = np.nan
    example = Example({"id": "a"}, {"global": {}}, signal_mv, 500.0, "test", {"axis_deg": None})
    back = decode(encode(example))
    np.testing.assert_array_equal(back.signal_mv, signal_mv)
    assert dataclasses.replace(back, signal_mv=signal_mv) == dataclasses.replace(example)
    assert encode(example) == encode(back)


@pytest.mark.parametrize("element", [b"", b"\xc1", b"\x80", b"\x01garbage"])
def test_other_bytes_are_no_element(element: bytes) -> None:
    with pytest.raises(BadInput, match="write the shard anew"):
        decode(element)


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such shard"):
        next(read_shard(tmp_path / "x.array_record"))


def test_an_interrupted_shard_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.array_record"
    example = Example({}, {}, np.zeros((12, 3), np.float32), 500.0, "train")
    first = write_shard(path, [encode(example)])

    def breaks():
        yield encode(example)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(path, breaks())
    assert sha256(path) == first
    assert list(tmp_path.iterdir()) == [path]


def test_records_that_can_teach_nothing_are_skipped_by_name(tmp_path, capsys) -> None:
    whole = wfdb_records.samples()
    folder = tmp_path / "records"
    folder.mkdir()
    wfdb_records.write(folder / "whole", whole)
    wfdb_records.write(folder / "chest", {lead: whole[lead] for lead in ("V1", "V2", "V3")})
    wfdb_records.write(folder / "flat", {lead: row * 0 for lead, row in whole.items()})
    out = tmp_path / "out"
    assert main(str(folder), out=out, processes=1) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert [row["id"] for row in manifest["records"]] == ["whole"]
    reasons = {row["id"]: row["reason"] for row in manifest["skipped"]}
    assert "expected all twelve" in reasons["chest"]
    assert "no heart rate" in reasons["flat"]
