"""A function becomes a command line; bad usage is one line and status 2."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from gem_jax.usage import bind


def program(
    records: list[Path], *, out: Path, gain: Literal[5, 10, 20] = 10, json: bool = False
) -> int:
    """Do something.

    Args:
        records: What to read.
        out: Where to write.
        gain: Height of 1 mV in mm.
        json: Print JSON.
    """
    return len(records) + gain + 100 * json + 1000 * (out == Path("here"))


def test_positional_arguments_and_flags_reach_the_function() -> None:
    args = ["a", "b", "--out", "here", "--gain", "5", "--json"]
    assert bind(program, args, "program")() == 1107
    assert bind(program, ["a", "--out", "there"], "program")() == 11


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["a"], "--out"),
        (["a", "--out", "x", "--gain", "7"], "expected one of ('5', '10', '20')"),
        (["a", "--out", "x", "--colour"], "--colour"),
        (["a", "--out", "x", "b"], "Unrecognized options: b; write paths side by side"),
        (["a", "--out", ""], "argument 3 is empty"),
    ],
)
def test_bad_usage_is_one_line(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        bind(program, args, "gem-jax program")
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("gem-jax program: ")
    assert said.lower() in error.lower()
    assert "---" not in error
    assert error.lower().count("unrecognized") <= 1
    assert "gem-jax program --help" in error


def test_help_goes_to_stdout_and_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        bind(program, ["--help"], "program")
    assert stopped.value.code in (0, None)
    printed = capsys.readouterr()
    assert "Height of 1 mV" in printed.out
    assert printed.err == ""


def test_an_unknown_option_is_no_stray_path(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bind(program, ["a", "--out", "x", "--colour"], "gem-jax program")
    assert "side by side" not in capsys.readouterr().err
