"""The tiny GEM that `gem-jax demo` trains on the sample records, stage by stage, on a CPU.

Every part of the real model is there, about half a million parameters in all. Stage 0 stands in
for the pretrained encoders and language model that GEM starts from and that cannot be shipped;
stages 1 and 2 are GEM's own: alignment moves the projectors alone, instruction tuning the language
model with them.

`shrink` makes a recipe of any size one that runs on the demo's data in seconds.
"""

import dataclasses
from pathlib import Path
from typing import Any

from gem_jax.config import (
    Config,
    DataConfig,
    MeshConfig,
    OptimizerConfig,
    SourceConfig,
    TrainConfig,
)
from gem_jax.media import max_features
from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.models.gem import GemConfig
from gem_jax.models.llm import LlmConfig

DATA = "runs/demo/data"
TOKENIZER = "runs/demo/tokenizer"
VOCAB_SIZE = 512
# An ECG and its page (76 tokens), the question, and an answer in the brief style with some room.
LENGTH = 156
MAX_LENGTH = 164
TEXT_LENGTH = 84


def model() -> GemConfig:
    """The tiny GEM: 51 tokens of the ECG (200 ms each and the class token), 25 of the page."""
    return GemConfig(
        ecg=EcgConfig(
            seq_length=5000,
            num_leads=12,
            patch_size=100,
            width=64,
            num_layers=3,
            head_dim=16,
            mlp_ratio=3.0,
            embed_dim=32,
        ),
        vision=ClipConfig(
            image_size=80,
            patch_size=16,
            hidden_dim=32,
            num_layers=2,
            num_heads=2,
            mlp_dim=64,
        ),
        llm=LlmConfig(
            vocab_size=VOCAB_SIZE,
            hidden_dim=80,
            num_layers=3,
            num_heads=2,
            num_kv_heads=2,
            head_dim=40,
            mlp_dim=208,
            rope_theta=10_000.0,
            norm_eps=1e-5,
            tie_embeddings=True,
        ),
        ecg_projector="linear",
        mm_projector="mlp2x_gelu",
        bos_token_id=1,
        eos_token_ids=(2,),
        pad_token_id=0,
        image_mode="pad",
        max_length=MAX_LENGTH,
        template="bare",
    )


def data(length: int, seed: int) -> DataConfig:
    """Augmented sample records, answered in the brief style."""
    return DataConfig(
        shards=DATA,
        tokenizer=TOKENIZER,
        style="brief",
        length=length,
        batch_size=16,
        augment=True,
        seed=seed,
    )


def pretrain() -> Config:
    """Stage 0: dense targets for the ECG encoder, texts for the language model."""
    return Config(
        model=model(),
        data=data(TEXT_LENGTH, seed=0),
        optimizer=OptimizerConfig(
            learning_rate=2e-3,
            warmup_steps=50,
            final_fraction=0.1,
            weight_decay=0.01,
            clip_norm=1.0,
        ),
        mesh=MeshConfig(),
        train=TrainConfig(
            objective="pretrain",
            steps=500,
            trainable=("ecg_tower", "llm", "dense_head"),
            init_parts=("ecg_tower", "llm", "dense_head"),
            checkpoint_every=100,
            seed=0,
        ),
    )


def align() -> Config:
    """Stage 1: the projectors learn to speak to the language model; nothing else moves."""
    return Config(
        model=model(),
        data=data(LENGTH, seed=1),
        optimizer=OptimizerConfig(
            learning_rate=3e-3,
            warmup_steps=20,
            final_fraction=0.3,
            weight_decay=0.0,
            clip_norm=1.0,
        ),
        mesh=MeshConfig(),
        train=TrainConfig(
            objective="instruct",
            steps=60,
            trainable=("ecg_projector", "mm_projector"),
            init_parts=("vision_tower", "ecg_projector", "mm_projector"),
            checkpoint_every=100,
            seed=1,
        ),
    )


def finetune() -> Config:
    """Stage 2: instruction tuning of the language model and the projectors; the towers rest."""
    return Config(
        model=model(),
        data=data(LENGTH, seed=2),
        optimizer=OptimizerConfig(
            learning_rate=2e-3,
            warmup_steps=30,
            final_fraction=0.05,
            weight_decay=0.01,
            clip_norm=1.0,
        ),
        mesh=MeshConfig(),
        train=TrainConfig(
            objective="instruct",
            steps=700,
            trainable=("ecg_projector", "mm_projector", "llm"),
            init_parts=(),
            checkpoint_every=100,
            seed=2,
        ),
    )


def shrink(config: Config) -> Config:
    """Returns the recipe at the demo's sizes, for two steps from random parameters.

    What a recipe decides stays: the family of its language model, how a page is cut and merged,
    dtypes, recomputation, what moves at which rate, adapters, accumulation, the mesh's kind.
    Data, tokenizer and template are the demo's.
    """
    small = shrunk_model(config.model)
    data, train, lora = config.data, config.train, config.lora
    room = 0 if train.objective == "pretrain" else max_features(small)
    return dataclasses.replace(
        config,
        model=small,
        data=dataclasses.replace(
            data,
            shards=DATA if data.shards else "",
            mixture=tuple(_demos(source) for source in data.mixture),
            held_out=tuple(_demos(source) for source in data.held_out),
            tokenizer=TOKENIZER,
            style="brief",
            length=room + TEXT_LENGTH,
            batch_size=16,
            workers=0,
        ),
        optimizer=dataclasses.replace(config.optimizer, warmup_steps=1),
        train=dataclasses.replace(
            train,
            steps=2,
            init_parts=parts(small, train.objective),
            checkpoint_every=2,
            accumulate=min(train.accumulate, 2),
        ),
        lora=None if lora is None else dataclasses.replace(lora, rank=4, alpha=8.0),
    )


def shrunk_model(official: GemConfig) -> GemConfig:
    """The same kind of model at the demo's sizes, with the demo's tokens."""
    demo = model()
    small = dataclasses.replace(
        demo,
        ecg=_resized(official.ecg, demo.ecg),
        vision=_resized(official.vision, demo.vision),
        llm=dataclasses.replace(
            _resized(official.llm, demo.llm),
            family=official.llm.family,
            num_kv_heads=1 if official.llm.num_kv_heads < official.llm.num_heads else 2,
            tie_embeddings=official.llm.tie_embeddings,
            remat=official.llm.remat,
        ),
        ecg_projector=official.ecg_projector,
        mm_projector=official.mm_projector,
        image_mode=official.image_mode,
        patch_merge=official.patch_merge,
        grid_pinpoints=_canvases(official, demo),
        image_newline=official.image_newline,
        padding_side=official.padding_side,
    )
    return dataclasses.replace(small, max_length=max_features(small) + MAX_LENGTH)


def _resized(official: Any, demo: Any) -> Any:
    """The demo's part with the official one's dtypes; None where there is none."""
    if official is None:
        return None
    return dataclasses.replace(demo, dtype=official.dtype, param_dtype=official.param_dtype)


def _canvases(official: GemConfig, demo: GemConfig) -> tuple[tuple[int, int], ...]:
    """The official canvases in tiles of the demo's size."""
    if official.vision is None or demo.vision is None:
        return ()
    tile, small = official.vision.image_size, demo.vision.image_size
    return tuple(
        (width // tile * small, height // tile * small) for width, height in official.grid_pinpoints
    )


def _demos(source: SourceConfig) -> SourceConfig:
    """The demo's shards in a source's place, under its name and with its weight."""
    task = source.task or Path(source.path).stem
    return SourceConfig(DATA, weight=source.weight, split=source.split, task=task)


def parts(model: GemConfig, objective: str) -> tuple[str, ...]:
    """The top-level parts of the model that the objective trains."""
    if objective == "pretrain":
        return ("ecg_tower", "llm", "dense_head")
    ecg = ("ecg_tower", "ecg_projector") if model.ecg else ()
    vision = ("vision_tower", "mm_projector") if model.vision else ()
    return (*ecg, *vision, *(("image_newline",) if model.image_newline else ()), "llm")
