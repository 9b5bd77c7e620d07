"""Several processes that train one model: how they meet, whose rows are whose, what they agree on.

Each holds its devices, feeds them its own rows of every batch, and takes part in every save; the
first alone writes the other files.
"""

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gem_jax.config import ConfigError
from gem_jax.sharding import AXES, batch_sharding

COORDINATOR, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
HEARTBEAT_S = 30


def join(asked: bool) -> None:
    """Meets the other processes of the run, if it has any; before anything else of JAX.

    They are named by the three variables above (HOST:PORT of the first one, how many, which one
    this is), or, when `asked`, by what JAX knows of Slurm, Open MPI, Kubernetes and TPU pods.

    Raises:
        ConfigError: when one of the variables is missing or no number, or JAX finds nothing.
    """
    named = {name: os.environ[name] for name in (COORDINATOR, COUNT, INDEX) if name in os.environ}
    if not asked and not named.keys() & {COUNT, INDEX}:
        return
    given: dict[str, Any] = {}
    if named.keys() & {COUNT, INDEX}:
        if len(named) < 3 or not (named[COUNT].isdecimal() and named[INDEX].isdecimal()):
            raise ConfigError(
                f"environment: got {named}, expected {COORDINATOR}=HOST:PORT, {COUNT} and {INDEX} "
                "as numbers, all three of them"
            )
        given = {"num_processes": int(named[COUNT]), "process_id": int(named[INDEX])}
    # A SIGTERM is ours to answer: JAX's own service would take it.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_S, **given)
    except ValueError as error:
        raise ConfigError(
            f"--distributed: JAX found no other processes ({error}), expected Slurm, Open MPI, "
            f"Kubernetes or a TPU pod; or set {COORDINATOR}, {COUNT} and {INDEX}"
        ) from error


def is_first() -> bool:
    """Returns whether this process is the one that writes what is written once."""
    return jax.process_index() == 0


def placement(mesh: Mesh, rows: int) -> Callable[[Any], Any]:
    """Returns a function that places arrays on the mesh whose axis 0 is this process's rows.

    Raises:
        ConfigError: when the mesh gives this process other rows of a batch of `rows` than its
            equal share in order, or the batch cannot be cut into the mesh's parts.
    """
    where = batch_sharding(mesh)
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % parts:
        raise ConfigError(
            f"data.batch_size: got {rows}, expected a multiple of mesh.data × mesh.fsdp ({parts})"
        )
    count, index = jax.process_count(), jax.process_index()
    indices = where.addressable_devices_indices_map((rows,)).values()
    held = {row for cut in indices if cut for row in range(*cut[0].indices(rows))}
    if rows % count or held != set(range(index * rows // count, (index + 1) * rows // count)):
        raise ConfigError(
            f"mesh: got {dict(mesh.shape)} over {count} processes, expected data × fsdp to be a "
            "multiple of the processes, so that each has rows of its own: make tensor smaller"
        )
    if count == 1:
        return lambda tree: jax.device_put(tree, where)

    def place(tree: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(where, np.asarray(leaf)), tree
        )

    return place


def agreement(mesh: Mesh) -> Callable[[int], int]:
    """Returns a function of this process's wish that returns what all do.

    Of several processes it is the greatest wish of the call before: it was exchanged beside a step,
    and nobody waits for it.
    """
    if jax.process_count() == 1:
        return lambda wish: wish
    everywhere = NamedSharding(mesh, P(AXES))
    greatest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))
    before: Any = 0

    def agree(wish: int) -> int:
        nonlocal before
        mine = np.full(jax.local_device_count(), wish, np.int32)
        told = greatest(jax.make_array_from_process_local_data(everywhere, mine))
        heard, before = int(before), told
        return heard

    return agree


def all_of(holds: bool) -> bool:
    """Returns whether it holds in every process; all of them must ask."""
    if jax.process_count() == 1:
        return holds
    return bool(np.all(multihost_utils.process_allgather(np.asarray(holds))))
