"""How far an import is: bytes, rate, time left; and nothing kept meanwhile."""

import sys
import weakref

import jax
import numpy as np
import pytest

from gem_jax.weights import progress
from gem_jax.weights.progress import line, nbytes, track


def test_a_line_says_how_far_how_fast_and_how_long_still():
    assert line("import", 5_800_000_000, 14_300_000_000, 29) == (
        "import 5.8/14.3 GB 200 MB/s ETA 0:42"
    )
    assert line("import", 0, 14_300_000_000, 0) == "import 0.0/14.3 GB 0 MB/s ETA ?"
    assert line("export", 10**10, 10**10, 125) == "export 10.0/10.0 GB 80 MB/s in 2:05"


def test_bytes_are_those_of_the_shapes():
    shapes = {
        "a": jax.ShapeDtypeStruct((2, 3), "bfloat16"),
        "b": jax.ShapeDtypeStruct((), "float32"),
    }
    assert nbytes(shapes) == 16


@pytest.mark.parametrize(("period_s", "lines"), [(0.0, 4), (1e9, 1)])
def test_a_log_gets_a_line_each_period_and_one_at_the_end(period_s, lines, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LOG_PERIOD_S", period_s)
    given = [(f"{number}", np.zeros(number, np.int8)) for number in (1, 2, 3, 4)]
    assert list(track(iter(given), 10, "import")) == given
    said = capsys.readouterr().err.splitlines()
    assert len(said) == lines
    assert " in 0:00" in said[-1] and not any(" in " in text for text in said[:-1])


def test_a_terminal_gets_one_line_that_is_rewritten(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    list(track([("a", np.zeros(6, np.int8)), ("b", np.zeros(4, np.int8))], 10, "export"))
    said = capsys.readouterr().err
    assert said.count("\r\x1b[K") == 2 and said.count("\n") == 1 and said.endswith("\n")


def test_what_the_caller_drops_is_gone_before_the_next_is_made():
    made: list[weakref.ref] = []
    alive: list[bool] = []

    def leaves():
        for number in range(3):
            alive.append(any(ref() is not None for ref in made))
            array = np.zeros(number)
            made.append(weakref.ref(array))
            yield str(number), array
            del array

    for _, _array in track(leaves(), 24, "import"):
        del _array
    assert alive == [False] * 3
    alive.clear()
    kept = list(track(leaves(), 24, "import"))
    assert alive == [False, True, True] and len(kept) == 3
