"""What a run starts from: the parts that a checkpoint brings, and those that the recipe names."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gem_jax import checkpoint, sharding
from gem_jax.checkpoint import Located
from gem_jax.config import Config, ConfigError
from gem_jax.lora import is_factor, require_targets
from gem_jax.models.gem import abstract_batch
from gem_jax.objectives import model_of
from gem_jax.optimizer import merge, split
from gem_jax.orbax_leaves import Shapes
from gem_jax.paths import flat, nested, part_of

# The axis of the vocabulary, in the tables that have one.
VOCABULARY = {"llm/embed_tokens/embedding": 0, "llm/lm_head/kernel": 1}


def placed_params(config: Config, start: Located | None, mesh: Mesh) -> dict:
    """Returns the whole tree before the first step, on the mesh and in the recipe's dtypes.

    Each device reads and makes its own shards alone. ConfigError as of `initial_params`.
    """
    if start is None:
        return initial_params(config, {}, mesh)
    shapes, saved = flat(param_shapes(config)), checkpoint.saved_shapes(start)
    _raise_if_misfit(config, shapes, saved)
    wanted = nested({path: leaf for path, leaf in saved.items() if path in shapes})
    where = flat(sharding.param_shardings(mesh, wanted))
    placed = {
        path: jax.ShapeDtypeStruct(leaf.shape, shapes[path].dtype, sharding=where[path])
        for path, leaf in flat(wanted).items()
    }
    return initial_params(config, nested(checkpoint.load_onto(start, placed)), mesh)


def initial_params(config: Config, start: dict, mesh: Mesh | None = None) -> dict:
    """Returns the whole tree: `start`'s parts, and at random those that the recipe names.

    Parts that the objective's model has not are left behind. New adapters are made at random too,
    and with `train.grow_vocab` the rows that the start's vocabulary lacks are the mean of its own.

    Raises:
        ConfigError: when the start lacks a part that the recipe does not name, the recipe names
            one that the start has, or one has another shape.
    """
    shapes, brought = flat(param_shapes(config)), flat(start)
    _raise_if_misfit(config, shapes, brought)
    where = None if mesh is None else flat(sharding.param_shardings(mesh, nested(shapes)))
    new = {path: leaf for path, leaf in shapes.items() if path not in brought}
    made = _made(config, new, where)
    for path, axis in VOCABULARY.items():
        if path in brought and path in shapes and brought[path].shape != shapes[path].shape:
            placed = where and where[path]
            brought[path] = grown(brought[path], axis, shapes[path].shape[axis], placed)
    return nested(
        {
            path: made[path] if path in made else brought[path].astype(leaf.dtype)
            for path, leaf in shapes.items()
        }
    )


def param_shapes(config: Config) -> dict:
    """Returns the whole tree of the objective's model as shapes and dtypes.

    What moves has the model's dtypes, what is frozen `train.frozen_dtype`.
    """
    batch = abstract_batch(config.model, 1, config.data.length)
    shapes = jax.eval_shape(model_of(config).init, jax.random.key(0), batch)["params"]
    require_targets(flat(shapes), config.lora)
    moving, frozen = split(shapes, config.train.trainable)
    return merge(moving, jax.tree.map(lambda leaf: _held(leaf, config.train.frozen_dtype), frozen))


def _held(leaf: jax.ShapeDtypeStruct, dtype: str | None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype)


def grown(table: jax.Array, axis: int, size: int, where: Any = None) -> jax.Array:
    """Returns the table with `size` entries along `axis`: the new ones are the mean of the old."""

    def grow(old: jax.Array) -> jax.Array:
        mean = jnp.mean(old, axis, jnp.float32, keepdims=True).astype(old.dtype)
        return jnp.concatenate([old, jnp.repeat(mean, size - old.shape[axis], axis)], axis)

    return jax.jit(grow, out_shardings=where)(table)


def _made(config: Config, new: Shapes, where: dict[str, Any] | None) -> dict[str, Any]:
    """Returns the parameters `new` at random, by the recipe's seed: on any mesh the same."""
    if not new:
        return {}
    shapes = abstract_batch(config.model, 1, config.data.length)

    def make(key: jax.Array) -> dict[str, Any]:
        batch = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        made = flat(model_of(config).init(key, batch)["params"])
        return {path: made[path].astype(leaf.dtype) for path, leaf in new.items()}

    placed = None if where is None else {path: where[path] for path in new}
    return jax.jit(make, out_shardings=placed)(jax.random.key(config.train.seed))


def _raise_if_misfit(config: Config, shapes: dict[str, Any], brought: dict[str, Any]) -> None:
    """Raises ConfigError unless the start and the recipe's `init_parts` make up the model."""
    base = {path: leaf for path, leaf in shapes.items() if not is_factor(path)}
    parts = {part_of(path) for path in brought}
    lacking = {part_of(path) for path in base} - parts
    if lacking != set(config.train.init_parts):
        named = f"say --train.init-parts {' '.join(sorted(lacking)) or 'with nothing behind it'}"
        cure = named if brought else f"give --init CKPT, or, to begin at random, {named}"
        raise ConfigError(
            f"train.init_parts: got {sorted(config.train.init_parts)}, expected what the start "
            f"lacks: {sorted(lacking)}; {cure}"
        )
    known = {part_of(path) for path in shapes}
    found = {path: leaf.shape for path, leaf in brought.items() if part_of(path) in known}
    expected = {path: leaf.shape for path, leaf in shapes.items()}
    wrong = [f"{path} is missing" for path in base if path not in found and part_of(path) in parts]
    wrong += [f"{path} is unknown" for path in found.keys() - expected.keys()]
    wrong += [
        f"{path} has {found[path]} instead of {expected[path]}{_cure(config, path, found[path])}"
        for path in found.keys() & expected.keys()
        if found[path] != expected[path] and not _may_grow(config, path, found[path])
    ]
    if wrong:
        raise ConfigError(f"--init: does not fit the recipe's model: {'; '.join(sorted(wrong))}")


def _may_grow(config: Config, path: str, shape: tuple[int, ...]) -> bool:
    return config.train.grow_vocab and _smaller(config, path, shape)


def _smaller(config: Config, path: str, shape: tuple[int, ...]) -> bool:
    """Returns whether it is the model's table with fewer entries."""
    llm, axis = config.model.llm, VOCABULARY.get(path)
    return axis is not None and shape[axis] < llm.vocab_size and shape[1 - axis] == llm.hidden_dim


def _cure(config: Config, path: str, shape: tuple[int, ...]) -> str:
    return " (train.grow_vocab adds rows)" if _smaller(config, path, shape) else ""
