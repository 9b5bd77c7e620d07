"""What every process has to know of all of them, told by each to all."""

import json
from typing import Any

import jax
import numpy as np


def exchange(facts: Any) -> list[Any]:
    """Returns the JSON values that the processes gave, in the order of their indices.

    Every process has to call it at the same place of its program, on its main thread: two small
    gathers go through the devices, in line with the steps that were sent to them. Costs of that:
    milliseconds a call, and a process that is ahead waits for the step before.
    """
    if jax.process_count() == 1:
        return [facts]
    from jax.experimental import multihost_utils

    told = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.int32(told.size)))
    padded = np.pad(told, (0, int(sizes.max()) - told.size))
    heard = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [
        json.loads(row[:size].tobytes()) for row, size in zip(heard, sizes.tolist(), strict=True)
    ]
