"""A file as torch.save writes it, without torch: tensor by tensor, then what describes them.

The original reads its ECG encoder by `torch.load(path)["state_dict"]`. Such a file is a zip; see
`gem_jax.weights.pickled`, which reads it.
"""

import math
import pickle
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gem_jax.weights.files import WeightsError
from gem_jax.weights.pickled import STORAGES
from gem_jax.weights.stream import Plan, raw, require_all

ROOT = "archive"
STORAGE_OF = {dtype: storage.removeprefix("torch.") for storage, dtype in STORAGES.items()}
# Pickle's opcodes of the second protocol, which torch.save uses.
PROTOCOL, STOP = b"\x80\x02", b"."
EMPTY_DICT, MARK, TUPLE, SETITEMS = b"}", b"(", b"t", b"u"
PERSISTENT_ID, CALL = b"Q", b"R"
REBUILD_TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED_DICT = b"ccollections\nOrderedDict\n"


@dataclass(frozen=True)
class TorchFile:
    """A file that is being written; `write` takes the tensors in any order, each once."""

    path: Path
    plan: Plan
    archive: zipfile.ZipFile
    written: list[str] = field(default_factory=list)

    def dtype(self, name: str) -> str:
        """Returns numpy's name of the dtype that `name` is planned with."""
        return self.plan[name][1]

    def write(self, name: str, tensor: np.ndarray) -> None:
        """Writes one tensor; WeightsError unless it is what was planned, and for the first time."""
        got = (tensor.shape, tensor.dtype.name)
        if self.plan.get(name) != got or name in self.written:
            raise WeightsError(
                f"{self.path}: {name}: got {got}, expected {self.plan.get(name)}, each tensor once"
            )
        member = f"{ROOT}/data/{len(self.written)}"
        self.archive.writestr(zipfile.ZipInfo(member), raw(tensor))
        self.written.append(name)

    def finish(self) -> None:
        """Writes what describes the tensors; WeightsError names those that were not written."""
        require_all(self.path, self.plan, self.written)
        keys = {name: str(number) for number, name in enumerate(self.written)}
        tensors = ((name, _tensor(keys[name], *spec)) for name, spec in self.plan.items())
        described = _dict([("state_dict", _dict(tensors))])
        for member, text in (
            ("data.pkl", PROTOCOL + described + STOP),
            ("byteorder", b"little"),
            ("version", b"3\n"),
        ):
            self.archive.writestr(zipfile.ZipInfo(f"{ROOT}/{member}"), text)
        self.archive.close()


def start_torch_file(path: Path, plan: Plan) -> TorchFile:
    """Returns the writer of `path`, whose one key `state_dict` holds the tensors."""
    return TorchFile(path, plan, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED))


def _dict(items: Iterable[tuple[str, bytes]]) -> bytes:
    """Returns the opcodes of a dict whose values are given as opcodes."""
    pairs = (_plain(name) + value for name, value in items)
    return EMPTY_DICT + MARK + b"".join(pairs) + SETITEMS


def _tensor(key: str, shape: tuple[int, ...], dtype: str) -> bytes:
    """Returns the opcodes that rebuild a tensor from the storage `key`."""
    storage = f"ctorch\n{STORAGE_OF[dtype]}\n".encode()
    place = _tuple(_plain("storage"), storage, _plain(key), _plain("cpu"), _plain(math.prod(shape)))
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    no_hooks = ORDERED_DICT + _tuple() + CALL
    parts = (_plain(0), _plain(shape), _plain(strides), _plain(False), no_hooks)
    return REBUILD_TENSOR + _tuple(place + PERSISTENT_ID, *parts) + CALL


def _tuple(*items: bytes) -> bytes:
    return MARK + b"".join(items) + TUPLE


def _plain(value: Any) -> bytes:
    """Returns the opcodes of a text, a number or numbers, without the frame of a pickle."""
    return pickle.dumps(value, 2)[len(PROTOCOL) : -len(STOP)]
