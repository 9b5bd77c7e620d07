"""A language model alone: its config.json ↔ a GemConfig without towers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gem_jax.models.gem import GemConfig
from gem_jax.weights.families import ALONE, FAMILIES, TEMPLATE_KEY, TRANSFORMERS_VERSION
from gem_jax.weights.keys import GENERIC_FIXED, GENERIC_INERT, build, size, value
from gem_jax.weights.llm_config import check_llm, ids_json, llm_json, read_ids, read_llm

READ = frozenset({TEMPLATE_KEY})
FIXED: dict[str, tuple] = GENERIC_FIXED | {"rope_interleaved": (False,)}
INERT = GENERIC_INERT


def read_alone(
    values: Mapping[str, Any], generation: Mapping[str, Any], where: Path, architecture: str
) -> GemConfig:
    """Returns the model that config.json and generation_config.json describe.

    WeightsError names the keys that are missing, unknown or not implemented.
    """
    family = ALONE[architecture]
    check_llm(values, where, family, READ, FIXED, INERT)
    return build(
        GemConfig,
        where,
        ecg=None,
        vision=None,
        llm=read_llm(values, where, family),
        ecg_projector="identity",
        mm_projector="identity",
        **read_ids(values, generation, where, family),
        image_mode="ori",
        max_length=size(values, "max_position_embeddings", where),
        template=value(values, TEMPLATE_KEY, str, where, FAMILIES[family].template),
    )


def alone_json(config: GemConfig) -> dict[str, Any]:
    """Returns the official config.json of a language model alone."""
    own = FAMILIES[config.llm.family]
    template = {} if config.template == own.template else {TEMPLATE_KEY: config.template}
    return {
        "architectures": [own.llm],
        "max_position_embeddings": config.max_length,
        "model_type": config.llm.family,
        "transformers_version": TRANSFORMERS_VERSION,
        **ids_json(config),
        **llm_json(config.llm),
        **template,
    }
