"""The language model's sizes in an official config.json ↔ LlmConfig: LLaMA, Mistral, Qwen2.

A key that is absent has the value that transformers gives it, for the architecture at hand.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gem_jax.models.gem import GemConfig
from gem_jax.models.layers import RopeScaling
from gem_jax.models.llm import LlmConfig
from gem_jax.weights.families import FAMILIES, MISTRAL_WINDOW
from gem_jax.weights.files import WeightsError
from gem_jax.weights.keys import build, check_keys, size, value, words

READ = words(
    """
    bos_token_id eos_token_id head_dim hidden_size intermediate_size max_position_embeddings
    num_attention_heads num_hidden_layers num_key_value_heads pad_token_id rms_norm_eps
    rope_parameters rope_scaling rope_theta tie_word_embeddings vocab_size
    """
)
FIXED: dict[str, tuple] = {
    "attention_dropout": (0.0,),
    "hidden_act": ("silu", "swish"),
    # No model of these families reads it.
    "is_decoder": (False, True),
    "partial_rotary_factor": (1.0, None),
}
# `pretraining_tp` cuts products of matrices into pieces; the others are read by other models, or
# say that a checkpoint of another family was turned into LLaMA's form.
INERT = words(
    """
    attention_probs_dropout_prob hidden_dropout_prob is_llama_config max_sequence_length
    pretraining_tp type_vocab_size
    """
)
ROPE_KEYS = words("rope_theta rope_type type")
LLAMA3_KEYS = words("low_freq_factor high_freq_factor original_max_position_embeddings")


def check_llm(
    values: Mapping[str, Any],
    where: Path,
    family: str,
    read: frozenset[str],
    fixed: Mapping[str, tuple],
    inert: frozenset[str],
) -> None:
    """Raises WeightsError naming the keys that neither the family nor the caller knows."""
    own = FAMILIES[family]
    depth = size(values, "num_hidden_layers", where)
    kind = "sliding_attention" if _window(values, where, family) else "full_attention"
    layers: dict[str, tuple] = {"layer_types": ([kind] * depth, None)}
    check_keys(
        values,
        where,
        READ | own.read | read,
        {**fixed, **FIXED, **layers, **own.fixed},
        INERT | own.inert | inert,
    )


def read_llm(values: Mapping[str, Any], where: Path, family: str) -> LlmConfig:
    """Returns the sizes; WeightsError names a key whose value is missing or not implemented."""
    heads = size(values, "num_attention_heads", where)
    hidden = size(values, "hidden_size", where)
    theta, scaling = _rope(values, where)
    return build(
        LlmConfig,
        where,
        vocab_size=size(values, "vocab_size", where),
        hidden_dim=hidden,
        num_layers=size(values, "num_hidden_layers", where),
        num_heads=heads,
        num_kv_heads=size(
            values, "num_key_value_heads", where, FAMILIES[family].num_kv_heads or heads
        ),
        head_dim=size(values, "head_dim", where, hidden // heads),
        mlp_dim=size(values, "intermediate_size", where),
        rope_theta=theta,
        norm_eps=value(values, "rms_norm_eps", float, where, 1e-6),
        family=family,
        tie_embeddings=value(values, "tie_word_embeddings", bool, where, False),
        sliding_window=_window(values, where, family),
        rope_scaling=scaling,
    )


def llm_json(config: LlmConfig) -> dict[str, Any]:
    """Returns the official keys of the language model's sizes."""
    family = FAMILIES[config.family]
    own = dict(family.written)
    if config.family == "mistral":
        own["sliding_window"] = config.sliding_window
    if config.head_dim * config.num_heads != config.hidden_dim:
        own["head_dim"] = config.head_dim
    return {
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": config.hidden_dim,
        "initializer_range": 0.02,
        "intermediate_size": config.mlp_dim,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "rms_norm_eps": config.norm_eps,
        "rope_scaling": _scaling_json(config.rope_scaling),
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": config.param_dtype,
        "use_cache": True,
        "vocab_size": config.vocab_size,
        **own,
    }


def read_ids(
    values: Mapping[str, Any], generation: Mapping[str, Any], where: Path, family: str
) -> dict[str, Any]:
    """Returns bos_token_id, eos_token_ids and pad_token_id.

    The end tokens are config.json's, then those that generation_config.json adds; null where a
    token does not exist.
    """
    own = FAMILIES[family]
    eos = _ids(values.get("eos_token_id", own.eos), "eos_token_id", where)
    more = _ids(generation.get("eos_token_id"), "eos_token_id", where.parent / "generation_config")
    if not eos + more:
        raise WeightsError(f"{where}: eos_token_id: got none, expected at least one end token")
    return {
        "bos_token_id": _id(values.get("bos_token_id", own.bos), "bos_token_id", where),
        "eos_token_ids": tuple(dict.fromkeys(eos + more)),
        "pad_token_id": _pad_id(values, where),
    }


def ids_json(config: GemConfig) -> dict[str, Any]:
    """Returns the official keys of the special tokens; config.json names one end token."""
    pad = {} if config.pad_token_id is None else {"pad_token_id": config.pad_token_id}
    return {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_ids[0], **pad}


def _window(values: Mapping[str, Any], where: Path, family: str) -> int | None:
    if family != "mistral" or values.get("sliding_window", MISTRAL_WINDOW) is None:
        return None
    return size(values, "sliding_window", where, MISTRAL_WINDOW)


def _rope(values: Mapping[str, Any], where: Path) -> tuple[float, RopeScaling | None]:
    """Returns (theta, scaling) from rope_theta and rope_scaling, or newer rope_parameters."""
    key = "rope_parameters" if values.get("rope_parameters") else "rope_scaling"
    given = value(values, key, dict, where, {})
    theta = value({**values, **given}, "rope_theta", float, where, 10000.0)
    kind = given.get("rope_type", given.get("type", "default"))
    known = {"default": frozenset[str](), "linear": {"factor"}, "llama3": {"factor"} | LLAMA3_KEYS}
    if kind not in known:
        raise WeightsError(
            f"{where}: {key}: got type {kind!r}, expected one of {', '.join(known)} (anything else "
            "is not implemented)"
        )
    whole = {"partial_rotary_factor": (1.0,)}
    check_keys(given, Path(f"{where}: {key}"), ROPE_KEYS | known[kind], whole, frozenset())
    if kind == "default":
        return theta, None
    scaling = {"kind": kind, "factor": value(given, "factor", float, where)}
    if kind == "llama3":
        scaling["low_freq_factor"] = value(given, "low_freq_factor", float, where)
        scaling["high_freq_factor"] = value(given, "high_freq_factor", float, where)
        scaling["original_length"] = size(given, "original_max_position_embeddings", where)
    return theta, build(RopeScaling, f"{where}: {key}", **scaling)


def _scaling_json(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    if scaling.kind == "linear":
        return {"type": "linear", "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_length,
    }


def _ids(found: Any, key: str, where: Path) -> list[int]:
    given = found if isinstance(found, list) else [found]
    ids = [_id(one, key, where) for one in given]
    return [one for one in ids if one is not None]


def _pad_id(values: Mapping[str, Any], where: Path) -> int | None:
    """Returns the padding token; None where it has no row of the table, as in some finetunes."""
    pad = _id(values.get("pad_token_id"), "pad_token_id", where)
    rows = values.get("vocab_size")
    return None if pad is not None and type(rows) is int and pad >= rows else pad


def _id(found: Any, key: str, where: Path) -> int | None:
    if found is not None and type(found) is not int:
        raise WeightsError(f"{where}: {key}: got {found!r}, expected a token's number or null")
    # Some LLaMA configs say -1 where there is no padding token.
    return None if found == -1 else found
