"""FLOPs of a step, counted one way: per token k·N + k·T·d·L.

k is 6 for a trained model, 4 for a frozen one that gradients pass through (to adapters or
projectors), 2 for a forward pass alone; N the weights of matrix products with the output head and
without the input embedding; T the sample's own length, d the attention width, L the layers; the
half that causality saves is already taken.
"""

from gem_jax.config import Config
from gem_jax.models.gem import GemConfig
from gem_jax.paths import flat, is_under

TRAINED, FROZEN, FORWARD = 6, 4, 2


def passes(config: Config, params: dict) -> float:
    """Returns k of the recipe's steps: 6 where all of the language model's weights are trained.

    Where some are, as by `trainable=("llm/lm_head",)`, it lies between 4 and 6 as they do.
    """
    weights = _matmul_weights(params)
    trained = sum(
        size
        for path, size in weights.items()
        if any(is_under(path, name) for name in config.train.trainable)
    )
    return FROZEN + (TRAINED - FROZEN) * trained / sum(weights.values())


def formula(config: GemConfig, weights: int, k: float) -> str:
    """Returns how the FLOPs of a token are counted, in words for people."""
    width = config.llm.num_heads * config.llm.head_dim
    return (
        f"k·N + k·T·d·L FLOPs a token: k = {k:.3g}, N = {weights:,} weights of matrix products "
        f"with the output head, T = its sample's length, d = {width}, L = {config.llm.num_layers}"
    )


def llm_matmul_weights(params: dict) -> int:
    """Returns N of the language model: its kernels, and the tied table where it is the head."""
    return sum(_matmul_weights(params).values())


def _matmul_weights(params: dict) -> dict[str, int]:
    """Returns the sizes by path of what the language model multiplies with."""
    llm = {path: leaf.size for path, leaf in flat(params).items() if is_under(path, "llm")}
    tied = "llm/lm_head/kernel" not in llm
    return {
        path: size
        for path, size in llm.items()
        if path.endswith("kernel") or (tied and path == "llm/embed_tokens/embedding")
    }


def step_flops(config: GemConfig, weights: int, tokens: int, squared: int, k: float) -> float:
    """Returns the language model's FLOPs of a step.

    Args:
        config: The model.
        weights: N, as `llm_matmul_weights` counts it.
        tokens: Real tokens of all rows.
        squared: Sum over the rows of their length squared (T of each of its T tokens).
        k: From 6 to 2, see above.
    """
    width = config.llm.num_heads * config.llm.head_dim
    return k * weights * tokens + k * squared * width * config.llm.num_layers
