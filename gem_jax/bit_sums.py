"""Sums of the bits of arrays: what is read back changed has another.

Whole numbers that wrap around: the order, and so the mesh, makes no difference.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gem_jax.paths import flat


def sums(tree: Any) -> jax.Array:
    """Returns the sum of each leaf, in the order of jax.tree.leaves."""
    # Whatever mesh the caller has set.
    with jax.set_mesh(jax.tree.leaves(tree)[0].sharding.mesh):
        return summed(tree)


def sums_by_path(params: dict) -> dict[str, int]:
    """Returns the sum of each parameter by its path; of an empty tree none."""
    leaves = flat(params)
    numbers = np.asarray(sums(leaves)).tolist() if leaves else []
    return dict(zip(sorted(leaves), numbers, strict=True))


@jax.jit
def summed(tree: Any) -> jax.Array:
    """Returns the same as `sums`, for arrays on the mesh that is set."""

    def one(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            width = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
            leaf = jax.lax.bitcast_convert_type(leaf, width)
        return jnp.sum(leaf.astype(jnp.uint32), dtype=jnp.uint32)

    return jnp.stack([one(leaf) for leaf in jax.tree.leaves(tree)])
