"""What is measured is what it says: a GEM of official names and counts, one model on both sides."""

import importlib.util
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from benchmarks import import_export_memory, measure, step_shapes, train_step
from benchmarks.make_7b import SIZES, ecg_shapes, gem_shapes, main, require_disk
from gem_jax.models.gem import abstract_batch
from gem_jax.weights.files import WeightsError, open_folder

ROOT = Path(__file__).parents[1]
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


def run_of(*arguments: str) -> subprocess.CompletedProcess:
    """What `python -m benchmarks.train_step ARGUMENTS` says."""
    command = [sys.executable, "-m", "benchmarks.train_step", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_step_and_decoding_are_measured_beside_the_peer():
    done = run_of("--shapes", "tiny", "--threads", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    versions, _, step, decoding = done.stdout.splitlines()
    assert "jax " in versions
    side = r"+[0-9.]+ +[0-9]+ MiB"
    peer = rf" {side} +[0-9.]+×" if importlib.util.find_spec("torch") else " +–"
    assert re.fullmatch(rf"tiny +1 train  {side}{peer}  [0-9.]+ GFLOP/s", step)
    assert re.fullmatch(rf"tiny +1 decode {side}{peer}", decoding)


def test_sides_that_compute_something_else_are_refused():
    same = {"loss": 9.0101}, {"loss": 9.0102}
    train_step._require_same(same, "tiny")
    with pytest.raises(ValueError, match="expected the same model"):
        train_step._require_same((same[0], {"loss": 9.2}), "tiny")
    with pytest.raises(ValueError, match="first tokens"):
        train_step._require_same(({"first": [1, 2]}, {"first": [1, 3]}), "tiny")


def test_the_card_is_given_gem_of_the_official_size():
    for kind in ("lora", "full"):
        config = step_shapes.card_recipe(kind)
        assert (config.lora is not None) == (kind == "lora")
        assert config.model.llm.dtype == "bfloat16"
        shapes = abstract_batch(config.model, config.data.batch_size, config.data.length)
        batch = step_shapes.card_batch(config)
        given, wanted = jax.tree.leaves(batch), jax.tree.leaves(shapes)
        assert [leaf.shape for leaf in given] == [leaf.shape for leaf in wanted]
        assert batch.media_index.max() == config.model.num_media_tokens - 1


def test_measuring_is_timed_by_stage():
    records = sorted((ROOT / "data_prep" / "sample" / "ptbxl").glob("*.hea"))[:2]
    clock = measure.measure_all(records)
    assert tuple(clock.cpu_s) == tuple(clock.wall_s) == measure.STAGES
    assert min(clock.wall_s.values()) > 0
