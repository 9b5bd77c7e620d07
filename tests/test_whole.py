"""A folder that is there when it is whole."""

from pathlib import Path

import pytest

from gem_jax.whole import whole_folder


def test_it_appears_at_the_end(tmp_path):
    dest = tmp_path / "new" / "folder"
    with whole_folder(dest) as partial:
        (partial / "a").write_text("1")
        assert not dest.exists()
    assert [path.name for path in dest.iterdir()] == ["a"]
    assert list(dest.parent.iterdir()) == [dest]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_nothing(kind, tmp_path):
    with pytest.raises(kind), whole_folder(tmp_path / "dest") as partial:
        (partial / "a").write_text("1")
        raise kind
    assert not list(tmp_path.iterdir())


def test_an_error_leaves_no_new_folder_above_it_but_those_of_others(tmp_path):
    (tmp_path / "old").mkdir()
    for name in ("old/new/newer", "new/newer/newest"):
        with pytest.raises(ValueError, match="ours"), whole_folder(tmp_path / name):
            raise ValueError("ours")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert not list((tmp_path / "old").iterdir())
    with pytest.raises(ValueError, match="ours"), whole_folder(tmp_path / "new" / "a" / "b"):
        (tmp_path / "new" / "theirs").touch()
        raise ValueError("ours")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "old", "theirs"]


def test_what_an_earlier_run_left_is_not_taken_over(tmp_path):
    (tmp_path / "dest.partial").mkdir()
    (tmp_path / "dest.partial" / "old").touch()
    with whole_folder(tmp_path / "dest") as partial:
        assert not list(partial.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["dest"]


def test_a_folder_that_came_meanwhile_is_not_overwritten(tmp_path):
    with pytest.raises(OSError, match="not empty"), whole_folder(tmp_path / "dest"):
        Path(tmp_path / "dest").mkdir()
        (tmp_path / "dest" / "theirs").touch()
    assert [path.name for path in (tmp_path / "dest").iterdir()] == ["theirs"]
    assert [path.name for path in tmp_path.iterdir()] == ["dest"]
