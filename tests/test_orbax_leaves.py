"""Parameters in an orbax folder: bit for bit, in batches and in chunks; waited for on Ctrl-C."""

import ml_dtypes
import numpy as np
import pytest

from gem_jax import orbax_leaves
from gem_jax.orbax_leaves import batches, load, load_tree, shapes, write
from gem_jax.paths import flat, nested
from gem_jax.whole import whole_folder

LEAVES = {
    "a/kernel": np.arange(12, dtype=np.float32).reshape(2, 2, 3),
    "a/bias": np.array([1, -2.5, np.nan], ml_dtypes.bfloat16),
    "b": np.array([65504, 6e-8], np.float16),
    "scalar": np.array(3, np.int32),
}


@pytest.mark.parametrize("batch_bytes", [1, 20, 10**9])
@pytest.mark.parametrize("chunk_bytes", [8, 10**9])
def test_what_is_written_is_read_bit_for_bit(batch_bytes, chunk_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(orbax_leaves, "BATCH_BYTES", batch_bytes)
    monkeypatch.setattr(orbax_leaves, "CHUNK_BYTES", chunk_bytes)
    folder = tmp_path / "0"
    write(folder, LEAVES.items())
    known = shapes(folder)
    assert {path: (leaf.shape, leaf.dtype) for path, leaf in known.items()} == {
        path: (leaf.shape, leaf.dtype) for path, leaf in LEAVES.items()
    }
    whole = flat(load_tree(folder))
    for path, leaf in LEAVES.items():
        (read,) = load(folder, {path: known[path]}).values()
        assert type(read) is np.ndarray
        assert read.tobytes() == np.asarray(whole[path]).tobytes() == leaf.tobytes()
    # Each chunk is a file, which is written before the next one is there.
    chunks = [path for path in (folder / "state" / "a.kernel" / "c").rglob("*") if path.is_file()]
    assert (len(chunks) > 1) == (chunk_bytes == 8)


def test_batches_end_when_they_are_large_enough(monkeypatch):
    monkeypatch.setattr(orbax_leaves, "BATCH_BYTES", 50)
    assert [list(batch) for batch in batches(LEAVES.items())] == [
        ["a/kernel", "a/bias"],
        ["b", "scalar"],
    ]
    assert nested(LEAVES)["a"]["bias"] is LEAVES["a/bias"]
    assert flat(nested(LEAVES)) == LEAVES


def test_after_ctrl_c_what_is_being_written_is_waited_for(tmp_path, monkeypatch):
    start, finished = orbax_leaves.ocp.partial.save_async, []

    class Interrupted:
        def __init__(self, *args):
            self.saving, self.asked = start(*args), False

        def result(self):
            if not self.asked:
                self.asked = True
                raise KeyboardInterrupt
            self.saving.result()
            finished.append(True)

    monkeypatch.setattr(orbax_leaves.ocp.partial, "save_async", Interrupted)
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "dest") as partial:
        write(partial / "0", LEAVES.items())
    assert finished == [True]
    assert not list(tmp_path.iterdir())
