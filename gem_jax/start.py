"""What a run starts from: the parts that a checkpoint brings, and those that the recipe names."""

import jax
import jax.numpy as jnp

from gem_jax.config import Config, ConfigError
from gem_jax.models.gem import abstract_batch
from gem_jax.objectives import model_of
from gem_jax.paths import flat


def initial_params(config: Config, start: dict) -> dict:
    """Returns the whole tree: `start`'s parts, and at random those that the recipe names.

    Parts that the objective's model has not are left behind.

    Raises:
        ConfigError: when the start lacks a part that the recipe does not name, the recipe names
            one that the start has, or one has another shape.
    """
    shapes = param_shapes(config)
    lacking = set(shapes) - set(start)
    if lacking != set(config.train.init_parts):
        raise ConfigError(
            f"train.init_parts: got {sorted(config.train.init_parts)}, expected what the start "
            f"lacks: {sorted(lacking)}; give --init or name them in the recipe"
        )
    _raise_if_misfit({part: shapes[part] for part in shapes if part in start}, start)
    made = _made(config) if lacking else {}
    return {part: made[part] if part in lacking else start[part] for part in shapes}


def param_shapes(config: Config) -> dict:
    """Returns the whole tree of the objective's model as shapes and dtypes."""
    batch = abstract_batch(config.model, 1, config.data.length)
    return jax.eval_shape(model_of(config).init, jax.random.key(0), batch)["params"]


def _made(config: Config) -> dict:
    """Returns the whole tree at random, by the recipe's seed."""
    shapes = abstract_batch(config.model, 1, config.data.length)
    batch = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    key = jax.random.key(config.train.seed)
    return jax.jit(model_of(config).init)(key, batch)["params"]


def _raise_if_misfit(shapes: dict, start: dict) -> None:
    expected = flat(shapes)
    brought = flat({part: start[part] for part in shapes})
    wrong = [f"{path} is missing" for path in expected.keys() - brought.keys()]
    wrong += [f"{path} is unknown" for path in brought.keys() - expected.keys()]
    wrong += [
        f"{path} has {brought[path].shape} instead of {leaf.shape}"
        for path, leaf in expected.items()
        if path in brought and brought[path].shape != leaf.shape
    ]
    if wrong:
        raise ConfigError(f"--init: does not fit the recipe's model: {'; '.join(sorted(wrong))}")
