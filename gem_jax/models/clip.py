"""The image encoder: CLIP's vision transformer (arXiv 2103.00020), read as LLaVA reads it.

LLaVA takes the patch tokens of the hidden state before the last block (`select_layer` -2).
Axes: B batch, H W pixels, P tokens, D width.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from gem_jax.models.layers import ACTIVATIONS, attention, by_rows, merge_heads, split_heads

# Mean and deviation of red, green and blue (0 … 1) that OpenAI's CLIP was trained with.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ClipConfig:
    """Sizes of the image encoder; LLaVA's and GEM's is ViT-L/14 at 336 (`vit_l_14_336`)."""

    image_size: int
    patch_size: int
    hidden_dim: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    activation: str = "quick_gelu"
    select_layer: int = -2
    norm_eps: float = 1e-5
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"vision.activation: got {self.activation!r}, expected one of {sorted(ACTIVATIONS)}"
            )
        for field, size in (("image_size", self.patch_size), ("hidden_dim", self.num_heads)):
            if getattr(self, field) % size:
                raise ValueError(
                    f"vision.{field}: got {getattr(self, field)}, expected a multiple of {size}"
                )
        if not -self.num_layers - 1 <= self.select_layer < 0:
            raise ValueError(
                f"vision.select_layer: got {self.select_layer}, expected a hidden state counted "
                f"from the end, {-self.num_layers - 1} to -1"
            )

    @property
    def num_tokens(self) -> int:
        """Patch tokens an image becomes (the class token is not among them)."""
        return (self.image_size // self.patch_size) ** 2

    @classmethod
    def vit_l_14_336(cls) -> "ClipConfig":
        """The official size: 336 × 336 pixels to 576 tokens of 1024."""
        return cls(336, 14, 1024, 24, 16, 4096)


class ClipBlock(nn.Module):
    """A pre-norm transformer block; names are Hugging Face's."""

    config: ClipConfig

    @nn.compact
    def __call__(self, carry, layer):
        cfg = self.config
        options = {"dtype": cfg.dtype, "param_dtype": cfg.param_dtype}
        hidden, selected = by_rows(carry[0]), carry[1]
        normed = nn.LayerNorm(cfg.norm_eps, name="layer_norm1", **options)(hidden)
        q, k, v = (
            split_heads(
                nn.Dense(cfg.hidden_dim, name=f"{part}_proj", **options)(normed),
                cfg.hidden_dim // cfg.num_heads,
            )
            for part in "qkv"
        )
        mixed = merge_heads(attention(q, k, v))
        hidden = hidden + nn.Dense(cfg.hidden_dim, name="out_proj", **options)(mixed)
        normed = nn.LayerNorm(cfg.norm_eps, name="layer_norm2", **options)(hidden)
        wide = ACTIVATIONS[cfg.activation](nn.Dense(cfg.mlp_dim, name="fc1", **options)(normed))
        hidden = hidden + nn.Dense(cfg.hidden_dim, name="fc2", **options)(wide)
        # Only the chosen hidden state is carried: keeping all of them costs 24 × 577 × 1024.
        chosen = layer == cfg.num_layers + cfg.select_layer
        return (hidden, jnp.where(chosen, hidden, selected)), None


class ClipEncoder(nn.Module):
    """The encoder: (patch tokens of the selected layer, pooled class token) of an image."""

    config: ClipConfig

    @nn.compact
    def __call__(
        self, image: Float[Array, "B H W 3"]
    ) -> tuple[Float[Array, "B P D"], Float[Array, "B D"]]:
        cfg = self.config
        options = {"dtype": cfg.dtype, "param_dtype": cfg.param_dtype}
        size = (cfg.patch_size, cfg.patch_size)
        patches = nn.Conv(
            cfg.hidden_dim, size, size, "VALID", use_bias=False, name="patch_embedding", **options
        )(image)
        patches = patches.reshape(image.shape[0], cfg.num_tokens, cfg.hidden_dim)
        normal = nn.initializers.normal(0.02)
        cls = self.param("class_embedding", normal, (cfg.hidden_dim,), cfg.param_dtype)
        positions = self.param(
            "position_embedding", normal, (cfg.num_tokens + 1, cfg.hidden_dim), cfg.param_dtype
        )
        cls = jnp.broadcast_to(cls.astype(patches.dtype), (image.shape[0], 1, cfg.hidden_dim))
        hidden = jnp.concatenate([cls, patches], axis=1) + positions.astype(patches.dtype)
        hidden = nn.LayerNorm(cfg.norm_eps, name="pre_layrnorm", **options)(hidden)
        (last, selected), _ = nn.scan(
            ClipBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=cfg.num_layers,
        )(cfg, name="layers")((hidden, hidden), jnp.arange(cfg.num_layers))
        pooled = nn.LayerNorm(cfg.norm_eps, name="post_layernorm", **options)(last[:, 0])
        return selected[:, 1:], pooled
