"""The parameters in an orbax folder, by path: as one tree, or a batch at a time."""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from gem_jax.paths import flat, nested

# A run saves its parameters beside the optimizer's state; orbax names those saved one by one.
PARAMS = "params"
PARAMS_ALONE = "state"
# What orbax raises for a file that is missing, cut off or no longer what was written.
UNREADABLE = (OSError, KeyError, ValueError)
CHUNK_BYTES = 100_000_000
BATCH_BYTES = 100_000_000
# Shape and dtype of parameters by their paths.
Shapes = dict[str, jax.ShapeDtypeStruct]


def shapes(folder: Path) -> Shapes:
    """Returns shape and dtype of each parameter."""
    _, known = _known(folder)
    return {
        path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in flat(known).items()
    }


def load_tree(folder: Path) -> dict:
    """Returns all parameters, on the default device."""
    name, known = _known(folder)
    single = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=single), known
    )
    return ocp.load_checkpointables(folder, {name: target})[name]


def load(folder: Path, wanted: Shapes) -> dict[str, np.ndarray]:
    """Returns those of the parameters `wanted` that it holds, in host memory, by path."""
    target = {path: np.empty(leaf.shape, leaf.dtype) for path, leaf in wanted.items()}
    return _load(folder, target)


def load_onto(folder: Path, wanted: Shapes) -> dict[str, jax.Array]:
    """Returns those of the parameters `wanted` that it holds, each where its sharding says."""
    return _load(folder, wanted)


def _load(folder: Path, target: dict[str, Any]) -> dict[str, Any]:
    name, known = _known(folder)
    held = {path: target[path] for path in flat(known) if path in target}
    if not held:
        return {}
    options = ocp.Context()
    options.pytree.loading.partial_load = True
    with options:
        return flat(ocp.load_checkpointables(folder, {name: nested(held)})[name])


def write(folder: Path, leaves: Iterable[tuple[str, Any]]) -> None:
    """Writes (path, parameter) to the new `folder`; a batch is held at a time."""
    options = ocp.Context()
    # Orbax would copy each array, and hold it once more, compressed, until its last byte is done:
    # its joint file (OCDBT) is written last. A file a chunk is written as it is compressed.
    options.memory.deepcopy_host_arrays = False
    options.array.saving.use_ocdbt = False
    options.array.saving.storage_options.chunk_byte_size = CHUNK_BYTES
    with silence(), options:
        for batch in batches(leaves):
            _save(folder, nested(batch))
            batch.clear()  # It is not kept while the next one is read.
        ocp.partial.finalize(folder)


def _save(folder: Path, part: dict) -> None:
    saving = ocp.partial.save_async(folder, part)
    try:
        saving.result()
    except BaseException:
        saving.result()  # After Ctrl-C its thread would write on, into a folder that is removed.
        raise


def batches(leaves: Iterable[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yields (path, array or shape) joined: to write or read one by one costs 0.1 s each."""
    batch: dict[str, Any] = {}
    for path, leaf in leaves:
        batch[path] = leaf
        del leaf
        if sum(held.size * held.dtype.itemsize for held in batch.values()) >= BATCH_BYTES:
            yield batch
            batch = {}
    if batch:
        yield batch


def _known(folder: Path) -> tuple[str, dict]:
    """Returns orbax's name for the parameters of a step, and what it knows of each of them."""
    known = ocp.checkpointables_metadata(folder).metadata
    name = PARAMS if PARAMS in known else PARAMS_ALONE
    return name, known[name]


@contextmanager
def silence() -> Iterator[None]:
    """Keeps orbax from telling of a fault in many lines: whoever calls tells it in one."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    except Exception:
        # Its unfinished tasks speak up later, when they are collected.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
        raise
    finally:
        logging.disable(before)


@contextmanager
def hushed() -> Iterator[None]:
    """Keeps orbax's threads from telling of errors, which whoever waits for them is given."""

    def passes(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR or "/orbax/" not in record.pathname

    def uncaught(kind: type[BaseException], error: BaseException, *where: Any) -> None:
        # What tensorstore still tells a thread that has given up.
        if str(error) != "Event loop is closed":
            before(kind, error, *where)

    logger, before = logging.getLogger("absl"), sys.excepthook
    logger.addFilter(passes)
    sys.excepthook = uncaught
    yield
    # Behind an error they speak up later, and it stays as it is.
    logger.removeFilter(passes)
    sys.excepthook = before
