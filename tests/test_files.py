"""A file is whole or it is not there."""

import os
from pathlib import Path

import pytest

from data_prep.files import write_whole
from data_prep.records import BadInput


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    write_whole(path, b"old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["page.html"]


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "page.html"
    write_whole(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(BadInput, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_a_place_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadInput, match="expected a place that can be written"):
        write_whole(tmp_path / "file" / "page.html", b"new")
