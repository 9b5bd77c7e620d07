"""A file of torch.save, written without torch: torch reads it as the original does."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from gem_jax.weights.files import WeightsError, open_file
from gem_jax.weights.torch_file import start_torch_file

TENSORS = {
    "module.ecg.proj": np.arange(6, dtype=np.float32).reshape(2, 3),
    "module.ecg.scalar": np.array(3, np.float32),
    "module.ecg.half": np.arange(300, dtype=np.float16).reshape(3, 1, 100),
    "module.ecg.brain": np.linspace(-1, 1, 5).astype(ml_dtypes.bfloat16),
}
PLAN = {name: (tensor.shape, tensor.dtype.name) for name, tensor in TENSORS.items()}


def written(folder, names=tuple(TENSORS)):
    writer = start_torch_file(folder / "tower.pt", PLAN)
    for name in names:
        writer.write(name, TENSORS[name])
    writer.finish()
    return folder / "tower.pt"


@pytest.mark.parametrize("weights_only", [True, False])
def test_torch_reads_what_the_original_asks_for(weights_only, tmp_path):
    torch = pytest.importorskip("torch", reason="install the `parity` extra")
    # Another order than planned: each tensor lies where its own key says.
    path = written(tmp_path, tuple(reversed(TENSORS)))
    found = torch.load(path, map_location="cpu", weights_only=weights_only)["state_dict"]
    assert list(found) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert tuple(found[name].shape) == tensor.shape
        assert found[name].is_contiguous()
        np.testing.assert_array_equal(
            found[name].float().numpy(), tensor.astype(np.float32), err_msg=name
        )
        assert str(found[name].dtype) == f"torch.{tensor.dtype.name}"


def test_we_read_it_byte_for_byte(tmp_path):
    shards = open_file(written(tmp_path))
    assert set(shards.entries) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert shards.read(name).tobytes() == tensor.tobytes()
        assert shards.read(name).dtype == tensor.dtype


def test_only_what_was_planned_is_written_and_once(tmp_path):
    with pytest.raises(WeightsError, match=r"module\.ecg\.half was not written"):
        written(tmp_path, tuple(TENSORS)[:2])
    with pytest.raises(WeightsError, match="each tensor once"):
        written(tmp_path, (*TENSORS, "module.ecg.proj"))
    writer = start_torch_file(tmp_path / "other.pt", PLAN)
    with pytest.raises(WeightsError, match=r"module\.ecg\.proj: got \(\(3, 2\), 'float32'\)"):
        writer.write("module.ecg.proj", TENSORS["module.ecg.proj"].T)
