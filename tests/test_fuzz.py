"""A thousand damaged files: each is read, or refused in one line; nothing else ever happens."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from damage import WRITERS, damaged, sound
from data_prep.measure import measure
from data_prep.records import MAX_VALUES, BadInput, check, find, read

ROOT = Path(__file__).parents[1]
FILES = 1000
SHARES = 10


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    sound(folder)
    return folder


def _outcome(folder: Path) -> list[str]:
    """What became of the records in a folder: read, or why not."""
    told = []
    try:
        paths = find([folder])
    except BadInput as bad:
        return [str(bad)]
    for path in paths:
        try:
            check(path)
            record = read(path)
        except BadInput as bad:
            told.append(str(bad))
            continue
        assert not np.isinf(record.signal_mv).any()
        assert record.signal_mv.size <= 4 * MAX_VALUES  # with derived leads
        told.append("")
    return told


@pytest.mark.parametrize("name", WRITERS)
def test_the_files_are_sound_before_they_are_damaged(name, whole):
    told = _outcome(whole / name)
    assert told == [""] * (2 if name.startswith("code15") else 1)


@pytest.mark.parametrize("share", range(SHARES))
def test_damaged_files_are_read_or_refused_in_one_line(share, whole, tmp_path):
    refused = 0
    for seed in range(share, FILES, SHARES):
        name = damaged(tmp_path / str(seed), whole, seed)
        for told in _outcome(tmp_path / str(seed)):
            assert told.isprintable(), (seed, name, told)
            assert len(told) < 600, (seed, name, told)
            refused += bool(told)
    assert refused > FILES // SHARES // 4  # the control: the damage is real


def test_what_is_read_of_damaged_files_can_be_measured(whole, tmp_path):
    measured = 0
    for seed in range(FILES, FILES + 60):
        damaged(tmp_path / str(seed), whole, seed)
        try:
            for path in find([tmp_path / str(seed)]):
                measured += bool(measure(read(path)).to_json())
        except BadInput:
            continue
    assert measured > 10


def test_the_command_line_refuses_damaged_files_without_a_traceback(whole, tmp_path):
    for seed in range(2 * FILES, 2 * FILES + 60):
        damaged(tmp_path / "in" / str(seed), whole, seed)
    for args in (
        ("measure", "in", "--json", "--processes", "1"),
        ("prep", "in", "--out", "out"),
        ("render", f"in/{2 * FILES}/r", "--out", "a.png"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "gem_jax.cli", *args],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        )
        assert done.returncode in (0, 2), done.stderr[-2000:]
        assert "Traceback" not in done.stderr
        assert "Warning" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} <= {"in", "out", "a.png"}
