"""FLOPs of a step, counted one way: per token k·N + k·T·d·L.

k is 6 for a trained model, 4 for a frozen one that gradients pass through (to adapters or
projectors), 2 for a forward pass alone; N the weights of matrix products with the output head and
without the input embedding; T the sample's own length, d the attention width, L the layers; the
half that causality saves is already taken.
"""

from gem_jax.config import Config
from gem_jax.models.gem import GemConfig
from gem_jax.paths import flat

TRAINED, FROZEN, FORWARD = 6, 4, 2


def passes(config: Config) -> int:
    """Returns k of the recipe's steps: whether the language model's own weights are trained."""
    return TRAINED if "llm" in config.train.trainable else FROZEN


def formula(config: GemConfig, weights: int, k: int) -> str:
    """Returns how the FLOPs of a token are counted, in words for people."""
    width = config.llm.num_heads * config.llm.head_dim
    return (
        f"k·N + k·T·d·L FLOPs a token: k = {k}, N = {weights:,} weights of matrix products with "
        f"the output head, T = its sample's length, d = {width}, L = {config.llm.num_layers}"
    )


def llm_matmul_weights(params: dict) -> int:
    """Returns N of the language model: its kernels, and the tied table where it is the head."""
    llm = flat(params["llm"])
    kernels = sum(leaf.size for path, leaf in llm.items() if path.endswith("kernel"))
    return kernels + (0 if "lm_head/kernel" in llm else llm["embed_tokens/embedding"].size)


def step_flops(config: GemConfig, weights: int, tokens: int, squared: int, k: int) -> float:
    """Returns the language model's FLOPs of a step.

    Args:
        config: The model.
        weights: N, as `llm_matmul_weights` counts it.
        tokens: Real tokens of all rows.
        squared: Sum over the rows of their length squared (T of each of its T tokens).
        k: 6, 4 or 2, see above.
    """
    width = config.llm.num_heads * config.llm.head_dim
    return k * weights * tokens + k * squared * width * config.llm.num_layers
