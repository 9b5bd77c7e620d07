"""Our parameters, or their gradients, by the original's names."""

from __future__ import annotations

from typing import Any

import numpy as np

from gem_jax.models.gem import GemConfig
from gem_jax.paths import flat
from gem_jax.weights.names import gem_slots


def official(config: GemConfig, tree: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns the tensors of a tree, whole or a part, by official name, with the official axes."""
    paths = flat(tree)
    made = {}
    for name, slot in gem_slots(config).items():
        if slot.path in paths:
            ours = paths[slot.path] if slot.layer is None else paths[slot.path][slot.layer]
            made[name] = np.asarray(ours)
            if slot.axes is not None:
                made[name] = made[name].transpose(np.argsort(slot.axes))
    return made


def apart(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns by name the norm of the difference over the norm of the original's."""
    assert ours.keys() == theirs.keys()
    return {name: norm(ours[name] - theirs[name]) / norm(theirs[name]) for name in theirs}


def norm(values: np.ndarray) -> float:
    """Returns the Euclidean norm, computed in float64."""
    return float(np.linalg.norm(values.astype(np.float64)))
