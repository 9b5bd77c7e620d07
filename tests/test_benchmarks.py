"""The random GEM that import and export are measured on: official names, shapes and counts."""

import math
import re
import shutil
from pathlib import Path

import pytest

from benchmarks import import_export_memory
from benchmarks.make_7b import SIZES, ecg_shapes, gem_shapes, main, require_disk
from gem_jax.weights.files import WeightsError, open_folder

GOLDEN = Path(__file__).parent / "goldens" / "gem_llama_tiny"


def test_the_tiny_one_has_the_originals_tensors_and_files(tmp_path):
    main(tmp_path / "made", "tiny")
    made, golden = open_folder(tmp_path / "made"), open_folder(GOLDEN)
    shapes = {name: entry.shape for name, entry in golden.entries.items()}
    assert {name: entry.shape for name, entry in made.entries.items()} == shapes
    assert {entry.dtype for entry in made.entries.values()} == {"bfloat16"}
    tower = open_folder(tmp_path / "made" / "clip_vision")
    for name in tower.entries:
        copy = made.read(f"model.vision_tower.vision_tower.{name}")
        assert copy.tobytes() == tower.read(name).tobytes()
    with pytest.raises(WeightsError, match="exists"):
        main(tmp_path / "made", "tiny")


def test_the_large_one_has_the_official_counts():
    size = SIZES["7b"]
    ecg = sum(math.prod(shape) for shape in ecg_shapes(size).values())
    whole = sum(math.prod(shape) for shape in gem_shapes(size).values())
    projector = (768 + 1) * 1024
    assert ecg == 85_989_888
    # LLaVA-1.6-Vicuna-7B without its image_newline, the ECG encoder and its projector.
    assert whole == 7_062_906_880 - 4096 + 85_989_888 + projector


def test_a_full_disk_is_told_in_one_line(tmp_path):
    with pytest.raises(WeightsError, match=r"GB free, expected 1000000000\.0"):
        require_disk(tmp_path / "new" / "folder", 1e18)
    require_disk(tmp_path / "new" / "folder", 1.0)


def test_the_tiny_ones_way_and_back_is_measured(tmp_path, capfd, monkeypatch):
    official = tmp_path / "made"
    main(official, "tiny")
    capfd.readouterr()
    import_export_memory.main(official, tmp_path / "work")
    lines = capfd.readouterr().out.splitlines()
    told = r"{}: [0-9.]+ s, peak [0-9.]+ GB of resident memory"
    for verb, line in zip(("import", "export"), lines, strict=False):
        assert re.fullmatch(told.format(verb), line)
    assert lines[2:] == [f"{len(open_folder(official).entries)} tensors came back byte for byte"]

    def spoilt(verb: str, source: Path, dest: Path) -> None:
        if verb == "export":
            shutil.copytree(official, dest)
            place = open_folder(dest).entries["model.norm.weight"]
            with place.file.open("r+b") as file:
                file.seek(place.start_byte)
                file.write(b"\1")

    monkeypatch.setattr(import_export_memory, "measure", spoilt)
    with pytest.raises(WeightsError, match="1 tensors differ"):
        import_export_memory.main(official, tmp_path / "control")
