"""AdamW with clipping and a warm-up–cosine schedule, over the parameters that move.

Frozen parameters get no gradient and no optimizer state: the tree is split by path first, and only
the trainable half is differentiated (`optax.masked` would pass raw gradients through).
"""

from typing import Any

import jax
import optax

from gem_jax.config import ConfigError, OptimizerConfig
from gem_jax.lora import is_factor
from gem_jax.paths import flat, is_under, nested

PARTS = (
    *("ecg_tower", "vision_tower", "ecg_projector", "mm_projector", "image_newline", "llm"),
    "dense_head",
)


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Returns step → learning rate: 0 to the peak in `warmup_steps`, cosine to the end."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if config.warmup_steps else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=max(steps, config.warmup_steps + 1),
        end_value=config.final_fraction * config.learning_rate,
    )


def optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Returns clip → AdamW with the schedule of `steps` updates, each set at its own rate.

    Norms and biases do not decay, as in the original.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            schedule(config, steps),
            config.b1,
            config.b2,
            config.eps,
            weight_decay=config.weight_decay,
            mask=_decays,
        ),
        *([_own_rates(config)] if config.learning_rates else []),
    )


def _decays(params: dict) -> dict:
    names = ("scale", "bias")
    return jax.tree.map_with_path(lambda keys, _: keys[-1].key not in names, params)


def _own_rates(config: OptimizerConfig) -> optax.GradientTransformation:
    """Returns what scales a set's updates by its own rate over the usual one.

    Of the prefixes that hold for a parameter the longest counts. ConfigError at `init` when one
    leads to nothing that moves.
    """
    rates = dict(config.learning_rates)

    def init(params: dict) -> optax.EmptyState:
        paths = flat(params)
        unknown = [name for name in rates if not any(is_under(path, name) for path in paths)]
        if unknown:
            raise ConfigError(
                f"optimizer.learning_rates: got {unknown}, expected paths of what moves, which "
                f"lies in {sorted(params)}; see train.trainable"
            )
        return optax.EmptyState()

    def update(updates: dict, state: optax.EmptyState, params: Any = None) -> Any:
        def scaled(path: str, leaf: jax.Array) -> jax.Array:
            own = max((name for name in rates if is_under(path, name)), key=len, default=None)
            return leaf if own is None else leaf * (rates[own] / config.learning_rate)

        return nested({path: scaled(path, leaf) for path, leaf in flat(updates).items()}), state

    return optax.GradientTransformation(init, update)


def split(params: dict, trainable: tuple[str, ...]) -> tuple[dict, dict]:
    """Returns (moving, frozen): LoRA's factors and what lies under `trainable`; the rest.

    ConfigError when a path of `trainable`, of whole components, leads nowhere.
    """
    leaves = flat(params)
    unknown = sorted(name for name in trainable if not any(is_under(path, name) for path in leaves))
    if unknown:
        raise ConfigError(f"train.trainable: got {unknown}, expected parts of {sorted(params)}")
    moving = {
        path: leaf
        for path, leaf in leaves.items()
        if is_factor(path) or any(is_under(path, name) for name in trainable)
    }
    frozen = {path: leaf for path, leaf in leaves.items() if path not in moving}
    return nested(moving), nested(frozen)


def merge(moving: dict, frozen: dict) -> dict:
    """Returns the whole tree of the two halves that `split` made."""
    return nested(flat(moving) | flat(frozen))
