"""Official tensor names → our parameter paths: one table a tower, read forwards and backwards.

Layers are stacked on axis 0 of ours, at `{}`. A torch weight stands with its output axis first and
ours with it last, so a row gives the order in which our tensor takes the official axes. Rows stand
in the order of the original's state dict: it decides which shard a tensor is written to.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from gem_jax.models.clip import ClipConfig
from gem_jax.models.ecg import EcgConfig
from gem_jax.models.gem import GemConfig
from gem_jax.models.layers import projector_depth
from gem_jax.models.llm import LlmConfig

Axes = tuple[int, ...] | None
Table = dict[str, tuple[str, Axes]]

SAME: Axes = None
DENSE: Axes = (1, 0)  # (out, in) → (in, out)
CONV_1D: Axes = (2, 1, 0)  # (out, leads, samples) → (samples, leads, out)
CONV_2D: Axes = (2, 3, 1, 0)  # (out, colours, rows, columns) → (rows, columns, colours, out)

ECG_PREFIX = "model.ecg_tower.ecg_tower."
VISION_PREFIX = "model.vision_tower.vision_tower."

ECG: Table = {
    "class_embedding": ("class_embedding", SAME),
    "positional_embedding": ("positional_embedding", SAME),
    # A bare parameter that the original multiplies from the right: no torch Linear, no transpose.
    "proj": ("proj/kernel", SAME),
    "conv1.weight": ("conv1/kernel", CONV_1D),
    "ln_pre.weight": ("ln_pre/scale", SAME),
    "ln_pre.bias": ("ln_pre/bias", SAME),
    "transformer.resblocks.{}.ln_1.weight": ("blocks/ln_1/scale", SAME),
    "transformer.resblocks.{}.ln_1.bias": ("blocks/ln_1/bias", SAME),
    "transformer.resblocks.{}.attn.in_proj_weight": ("blocks/in_proj/kernel", DENSE),
    "transformer.resblocks.{}.attn.in_proj_bias": ("blocks/in_proj/bias", SAME),
    "transformer.resblocks.{}.attn.out_proj.weight": ("blocks/out_proj/kernel", DENSE),
    "transformer.resblocks.{}.attn.out_proj.bias": ("blocks/out_proj/bias", SAME),
    "transformer.resblocks.{}.ln_2.weight": ("blocks/ln_2/scale", SAME),
    "transformer.resblocks.{}.ln_2.bias": ("blocks/ln_2/bias", SAME),
    "transformer.resblocks.{}.mlp.c_fc.weight": ("blocks/c_fc/kernel", DENSE),
    "transformer.resblocks.{}.mlp.c_fc.bias": ("blocks/c_fc/bias", SAME),
    "transformer.resblocks.{}.mlp.c_proj.weight": ("blocks/c_proj/kernel", DENSE),
    "transformer.resblocks.{}.mlp.c_proj.bias": ("blocks/c_proj/bias", SAME),
    "ln_post.weight": ("ln_post/scale", SAME),
    "ln_post.bias": ("ln_post/bias", SAME),
}

VISION: Table = {
    "vision_model.embeddings.class_embedding": ("class_embedding", SAME),
    "vision_model.embeddings.patch_embedding.weight": ("patch_embedding/kernel", CONV_2D),
    "vision_model.embeddings.position_embedding.weight": ("position_embedding", SAME),
    "vision_model.pre_layrnorm.weight": ("pre_layrnorm/scale", SAME),
    "vision_model.pre_layrnorm.bias": ("pre_layrnorm/bias", SAME),
    "vision_model.encoder.layers.{}.self_attn.k_proj.weight": ("layers/k_proj/kernel", DENSE),
    "vision_model.encoder.layers.{}.self_attn.k_proj.bias": ("layers/k_proj/bias", SAME),
    "vision_model.encoder.layers.{}.self_attn.v_proj.weight": ("layers/v_proj/kernel", DENSE),
    "vision_model.encoder.layers.{}.self_attn.v_proj.bias": ("layers/v_proj/bias", SAME),
    "vision_model.encoder.layers.{}.self_attn.q_proj.weight": ("layers/q_proj/kernel", DENSE),
    "vision_model.encoder.layers.{}.self_attn.q_proj.bias": ("layers/q_proj/bias", SAME),
    "vision_model.encoder.layers.{}.self_attn.out_proj.weight": ("layers/out_proj/kernel", DENSE),
    "vision_model.encoder.layers.{}.self_attn.out_proj.bias": ("layers/out_proj/bias", SAME),
    "vision_model.encoder.layers.{}.layer_norm1.weight": ("layers/layer_norm1/scale", SAME),
    "vision_model.encoder.layers.{}.layer_norm1.bias": ("layers/layer_norm1/bias", SAME),
    "vision_model.encoder.layers.{}.mlp.fc1.weight": ("layers/fc1/kernel", DENSE),
    "vision_model.encoder.layers.{}.mlp.fc1.bias": ("layers/fc1/bias", SAME),
    "vision_model.encoder.layers.{}.mlp.fc2.weight": ("layers/fc2/kernel", DENSE),
    "vision_model.encoder.layers.{}.mlp.fc2.bias": ("layers/fc2/bias", SAME),
    "vision_model.encoder.layers.{}.layer_norm2.weight": ("layers/layer_norm2/scale", SAME),
    "vision_model.encoder.layers.{}.layer_norm2.bias": ("layers/layer_norm2/bias", SAME),
    "vision_model.post_layernorm.weight": ("post_layernorm/scale", SAME),
    "vision_model.post_layernorm.bias": ("post_layernorm/bias", SAME),
}

LLM: Table = {
    "model.embed_tokens.weight": ("embed_tokens/embedding", SAME),
    "model.layers.{}.self_attn.q_proj.weight": ("layers/self_attn/q_proj/kernel", DENSE),
    "model.layers.{}.self_attn.q_proj.bias": ("layers/self_attn/q_proj/bias", SAME),
    "model.layers.{}.self_attn.k_proj.weight": ("layers/self_attn/k_proj/kernel", DENSE),
    "model.layers.{}.self_attn.k_proj.bias": ("layers/self_attn/k_proj/bias", SAME),
    "model.layers.{}.self_attn.v_proj.weight": ("layers/self_attn/v_proj/kernel", DENSE),
    "model.layers.{}.self_attn.v_proj.bias": ("layers/self_attn/v_proj/bias", SAME),
    "model.layers.{}.self_attn.o_proj.weight": ("layers/self_attn/o_proj/kernel", DENSE),
    "model.layers.{}.mlp.gate_proj.weight": ("layers/mlp/gate_proj/kernel", DENSE),
    "model.layers.{}.mlp.up_proj.weight": ("layers/mlp/up_proj/kernel", DENSE),
    "model.layers.{}.mlp.down_proj.weight": ("layers/mlp/down_proj/kernel", DENSE),
    "model.layers.{}.input_layernorm.weight": ("layers/input_layernorm/scale", SAME),
    "model.layers.{}.post_attention_layernorm.weight": (
        "layers/post_attention_layernorm/scale",
        SAME,
    ),
    "model.norm.weight": ("norm/scale", SAME),
}

NEWLINE = "model.image_newline"
LM_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Slot:
    """Where an official tensor goes: our path, its row of the stack, the order of its axes."""

    path: str
    layer: int | None
    axes: Axes


def gem_slots(config: GemConfig) -> dict[str, Slot]:
    """Returns the slot of each tensor of an official checkpoint, by its official name.

    In the order of the original's state dict; a tower that the model lacks has none.
    """
    slots: dict[str, Slot] = {}
    if config.image_newline:
        slots[NEWLINE] = Slot("image_newline", None, SAME)
    slots |= _slots(_llm_table(config.llm), "", "llm", config.llm.num_layers)
    if config.ecg:
        slots |= ecg_slots(config.ecg, ECG_PREFIX)
        slots |= projector_slots("ecg_projector", config.ecg_projector)
    if config.vision:
        slots |= vision_slots(config.vision, VISION_PREFIX)
        slots |= projector_slots("mm_projector", config.mm_projector)
    # As in transformers, a tied head has no tensor of its own.
    if not config.llm.tie_embeddings:
        slots[LM_HEAD] = Slot("llm/lm_head/kernel", None, DENSE)
    return slots


def ecg_slots(config: EcgConfig, prefix: str) -> dict[str, Slot]:
    """Returns the slots of the ECG encoder's tensors, named behind `prefix`."""
    return dict(_slots(ECG, prefix, "ecg_tower", config.num_layers))


def vision_slots(config: ClipConfig, prefix: str) -> dict[str, Slot]:
    """Returns the slots of the image encoder's tensors, named behind `prefix`."""
    return dict(_slots(VISION, prefix, "vision_tower", config.num_layers))


def projector_slots(part: str, kind: str) -> dict[str, Slot]:
    """Returns the slots of the projector `part`, ecg_projector or mm_projector."""
    return dict(_slots(_projector_table(kind), f"model.{part}.", part))


def official_shape(shape: tuple[int, ...], slot: Slot) -> tuple[int, ...]:
    """Returns the shape of the slot's official tensor, one layer of our parameter of `shape`."""
    ours = shape if slot.layer is None else shape[1:]
    if slot.axes is None:
        return ours
    return tuple(ours[slot.axes.index(axis)] for axis in range(len(ours)))


def _llm_table(config: LlmConfig) -> Table:
    return {
        name: row for name, row in LLM.items() if config.qkv_bias or not name.endswith("_proj.bias")
    }


def _projector_table(kind: str) -> Table:
    if kind == "linear":
        return {"weight": ("linear/kernel", DENSE), "bias": ("linear/bias", SAME)}
    table: Table = {}
    for number in range(0, 2 * projector_depth(kind), 2):
        table[f"{number}.weight"] = (f"{number}/kernel", DENSE)
        table[f"{number}.bias"] = (f"{number}/bias", SAME)
    return table


def _slots(table: Table, prefix: str, part: str, num_layers: int = 0) -> Iterator[tuple[str, Slot]]:
    """Yields (name, slot): a run of rows with a layer number is gone through layer by layer."""
    for stacked, run in groupby(table.items(), key=lambda row: "{}" in row[0]):
        rows = list(run)
        for layer in range(num_layers) if stacked else [None]:
            for name, (path, axes) in rows:
                yield prefix + name.format(layer), Slot(f"{part}/{path}", layer, axes)
