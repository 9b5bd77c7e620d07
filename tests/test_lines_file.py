"""Bulk measurement to a file: whole or not there, and what a killed run wrote is not made again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep.lines_file import open_lines
from data_prep.measure import main
from data_prep.records import BadInput

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "data_prep" / "sample"


def line(record: str) -> str:
    return json.dumps({"record": record, "n": 1})


def test_a_file_is_there_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out.jsonl"
    with open_lines(out, "work") as lines:
        lines.write(line("a"))
        assert not out.exists()
        lines.finish()
    assert out.read_text() == line("a") + "\n"
    assert [path.name for path in out.parent.iterdir()] == ["out.jsonl"]


def test_half_a_line_is_made_again(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with open_lines(out, "work") as lines:
        lines.write(line('a "quoted" ä'))
        lines.write(line("b"))
    (partial,) = tmp_path.iterdir()
    with partial.open("ab") as file:
        file.write(line("c")[:-3].encode())
    with open_lines(out, "work") as lines:
        assert lines.done == {'a "quoted" ä', "b"}
        lines.write(line("c"))
        lines.finish()
    assert [json.loads(text)["record"] for text in out.read_text().splitlines()][1:] == ["b", "c"]


def test_other_work_begins_anew(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with open_lines(out, "work") as lines:
        lines.write(line("a"))
    with open_lines(out, "other") as lines:
        assert lines.done == set()


def test_a_file_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path, tmp_path / "file" / "out.jsonl"):
        with pytest.raises(BadInput, match=r"--out .*expected a file") as refused:
            main((SAMPLE / "ptbxl",), out=out, processes=1)
        assert "\n" not in str(refused.value)
    out = tmp_path / "out.jsonl"
    with (
        open_lines(out, "work"),
        pytest.raises(BadInput, match="another process"),
        open_lines(out, "work"),
    ):
        pass


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_stopped_goes_on(how: signal.Signals, tmp_path: Path) -> None:
    folder, out = tmp_path / "records", tmp_path / "out.jsonl"
    folder.mkdir()
    for file in (SAMPLE / "ptbxl").glob("000*"):
        (folder / file.name).symlink_to(file)
    (folder / "bad.hea").write_text("bad 12 500\n")
    command = [sys.executable, "-m", "gem_jax.cli", "measure", str(folder), "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while run.poll() is None and not any(p.stat().st_size for p in tmp_path.glob(".out*")):
        time.sleep(0.005)
    run.send_signal(how)
    _, told = run.communicate()
    assert run.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130), told
    assert not out.exists()
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.returncode == 2, again.stderr
    assert "are there already" in again.stderr
    assert again.stderr.splitlines()[-1].startswith("gem-jax measure: "), "the bad one comes last"
    assert "bad" in again.stderr.splitlines()[-1]
    made = [json.loads(text) for text in out.read_text().splitlines()]
    assert [one["record"] for one in made] == [
        str(header.with_suffix("")) for header in sorted(folder.glob("0*.hea"))
    ]
    whole = tmp_path / "whole.jsonl"
    assert main((folder,), out=whole, processes=1) == 2
    assert whole.read_bytes() == out.read_bytes()
