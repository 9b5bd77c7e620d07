"""The pages benchmark measures pages: ours, and the peer's of the same size where there is one."""

from __future__ import annotations

import importlib.util
import re

import numpy as np
import pytest

from benchmarks import pages
from data_prep.records import read
from data_prep.sample_index import SAMPLE

LUDB_1 = SAMPLE / "ludb" / "1"


def test_a_line_a_size_with_both_sides_or_ours_alone(capsys, monkeypatch) -> None:
    monkeypatch.setattr(pages, "LEAST_PER_S", dict.fromkeys(pages.DPIS, 0.0))
    assert pages.main(records=1) == 0
    ours = r"{} +[0-9.]+ +[0-9.]+"
    peer = r" +[0-9.]+ +[0-9.]+ +[0-9.]+x" if importlib.util.find_spec("matplotlib") else ""
    lines = capsys.readouterr().out.splitlines()
    for line, size in zip(lines[2:], ("660x510", "2200x1700"), strict=True):
        assert re.fullmatch(ours.format(size) + peer, line)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(pages, "LEAST_PER_S", dict.fromkeys(pages.DPIS, np.inf))
    assert pages.main(records=1) == 1
    told = capsys.readouterr().out
    assert "pip install matplotlib" in told
    assert not re.search(r"[0-9]x$", told, re.MULTILINE)


def test_the_peer_draws_the_same_content() -> None:
    pytest.importorskip("matplotlib")
    record = read(LUDB_1)
    ours, theirs = (side(record, 60) for side in (pages._ours, pages._theirs))
    assert ours.size == theirs.size
    ink = [np.asarray(image.convert("L")) < 140 for image in (ours, theirs)]
    shares = [float(dark.mean()) for dark in ink]
    assert 0.5 < shares[0] / shares[1] < 2
    grids = [np.asarray(image)[100:400, 60:600, 1].mean() for image in (ours, theirs)]
    assert grids[0] == pytest.approx(grids[1], abs=12)
