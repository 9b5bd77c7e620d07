"""AdamW with clipping and a warm-up–cosine schedule, over the parameters that move.

Frozen parameters get no gradient and no optimizer state: the tree is split by path first, and only
the trainable half is differentiated (`optax.masked` would pass raw gradients through).
"""

import optax

from gem_jax.config import ConfigError, OptimizerConfig

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
    """Returns clip → AdamW with the schedule of `steps` updates."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            schedule(config, steps),
            config.b1,
            config.b2,
            config.eps,
            weight_decay=config.weight_decay,
        ),
    )


def split(params: dict, trainable: tuple[str, ...]) -> tuple[dict, dict]:
    """Returns (moving, frozen) halves of the tree by its top-level parts.

    ConfigError when a name of `trainable` is no part of the tree.
    """
    unknown = sorted(set(trainable) - set(params))
    if unknown:
        raise ConfigError(f"train.trainable: got {unknown}, expected parts of {sorted(params)}")
    moving = {part: tree for part, tree in params.items() if part in trainable}
    return moving, {part: tree for part, tree in params.items() if part not in trainable}


def merge(moving: dict, frozen: dict) -> dict:
    """Returns the whole tree of the two halves that `split` made."""
    return {**moving, **frozen}
