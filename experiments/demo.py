"""The tiny GEM that `gem-jax demo` trains on the sample records, stage by stage, on a CPU.

Every part of the real model is there, about half a million parameters in all. Stage 0 stands in
for the pretrained encoders and language model that GEM starts from and that cannot be shipped;
stages 1 and 2 are GEM's own: alignment moves the projectors alone, instruction tuning the language
model with them.
"""

from gem_jax.config import Config, DataConfig, MeshConfig, OptimizerConfig, TrainConfig
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
