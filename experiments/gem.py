"""GEM at its official size: the paper's single stage, and two stages of ours with LoRA variants.

The paper (arXiv 2503.06073) trains once: language model and both projectors, from LLaVA-1.6 or
PULSE, on 1,156,110 conversations of ECGInstruct and 30,000 of ECG-Grounding. `gem` is that run.
`align` and `finetune` are the two stages that LLaVA takes for a new encoder: the values of `align`
are LLaVA's (arXiv 2310.03744), an alignment stage is not the paper's.

Every recipe reads DATA, a folder with the two official instruction files, the ECGs and the pages,
and starts from a checkpoint that `gem-jax import` made of public weights (ECG: the encoder's file
cpt_wfep_epoch_20.pt; CLIP: the folder of clip-vit-large-patch14-336):

    gem-jax import llava-v1.6-vicuna-7b starts/llava --ecg-encoder ECG
    gem-jax import PULSE-7B starts/pulse --ecg-encoder ECG
    gem-jax import Qwen2-7B starts/qwen2 --ecg-encoder ECG --vision CLIP --template qwen_2

Parameters that move are float32, computed with in bfloat16, and lie on all devices (`fsdp`). Those
that are frozen are held in bfloat16, which they are computed with in anyway: 13.5 GB for a 7B
instead of 27. That keeps what comes in bfloat16 bit for bit and rounds what comes in float16 (3 of
10 bits go) or float32 (16 of 23, such as CLIP's); a language model that rests in `align` or under
adapters goes on rounded. `--train.frozen-dtype float16` keeps the bits of LLaVA weights that lie in
float16, None those of all.
"""

import dataclasses
import math

from gem_jax.config import (
    Config,
    DataConfig,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
    SourceConfig,
    TrainConfig,
)
from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.models.gem import GemConfig
from gem_jax.models.llm import LlmConfig

DATA = "data/gem"
CONVERSATIONS = 1_156_110 + 30_000
# Of LLaVA's alignment, and of ours until there is a reason for another number.
CAPTIONS = 558_128
BATCH = 256
PROJECTORS = ("ecg_projector", "mm_projector")
BFLOAT16 = "bfloat16"


def vicuna_7b() -> GemConfig:
    """GEM on LLaVA-1.6-Vicuna-7B or PULSE-7B, which are of one size."""
    return GemConfig(
        ecg=dataclasses.replace(EcgConfig.coca_vit_b_32(), dtype=BFLOAT16),
        vision=dataclasses.replace(ClipConfig.vit_l_14_336(), dtype=BFLOAT16),
        llm=LlmConfig(
            vocab_size=32_000,
            hidden_dim=4096,
            num_layers=32,
            num_heads=32,
            num_kv_heads=32,
            head_dim=128,
            mlp_dim=11_008,
            rope_theta=10_000.0,
            norm_eps=1e-5,
            remat="full",
            dtype=BFLOAT16,
        ),
        ecg_projector="linear",
        mm_projector="mlp2x_gelu",
        bos_token_id=1,
        eos_token_ids=(2,),
        pad_token_id=0,
        # The original's own reading, whose centre crop takes a wide page's left and right.
        image_mode="ori",
        max_length=4096,
        template="llava_v1",
    )


def qwen2_7b() -> GemConfig:
    """GEM on Qwen2-7B, in ChatML: an answer ends with <|im_end|>, as in Qwen2-7B-Instruct."""
    return dataclasses.replace(
        vicuna_7b(),
        llm=LlmConfig(
            vocab_size=152_064,
            hidden_dim=3584,
            num_layers=28,
            num_heads=28,
            num_kv_heads=4,
            head_dim=128,
            mlp_dim=18_944,
            rope_theta=1_000_000.0,
            norm_eps=1e-6,
            family="qwen2",
            remat="full",
            dtype=BFLOAT16,
        ),
        bos_token_id=151_643,
        eos_token_ids=(151_645, 151_643),
        pad_token_id=151_643,
        template="qwen_2",
    )


def updates(conversations: int, epochs: int = 1) -> int:
    """The updates of `epochs` over so many conversations; what does not fill a batch is left."""
    return conversations * epochs // BATCH


def warmed_up(steps: int, peak: float, **others: tuple) -> OptimizerConfig:
    """AdamW of the paper and of LLaVA: 3 % warm-up, cosine to 0, no weight decay, clipped at 1."""
    return OptimizerConfig(
        learning_rate=peak,
        warmup_steps=math.ceil(0.03 * steps),
        final_fraction=0.0,
        weight_decay=0.0,
        clip_norm=1.0,
        **others,
    )


def gem() -> Config:
    """The paper's single stage; --init starts/llava, of LLaVA-1.6-Vicuna-7B.

    8 devices × 16 rows × 2 accumulated, one epoch. The loss is the mean of the means of these
    sixteen micro-batches of 16 rows, the towers rest, the page and the signal are read as there.
    More than 16 devices: `--train.accumulate 8` and so on, with `--train.loss-weighting token`.
    """
    steps = updates(CONVERSATIONS)
    return Config(
        model=vicuna_7b(),
        data=DataConfig(
            shards="",
            tokenizer="",
            style="full",
            length=4096,
            batch_size=BATCH,
            augment=False,
            seed=42,
            cut="original",
            mixture=tuple(
                SourceConfig(f"{DATA}/{name}.json", ecgs=f"{DATA}/ecgs", images=f"{DATA}/images")
                for name in ("ECGInstruct", "ECG_Grounding_30k")
            ),
            reading="original",
            workers=8,
        ),
        optimizer=warmed_up(steps, 2e-5),
        mesh=MeshConfig(data=1, fsdp=-1),
        train=TrainConfig(
            objective="instruct",
            steps=steps,
            trainable=(*PROJECTORS, "llm"),
            init_parts=("ecg_projector",),
            checkpoint_every=200,
            checkpoint_minutes=30.0,
            seed=42,
            accumulate=16,
            loss_weighting="microbatch",
            frozen_dtype=BFLOAT16,
        ),
    )


def gem_pulse() -> Config:
    """The paper's single stage; --init starts/pulse, of PULSE-7B: nothing else differs."""
    return gem()


def align() -> Config:
    """Our stage 1 (not the paper's): the projectors alone; --init starts/llava.

    The values are those of LLaVA's alignment: peak 1e-3, batch 256, as many steps as its 558,128
    captions make, rows of 2048 tokens. The data are conversations, so the template is stage 2's.
    The page is padded to a square: nothing of it is cut off.
    """
    paper, steps = gem(), updates(CAPTIONS)
    return dataclasses.replace(
        paper,
        model=dataclasses.replace(paper.model, image_mode="pad"),
        data=dataclasses.replace(
            paper.data, length=2048, cut="refuse", reading="ours", max_broken=100
        ),
        optimizer=warmed_up(steps, 1e-3),
        train=dataclasses.replace(
            paper.train, steps=steps, trainable=PROJECTORS, loss_weighting="token"
        ),
    )


def align_pulse() -> Config:
    """Our stage 1; --init starts/pulse, of PULSE-7B."""
    return align()


def align_qwen2() -> Config:
    """Our stage 1; --init starts/qwen2, of Qwen2-7B, which has seen no image: both are new."""
    stage = align()
    return dataclasses.replace(
        stage,
        model=dataclasses.replace(qwen2_7b(), image_mode="pad"),
        train=dataclasses.replace(stage.train, init_parts=PROJECTORS),
    )


def finetune() -> Config:
    """Our stage 2: language model and projectors; --init RUN of `align`.

    The paper's hyperparameters; the loss is the mean over the label tokens of the whole batch.
    """
    paper, first = gem(), align()
    return dataclasses.replace(
        paper,
        model=first.model,
        data=dataclasses.replace(first.data, length=4096),
        train=dataclasses.replace(paper.train, init_parts=(), loss_weighting="token"),
    )


def finetune_vision() -> Config:
    """`finetune` with the image encoder moving too, at LLaVA-1.6's rate for it."""
    stage = finetune()
    return dataclasses.replace(
        stage,
        optimizer=dataclasses.replace(stage.optimizer, learning_rates=(("vision_tower", 2e-6),)),
        train=dataclasses.replace(stage.train, trainable=(*stage.train.trainable, "vision_tower")),
    )


def finetune_qwen2() -> Config:
    """Our stage 2; --init RUN of `align_qwen2`."""
    return dataclasses.replace(finetune(), model=align_qwen2().model)


def lora() -> Config:
    """Stage 2 by adapters of the language model; --init RUN of `align`.

    LLaVA's values: rank 128, alpha 256, 2e-4 for the adapters and 2e-5 for the projectors.
    """
    stage = finetune()
    return dataclasses.replace(
        stage,
        optimizer=warmed_up(
            stage.train.steps, 2e-4, learning_rates=tuple((part, 2e-5) for part in PROJECTORS)
        ),
        train=dataclasses.replace(stage.train, trainable=PROJECTORS),
        lora=LoraConfig(rank=128, alpha=256.0),
    )


def lora_gem() -> Config:
    """The paper's single stage by adapters; --init starts/llava or starts/pulse."""
    stage = lora()
    return dataclasses.replace(
        stage, train=dataclasses.replace(stage.train, init_parts=("ecg_projector",))
    )


def lora_qwen2() -> Config:
    """Stage 2 by adapters; --init RUN of `align_qwen2`."""
    return dataclasses.replace(lora(), model=align_qwen2().model)
