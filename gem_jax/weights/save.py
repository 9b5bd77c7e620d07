"""`gem-jax export`: our checkpoint → a folder in a Hugging Face layout."""

import sys
from pathlib import Path
from typing import Literal

from gem_jax.weights.files import require_free


def main(checkpoint: Path, dest: Path, /, *, layout: Literal["official"] = "official") -> None:
    """Export a checkpoint to Hugging Face files that the original GEM's layout has.

    Args:
        checkpoint: What `import` wrote, a run directory, or one of its checkpoints/N.
        dest: New folder.
        layout: `official` is LLaVA's and GEM's, LlavaLlamaForCausalLM or LlavaQwenForCausalLM.
    """
    # Here, not above: `--help` need not wait for JAX.
    from gem_jax.checkpoint import load_params, locate
    from gem_jax.weights.model_card import describe
    from gem_jax.weights.write import write_gem

    require_free(dest)
    located = locate(checkpoint)
    config, params = load_params(checkpoint)
    write_gem(dest, config, params, located.tokenizer)
    print(f"{dest}: exported {describe(params)} in the {layout} layout", file=sys.stderr)
