"""The keys of an official config: read, of the one value that is computed here, or inert.

A key that changes the computation must have the value that is computed here; keys that change
nothing are listed; every other key is refused by name.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from gem_jax.weights.files import WeightsError, refuse

T = TypeVar("T")

KINDS = {
    bool: "true or false",
    dict: "an object",
    float: "a number",
    int: "a whole number",
    list: "a list",
    str: "a text",
}


def words(text: str) -> frozenset[str]:
    """Returns the words of `text`."""
    return frozenset(text.split())


# What transformers and its users' trainers write into every config and no model here reads.
GENERIC_INERT = words(
    """
    _attn_implementation _attn_implementation_autoset _attn_implementation_internal _commit_hash
    _flash_attn_2_enabled _name_or_path _num_labels architectures attn_implementation auto_map
    bad_words_ids begin_suppress_tokens bos_token_id
    chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id diversity_penalty
    do_sample dtype early_stopping encoder_no_repeat_ngram_size eos_token_id
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
    gradient_checkpointing
    id2label initializer_factor initializer_range label2id length_penalty max_length min_length
    model_max_length model_type neftune_noise_alpha no_repeat_ngram_size num_beam_groups num_beams
    num_labels num_return_sequences
    output_attentions output_hidden_states output_scores pad_token_id prefix problem_type
    remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id
    suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder
    tie_word_embeddings tokenizer_class top_k top_p torch_dtype torchscript transformers.js_config
    transformers_version transformers_weights typical_p unsloth_fixed unsloth_version use_bfloat16
    use_cache
    """
)

GENERIC_FIXED: dict[str, tuple] = {
    "add_cross_attention": (False,),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
}

# Beyond any model's, and still counted at once: from here on a config is broken or hostile.
MOST = 2**24
MOST_OF = {"num_hidden_layers": 2**10, "layers": 2**10, "image_size": 2**14}
# Nothing is made as long as these say; tokenizers without an end write 10³⁰.
ENDLESS = ("max_position_embeddings", "tokenizer_model_max_length")


def value(values: Mapping[str, Any], key: str, kind: type, where: Path, default: Any = None) -> Any:
    """Returns `values[key]` (absent or null: `default`); WeightsError unless it is a `kind`."""
    found = values.get(key)
    found = default if found is None else found
    if kind is float and type(found) is int and abs(found) <= 2**53:
        found = float(found)
    if type(found) is not kind:
        raise WeightsError(f"{where}: {key}: got {found!r}, expected {KINDS[kind]}")
    return found


def size(values: Mapping[str, Any], key: str, where: Path, default: int | None = None) -> int:
    """Returns `values[key]` as a size; WeightsError unless it is whole, positive and possible."""
    found = value(values, key, int, where, default)
    if found <= 0:
        raise WeightsError(f"{where}: {key}: got {found}, expected a positive number")
    most = MOST_OF.get(key, MOST)
    if found > most and key not in ENDLESS:
        raise WeightsError(f"{where}: {key}: got {found}, expected at most {most}")
    return found


def build(make: Callable[..., T], where: Path | str, /, **fields: Any) -> T:
    """Returns what `make` makes of its fields; WeightsError naming `where` when it refuses them."""
    try:
        return make(**fields)
    except ValueError as error:
        raise WeightsError(f"{where}: {error}") from error


def check_keys(
    values: Mapping[str, Any],
    where: Path,
    read: Collection[str],
    fixed: Mapping[str, tuple],
    inert: Collection[str],
) -> None:
    """Raises WeightsError naming every key that is not known or whose value is not implemented."""
    problems = [
        f"{key}: got {values[key]!r}, expected {' or '.join(map(repr, allowed))} (anything else "
        "changes the computation and is not implemented)"
        for key, allowed in fixed.items()
        if key in values and values[key] not in allowed
    ]
    unknown = sorted(set(values) - set(read) - set(fixed) - set(inert))
    problems += [f"{key}: unknown key, it may change the computation" for key in unknown]
    refuse(where, problems)
