"""`gem-jax export`: our checkpoint → a folder in a Hugging Face layout."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gem_jax.weights.files import Dtype, WeightsError, read_json, require_free

if TYPE_CHECKING:
    from gem_jax.checkpoint import Located


def main(
    checkpoint: Path,
    dest: Path,
    /,
    *,
    layout: Literal["official", "peft"] = "official",
    dtype: Dtype = "keep",
) -> None:
    """Export a checkpoint to Hugging Face files: the original's layout, or a LoRA run's adapter.

    Args:
        checkpoint: What `import` wrote, a run directory, or one of its checkpoints/N.
        dest: New folder.
        layout: `official` is LLaVA's and GEM's, LlavaLlamaForCausalLM or LlavaQwenForCausalLM; of
            an encoder alone, CLIP's folder, or the two files that GEM's mm_ecg_tower names. A LoRA
            run is merged. `peft` is its adapter alone, with the projectors that it trained; its
            base_model_name_or_path is the name of the folder that the base was imported from.
        dtype: What the tensors become; `keep` rounds nothing. The language model and projectors
            then have one dtype, the wider one of a run that holds what is frozen in another.
    """
    # Here, not above: `--help` need not wait for JAX.
    from gem_jax.checkpoint import leaves, locate_any, read_model_config, read_source, whole_shapes
    from gem_jax.weights.dtypes import all_in, retyped, widened
    from gem_jax.weights.model_card import describe
    from gem_jax.weights.progress import nbytes, track
    from gem_jax.weights.towers import export_tower
    from gem_jax.weights.write import Export, write_official

    require_free(dest)
    located = locate_any(checkpoint)
    if layout == "peft":
        _export_adapter(located, dest, dtype)
        return
    encoder = export_tower(located, dest, dtype)
    if encoder is not None:
        print(f"{dest}: exported {describe(encoder)}, an encoder alone", file=sys.stderr)
        return
    config = read_model_config(located)
    saved = whole_shapes(located, config)
    source = read_source(located)
    config, wide = widened(config, saved)
    export = Export(retyped(config, dtype), all_in(dtype, wide), located.tokenizer, source)
    write_official(dest, export, track(leaves(located, saved), nbytes(saved), "export"))
    print(f"{dest}: exported {describe(saved)} in the {layout} layout", file=sys.stderr)


def _export_adapter(located: "Located", dest: Path, dtype: Dtype) -> None:
    """Writes the adapter `dest` of a LoRA run; WeightsError when it is none, or trained more."""
    from gem_jax import checkpoint
    from gem_jax.paths import part_of
    from gem_jax.weights.dtypes import all_in
    from gem_jax.weights.peft_export import write_adapter
    from gem_jax.weights.progress import nbytes, track

    lora = checkpoint.read_lora(located)
    if lora is None:
        got = f"{located.root}: got a checkpoint without LoRA"
        raise WeightsError(f"{got}, expected a run with it; export --layout official")
    trained = read_json(located.root / "config.json")["train"]["trainable"]
    parts = {part_of(path) for path in trained}
    others = sorted(parts - {"ecg_projector", "mm_projector"})
    if others:
        got = f"{located.root}: got {', '.join(others)} trained beside the factors"
        raise WeightsError(f"{got}, expected projectors alone; export --layout official")
    beside = checkpoint.saved_shapes(located).items()
    shapes = {path: leaf for path, leaf in beside if part_of(path) in parts}
    shapes |= checkpoint.saved_factors(located)
    base = (checkpoint.read_source(located) or {}).get("name")
    config = checkpoint.read_model_config(located)
    leaves = track(checkpoint.leaves(located, shapes), nbytes(shapes), "export")
    write_adapter(dest, config, lora, base, all_in(dtype, shapes), leaves)
    print(f"{dest}: exported the adapter, {len(shapes)} parameters", file=sys.stderr)
