"""What both sides of benchmarks/train_step.py are given: sizes, recipe, weights, batch, prompts."""

import dataclasses
from dataclasses import dataclass

import jax
import numpy as np

from gem_jax.config import Config, DataConfig, MeshConfig, OptimizerConfig, TrainConfig
from gem_jax.models.gem import Batch, GemConfig, abstract_params
from gem_jax.models.llm import LlmConfig
from gem_jax.paths import flat, nested

VOCAB_SIZE = 8192
HEAD_DIM = 64
WARM_UP = 2
RATE = 1e-4


@dataclass(frozen=True)
class Shape:
    """A language model and the rows that it is trained on and asked with."""

    hidden: int
    layers: int
    mlp: int
    rows: int
    length: int
    steps: int
    """Measured, after the first two."""
    new_tokens: int
    """Of an answer to each row's first half."""


SHAPES = {
    "256x6": Shape(256, 6, 688, rows=4, length=512, steps=10, new_tokens=128),
    "768x12": Shape(768, 12, 2048, rows=2, length=512, steps=6, new_tokens=128),
    "tiny": Shape(64, 2, 172, rows=2, length=32, steps=2, new_tokens=8),
}
# Of a GEM on a card: rows of its training, with ECG and page.
CARD_ROWS, CARD_LENGTH, CARD_STEPS = 8, 1536, 8


def recipe(shape: Shape) -> Config:
    """Returns the shape's language model as a recipe that trains all of it, in float32."""
    llm = LlmConfig(
        vocab_size=VOCAB_SIZE,
        hidden_dim=shape.hidden,
        num_layers=shape.layers,
        num_heads=shape.hidden // HEAD_DIM,
        num_kv_heads=shape.hidden // HEAD_DIM,
        head_dim=HEAD_DIM,
        mlp_dim=shape.mlp,
        rope_theta=10_000.0,
        norm_eps=1e-5,
        remat="dots",
    )
    return Config(
        model=GemConfig(
            *(None, None, llm, "identity", "identity", 1, (2,), 0),
            image_mode="pad",
            max_length=shape.length,
        ),
        data=DataConfig(
            shards="",
            tokenizer="",
            style="full",
            length=shape.length,
            batch_size=shape.rows,
            augment=False,
            seed=0,
        ),
        optimizer=OptimizerConfig(RATE, 0, 1.0, weight_decay=0.0, clip_norm=1.0),
        mesh=MeshConfig(),
        train=TrainConfig(
            objective="instruct",
            steps=WARM_UP + shape.steps,
            trainable=("llm",),
            init_parts=("llm",),
            checkpoint_every=10**6,
            seed=0,
        ),
    )


def weights(config: Config) -> dict[str, np.ndarray]:
    """Returns {path: array} of the model, the same for both sides."""
    rng = np.random.default_rng(0)
    return {
        path: np.ones(leaf.shape, np.float32)
        if path.endswith("scale")
        else rng.normal(0.0, 0.02, leaf.shape).astype(np.float32)
        for path, leaf in flat(abstract_params(config.model)).items()
    }


def tokens(shape: Shape) -> np.ndarray:
    """Returns random tokens (B, T + 1): a row and the target of its last token."""
    rng = np.random.default_rng(1)
    return rng.integers(3, VOCAB_SIZE, (shape.rows, shape.length + 1), dtype=np.int32)


def text_batch(rows: np.ndarray) -> Batch:
    """Returns rows without media, each token of which carries loss."""
    read, targets = rows[:, :-1], rows[:, 1:]
    return Batch(
        tokens=read,
        positions=np.broadcast_to(np.arange(read.shape[1], dtype=np.int32), read.shape).copy(),
        segments=np.ones_like(read),
        media_index=np.full_like(read, -1),
        targets=targets.copy(),
        loss_mask=np.ones(read.shape, bool),
        ecg=None,
        image=None,
    )


def card_recipe(kind: str) -> Config:
    """Returns GEM on Vicuna-7B for one card: `full` or `lora`, from random parameters."""
    from experiments import gem

    config = {"full": gem.finetune, "lora": gem.lora}[kind]()
    data = dataclasses.replace(config.data, length=CARD_LENGTH, batch_size=CARD_ROWS, workers=0)
    parts = ("ecg_tower", "vision_tower", "ecg_projector", "mm_projector", "llm")
    train = dataclasses.replace(
        config.train, steps=WARM_UP + CARD_STEPS, init_parts=parts, accumulate=1
    )
    return dataclasses.replace(config, data=data, train=train)


def card_batch(config: Config) -> Batch:
    """Returns full rows, each with an ECG and a page before its text; its last half is learnt."""
    model, rows, length = config.model, config.data.batch_size, config.data.length
    assert model.ecg and model.vision
    drawn = np.random.default_rng(1).integers(3, model.llm.vocab_size, (rows, length + 1), np.int32)
    media = np.full(length, -1, np.int32)
    media[1 : 1 + model.num_media_tokens] = np.arange(model.num_media_tokens)
    text, side = text_batch(drawn), model.vision.image_size
    rng = np.random.default_rng(2)
    return text.replace(
        media_index=np.tile(media, (rows, 1)),
        loss_mask=np.tile(np.arange(length) >= length // 2, (rows, 1)),
        ecg=rng.normal(size=(rows, 1, 12, model.ecg.seq_length)).astype(np.float32),
        image=rng.normal(size=(rows, 1, side, side, 3)).astype(np.float32),
    )


def tree(paths: dict[str, np.ndarray]) -> dict:
    """Returns the parameters on the device."""
    return jax.tree.map(jax.numpy.asarray, nested(paths))
