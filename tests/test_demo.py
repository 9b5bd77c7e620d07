"""The demo from end to end in its quick form: interrupted, continued, run again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep.records import BadInput
from gem_jax import checkpoint, demo, log

ROOT = Path(__file__).parents[1]


def start(out: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gem_jax.cli", "demo", "--out", str(out), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # One device, as on a user's machine.
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
        },
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=240)
    return process.returncode, said


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """(folder, what the demo said when it was interrupted, and when it went on)."""
    out = tmp_path_factory.mktemp("demo") / "out"
    process = start(out, "--quick")
    while process.poll() is None and not log.read_metrics(out / "pretrain" / "metrics.jsonl"):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    status, broken = finish(process)
    assert status == 130, broken
    assert not (out / "done.json").exists()
    status, whole = finish(start(out, "--quick"))
    assert status == 0, whole
    return out, broken, whole


def test_an_interrupted_demo_goes_on_where_it_stopped(made):
    out, broken, whole = made
    assert "measure, render and instruct" in broken
    assert "run the same command again to go on" in broken
    assert "measure, render and instruct" not in whole
    for stage in demo.STAGES:
        steps = [row["step"] for row in log.read_metrics(out / stage / "metrics.jsonl")]
        assert steps == [0, 1, 2, 3], stage
        assert checkpoint.complete_steps(out / stage)[-1] == 4


def test_everything_it_promises_is_there(made):
    out, _, whole = made
    for path in ("data/manifest.json", "tokenizer/tokenizer.json", "predictions.jsonl"):
        assert (out / path).is_file(), path
    assert list((out / "export").glob("*.safetensors"))
    assert checkpoint.locate(out / "imported").step == 0
    table = json.loads((out / "scores.json").read_text())
    assert {"heart_rate_bpm", "axis_deg"} <= set(table)
    fields = {"n", "unit", "better", "model", "constant", "other_patient"}
    assert all(set(row) >= fields | {"difference", "ci_low", "ci_high"} for row in table.values())
    for said in ("report.html", "scores.json", "finetune", "export", "not a medical device"):
        assert said in whole, said


def test_the_report_is_one_file_without_foreign_parts(made):
    out, _, _ = made
    page = (out / "report.html").read_text()
    assert len(page) < 3e6
    assert 'src="http' not in page and "<link" not in page and "@import" not in page
    assert "not a medical device" in page.lower()
    assert "data:image/png;base64," in page


def test_the_exported_model_gives_the_same_logits(made):
    out, _, _ = made
    assert demo.logit_difference(out, out / "finetune", out / "imported") == 0.0
    assert demo.logit_difference(out, out / "finetune", out / "align") > 0.0, "the control"


def test_a_finished_demo_says_where_its_results_lie(made):
    out, _, _ = made
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    status, said = finish(start(out, "--quick"))
    assert status == 0
    assert "the demo is done (--fresh repeats it)" in said
    for name in ("report.html", "scores.json", "finetune", "export"):
        assert str(out / name) in said
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.parametrize("fresh", [True, False])
def test_a_folder_that_is_not_its_own_is_left_alone(fresh, tmp_path):
    mine = tmp_path / "letters.txt"
    mine.write_text("dear")
    with pytest.raises(BadInput, match="was not made by the demo, expected its folder"):
        demo.main(out=tmp_path, fresh=fresh, quick=True)
    assert [*tmp_path.iterdir()] == [mine]


def test_fresh_removes_its_own_folder(tmp_path, monkeypatch):
    (tmp_path / ".gem_jax_demo").write_text('{"quick": true}')
    (tmp_path / "done.json").touch()

    def prepare(out, recipes, quick):
        assert [path.name for path in out.iterdir()] == [".gem_jax_demo"]
        raise InterruptedError

    monkeypatch.setattr(demo, "prepare", prepare)
    monkeypatch.setattr(demo, "told", lambda out: "")
    assert demo.main(out=tmp_path, quick=True) == 0, "the control: a finished one is kept"
    with pytest.raises(BadInput, match="holds a --quick demo; add --fresh"):
        demo.main(out=tmp_path)
    with pytest.raises(InterruptedError):
        demo.main(out=tmp_path, fresh=True, quick=True)


def test_outside_of_a_checkout_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "__file__", str(tmp_path / "gem_jax" / "demo.py"))
    with pytest.raises(BadInput, match="expected a checkout of the repository"):
        demo.recipe_file()
