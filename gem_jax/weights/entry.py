"""Where one tensor lies in a file of weights, and its bytes when they are asked for."""

import math
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes  # noqa: F401 (its import teaches numpy bfloat16)
import numpy as np


@dataclass(frozen=True)
class Entry:
    """One tensor of a file; `dtype` is numpy's name, or the file's where numpy has none.

    `strides` counts elements and is None where the tensor lies in the order of its axes.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str
    start_byte: int
    strides: tuple[int, ...] | None = None

    def read(self) -> np.ndarray:
        """Returns the tensor: only its own bytes are read, and no file stays open or mapped."""
        dtype = np.dtype(self.dtype)
        span = self._span()
        # By offset, not mapped: pages of a mapped shard would count as our memory.
        raw = np.fromfile(self.file, np.uint8, span * dtype.itemsize, offset=self.start_byte)
        if raw.nbytes != span * dtype.itemsize:
            raise OSError(f"{self.file} ends before its tensor does; was it changed meanwhile?")
        flat = raw.view(dtype)
        if self.strides is None or not flat.size:
            return flat.reshape(self.shape)
        steps = [stride * dtype.itemsize for stride in self.strides]
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, self.shape, steps))

    def _span(self) -> int:
        """Returns the number of elements from the tensor's first to its last."""
        if self.strides is None or 0 in self.shape:
            return math.prod(self.shape)
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
