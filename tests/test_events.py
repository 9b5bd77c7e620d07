"""Event files: byte for byte what the public protocol says, and whole records only."""

from __future__ import annotations

import struct
import time

import pytest

from gem_jax import events

# Written by tensorboardX 2.6.5: step 300 at 1.5 s with {"loss": 0.25, "loss/a": -2.0}; a session
# that starts at step 4; a file's beginning.
SUMMARY = bytes.fromhex(
    "2a00000000000000ae8d91f5"
    "09000000000000f83f10ac022a1c0a0b0a046c6f7373150000803e0a0d0a066c6f73732f6115000000c0"
    "4c4cb4ef"
)
SESSION = bytes.fromhex("09000000000000f83f10043a020801")
VERSION = bytes.fromhex("09000000000000f83f1a0d627261696e2e4576656e743a32")


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1.5)


def records(content: bytes) -> list[bytes]:
    """Returns the records of an event file; fails where a checksum is wrong."""
    found = []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        body = content[12 : 12 + length]
        assert content[8:12] == events.masked(events.crc32c(content[:8]))
        assert content[12 + length : 16 + length] == events.masked(events.crc32c(body))
        found.append(body)
        content = content[16 + length :]
    return found


def test_the_checksum_is_castagnolis():
    assert events.crc32c(b"123456789") == 0xE3069283
    assert events.crc32c(b"123456788") != 0xE3069283


def test_a_steps_scalars_are_the_bytes_that_others_write(tmp_path):
    path = events.new_file(tmp_path / "tensorboard", 0)
    begin = path.read_bytes()
    events.append(path, 300, {"loss": 0.25, "loss/a": -2.0})
    assert path.read_bytes() == begin + SUMMARY
    assert "tfevents" in path.name


def test_a_file_begins_with_its_version_and_a_later_one_with_the_step_that_it_goes_on_with(
    tmp_path,
):
    fresh, later = (records(events.new_file(tmp_path, first).read_bytes()) for first in (0, 4))
    assert len(fresh) == 1
    assert fresh[0].replace(b"\x10\x00", b"") == VERSION
    assert later == [*fresh, SESSION]


def test_two_files_of_a_run_do_not_overwrite_each_other(tmp_path):
    assert events.new_file(tmp_path, 0) != events.new_file(tmp_path, 4)
