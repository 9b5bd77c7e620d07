"""`gem-jax export`: our checkpoint → a folder in a Hugging Face layout."""

import sys
from pathlib import Path
from typing import Literal

from gem_jax.weights.files import Dtype, require_free


def main(
    checkpoint: Path,
    dest: Path,
    /,
    *,
    layout: Literal["official"] = "official",
    dtype: Dtype = "keep",
) -> None:
    """Export a checkpoint to Hugging Face files that the original GEM's layout has.

    Args:
        checkpoint: What `import` wrote, a run directory, or one of its checkpoints/N.
        dest: New folder.
        layout: `official` is LLaVA's and GEM's, LlavaLlamaForCausalLM or LlavaQwenForCausalLM; of
            an encoder alone, CLIP's folder, or the two files that GEM's mm_ecg_tower names.
        dtype: What the tensors become; `keep` rounds nothing.
    """
    # Here, not above: `--help` need not wait for JAX.
    from gem_jax.checkpoint import leaves, locate_any, read_model_config, read_source, whole_shapes
    from gem_jax.weights.dtypes import all_in, retyped
    from gem_jax.weights.model_card import describe
    from gem_jax.weights.progress import nbytes, track
    from gem_jax.weights.towers import export_tower
    from gem_jax.weights.write import Export, write_official

    require_free(dest)
    located = locate_any(checkpoint)
    encoder = export_tower(located, dest, dtype)
    if encoder is not None:
        print(f"{dest}: exported {describe(encoder)}, an encoder alone", file=sys.stderr)
        return
    config = read_model_config(located)
    saved = whole_shapes(located, config)
    source = read_source(located)
    export = Export(retyped(config, dtype), all_in(dtype, saved), located.tokenizer, source)
    write_official(dest, export, track(leaves(located, saved), nbytes(saved), "export"))
    print(f"{dest}: exported {describe(saved)} in the {layout} layout", file=sys.stderr)
