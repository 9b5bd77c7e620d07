"""The command line: verbs, what --help imports, exit statuses."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from data_prep.records import LEADS, BadInput
from gem_jax import cli

HEAVY = ("jax", "flax", "orbax", "grain", "neurokit2", "transformers", "torch", "tensorflow")


def gem_jax(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gem_jax.cli", *args],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )


def verb_of(monkeypatch: pytest.MonkeyPatch, main: object) -> None:
    """Makes `gem-jax probe` call `main`."""
    module = types.ModuleType("probe_program")
    module.main = main  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "probe_program", module)
    monkeypatch.setitem(cli.VERBS, "probe", cli.Verb("probe_program", "Probe."))


@pytest.fixture(autouse=True)
def _same_signals() -> object:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_help_lists_every_verb_without_importing_one() -> None:
    code = (
        "import sys; from gem_jax import cli; cli.main(['--help']);"
        "print('IMPORTED', [m for m in sys.modules if m in {v.module for v in cli.VERBS.values()}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name, verb in cli.VERBS.items():
        assert f"{name} " in done.stdout
        assert verb.does in done.stdout
    assert "IMPORTED []" in done.stdout
    assert "not a medical device" in done.stdout


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_of_a_verb_imports_nothing_heavy(verb: str) -> None:
    code = (
        "import sys; from gem_jax import cli\n"
        f"try: status = cli.main([{verb!r}, '--help'])\n"
        "except SystemExit as stop: status = stop.code or 0\n"
        f"print('STATUS', status, [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("STATUS 0 []\n"), done.stdout[-300:]
    assert len(done.stdout) > 100


def test_the_check_of_imports_can_fail() -> None:
    code = f"import jax, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "jax" in done.stdout


@pytest.mark.parametrize("args", [(), ("nonsense",), ("--nonsense",), ("render",)])
def test_bad_usage_is_one_line_and_status_2(args: tuple[str, ...]) -> None:
    done = gem_jax(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("gem-jax")
    assert done.stderr.count("\n") == 1


def test_leads_before_the_record_are_one_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beat = 1.2 * np.exp(-0.5 * ((np.arange(3000) % 400 - 200) / 8.0) ** 2)
    table = tmp_path / "two.csv"
    np.savetxt(table, np.stack([beat, 0.7 * beat], axis=1), delimiter=",", fmt="%.4f")
    stated = ["measure", "--json", "--rate", "500", "--unit", "mV", "--leads"]
    assert cli.main([*stated, "I, II", str(table)]) == 0
    assert list(json.loads(capsys.readouterr().out)["leads"]) == list(LEADS[:6])
    assert cli.main([*stated, "I", "II", str(table)]) == 2
    assert "write all in one word: --leads I,II" in capsys.readouterr().err


def test_bad_input_is_one_line_and_status_2(tmp_path: Path) -> None:
    done = gem_jax("render", "nowhere", "--out", str(tmp_path / "page.png"), cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("module", "name"), cli.REFUSALS)
def test_every_refusal_exists(module: str, name: str) -> None:
    kind = getattr(importlib.import_module(module), name)
    assert issubclass(kind, ValueError)
    assert cli.is_refusal(kind("x"))
    assert cli.is_refusal(type("Narrower", (kind,), {})("x"))


def test_other_errors_are_faults_of_ours() -> None:
    assert not cli.is_refusal(ValueError("x"))
    assert not cli.is_refusal(type("BadInput", (ValueError,), {})("x"))


def test_status_of_the_program_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def main(number: int) -> int | None:
        """Return."""
        return number or None

    verb_of(monkeypatch, main)
    assert cli.main(["probe", "0"]) == 0
    assert cli.main(["probe", "1"]) == 1


def raising(error: BaseException) -> object:
    def main() -> int:
        """Raise."""
        raise error

    return main


def test_ends_by_exception(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    verb_of(monkeypatch, raising(BadInput("a.hea: got\nnothing, expected a header")))
    assert cli.main(["probe"]) == 2
    assert capsys.readouterr().err == "gem-jax probe: a.hea: got nothing, expected a header\n"
    verb_of(monkeypatch, raising(KeyboardInterrupt()))
    assert cli.main(["probe"]) == 130
    assert "run the same command again to go on" in capsys.readouterr().err
    verb_of(monkeypatch, raising(SystemExit(143)))
    with pytest.raises(SystemExit, match="143"):
        cli.main(["probe"])
    verb_of(monkeypatch, raising(ValueError("ours")))
    with pytest.raises(ValueError, match="ours"):
        cli.main(["probe"])


def test_sigterm_ends_with_143(monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> int:
        """Be told to end."""
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    verb_of(monkeypatch, main)
    with pytest.raises(SystemExit, match="143"):
        cli.main(["probe"])


def test_a_reader_that_has_enough_is_no_fault() -> None:
    code = (
        "import sys, types; from gem_jax import cli\n"
        "def main() -> int:\n    'Print a lot.'\n    print('line\\n' * 100000)\n    return 0\n"
        "sys.modules['probe'] = types.ModuleType('probe'); sys.modules['probe'].main = main\n"
        "cli.VERBS['probe'] = cli.Verb('probe', 'Probe.'); sys.exit(cli.main(['probe']))"
    )
    shell = f'"{sys.executable}" -c "$CODE" | head -n 1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", shell], capture_output=True, text=True, env=os.environ | {"CODE": code}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "line\n", "")
