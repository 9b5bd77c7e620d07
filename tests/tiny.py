"""The smallest GEM that has every part, its recipes, and random batches for it."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gem_jax.config import Config, DataConfig, MeshConfig, OptimizerConfig, TrainConfig
from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.models.gem import Batch, GemConfig
from gem_jax.models.llm import LlmConfig
from gem_jax.models.pretrain import DenseTargets
from gem_jax.objectives import counts_of, sums_of
from gem_jax.paths import flat, nested
from gem_jax.start import param_shapes

MODEL = GemConfig(
    ecg=EcgConfig(1000, 12, 100, 16, 1, 8, 2.0, 8),
    vision=ClipConfig(32, 16, 16, 1, 2, 32, select_layer=-1),
    llm=LlmConfig(400, 32, 1, 4, 2, 8, 48, 10_000.0, 1e-5, tie_embeddings=True),
    ecg_projector="linear",
    mm_projector="mlp2x_gelu",
    bos_token_id=1,
    eos_token_ids=(2,),
    pad_token_id=0,
    image_mode="pad",
    max_length=176,
    template="bare",
)
MEDIA = MODEL.num_media_tokens
LENGTH = 160


def instruct() -> Config:
    """A recipe of stage 2; a test names the folders of shards and tokenizer."""
    return Config(
        model=MODEL,
        data=DataConfig("", "", "brief", LENGTH, batch_size=8, augment=True, seed=3),
        optimizer=OptimizerConfig(3e-3, 2, 0.1, weight_decay=0.1, clip_norm=1.0),
        mesh=MeshConfig(),
        train=TrainConfig(
            objective="instruct",
            steps=12,
            trainable=("ecg_projector", "mm_projector", "llm"),
            init_parts=("ecg_tower", "vision_tower", "ecg_projector", "mm_projector", "llm"),
            checkpoint_every=4,
            seed=5,
        ),
    )


def pretrain() -> Config:
    """A recipe of stage 0."""
    parts = ("ecg_tower", "llm", "dense_head")
    train = {"objective": "pretrain", "trainable": parts, "init_parts": parts, "steps": 3}
    return changed(instruct(), train=train)


def changed(config: Config, **sections: dict[str, Any]) -> Config:
    """Returns the recipe with fields of some sections replaced."""
    parts = {
        name: dataclasses.replace(getattr(config, name), **fields)
        for name, fields in sections.items()
    }
    return dataclasses.replace(config, **parts)


def on(prepared: Path, config: Config) -> Config:
    """Returns the recipe with the shards and the tokenizer in `prepared`."""
    folders = {"shards": str(prepared / "shards"), "tokenizer": str(prepared / "tokenizer")}
    return changed(config, data=folders)


def batch(rows: int = 2, length: int = 40, seed: int = 0) -> Batch:
    """Returns random rows: begin, the media, then text; each with padding of its own length."""
    rng = np.random.default_rng(seed)
    vocab_size, size = MODEL.llm.vocab_size, MODEL.vision.image_size
    media = np.full(length, -1)
    media[1 : 1 + MEDIA] = np.arange(MEDIA)
    lengths = rng.integers(MEDIA + 10, length, rows)
    real = np.arange(length) < lengths[:, None]
    tokens = np.where(real, rng.integers(3, vocab_size, (rows, length)), 0)
    return Batch(
        tokens=tokens.astype(np.int32),
        positions=np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
        segments=real.astype(np.int32),
        media_index=np.tile(media.astype(np.int32), (rows, 1)),
        targets=np.roll(tokens, -1, axis=1).astype(np.int32),
        loss_mask=real & (np.arange(length) > MEDIA + 4) & np.roll(real, -1, axis=1),
        ecg=rng.normal(size=(rows, 1, 12, MODEL.ecg.seq_length)).astype(np.float32),
        image=rng.normal(size=(rows, 1, size, size, 3)).astype(np.float32),
    )


def dense(rows: int = 2, seed: int = 0) -> DenseTargets:
    """Returns random dense targets, a part of them not measured."""
    rng = np.random.default_rng(seed)
    shape = (rows, MODEL.ecg.num_tokens - 1, MODEL.ecg.num_leads, 3)
    qrs = np.where(rng.random(shape) < 0.7, np.nan, rng.normal(size=shape))
    return DenseTargets(
        waves=rng.random(shape) < 0.3,
        qrs=qrs.astype(np.float32),
        summary=rng.normal(size=(rows, 6)).astype(np.float32),
    )


def mean_loss(
    config: Config, params: dict, batch: Batch, dense: DenseTargets | None = None
) -> jax.Array:
    """Returns the loss of a batch: each part's mean, added up."""
    sums, counts = sums_of(config, params, batch, dense), counts_of(config, batch, dense)
    return jnp.stack([sums.parts[name] / counts[name] for name in counts]).sum()


@functools.cache
def params(stage_0: bool = False) -> dict:
    """Returns parameters of the tiny GEM, or of its stage 0."""
    return drawn(param_shapes(pretrain() if stage_0 else instruct()))


def drawn(shapes: dict, seed: int = 0) -> dict:
    """Returns a tree of these shapes, drawn by numpy: compiling an initialiser takes seconds."""
    rng = np.random.default_rng(seed)
    made = {}
    for path, leaf in flat(shapes).items():
        wide = leaf.shape[-2] if len(leaf.shape) > 1 else 25
        values = rng.normal(0.0, wide**-0.5, leaf.shape) + path.endswith("scale")
        made[path] = jnp.asarray(values, leaf.dtype)
    return nested(made)
