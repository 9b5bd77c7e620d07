"""The ECG encoder: CoCa's time-series ViT as ECG-CoCa trains it and GEM uses it (arXiv 2503.06073).

A record of 12 leads becomes one token a patch of 50 samples, behind a class token. GEM reads the
output of the last block with its class token and without the final norm; the pooled embedding is
the pretraining objective's. Axes: B batch, L leads, T samples, P tokens, D width, E embedding.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from gem_jax.models.layers import attention, by_rows, exact_gelu, merge_heads, split_heads


@dataclass(frozen=True)
class EcgConfig:
    """Sizes of the ECG encoder; the official ones are those of `coca_vit_b_32`."""

    seq_length: int
    num_leads: int
    patch_size: int
    width: int
    num_layers: int
    head_dim: int
    mlp_ratio: float
    embed_dim: int
    norm_eps: float = 1e-5
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        if not 0 < self.mlp_ratio <= 1024:
            raise ValueError(f"ecg.mlp_ratio: got {self.mlp_ratio}, expected above 0, at most 1024")
        for field, size in (("seq_length", self.patch_size), ("width", self.head_dim)):
            if getattr(self, field) % size:
                raise ValueError(
                    f"ecg.{field}: got {getattr(self, field)}, expected a multiple of {size}"
                )

    @property
    def num_tokens(self) -> int:
        """Tokens a record becomes, the class token included."""
        return self.seq_length // self.patch_size + 1

    @classmethod
    def coca_vit_b_32(cls) -> "EcgConfig":
        """The official size: 12 × 5000 samples to 101 tokens of 768."""
        return cls(5000, 12, 50, 768, 12, 64, 4.0, 512)


class EcgBlock(nn.Module):
    """A pre-norm transformer block with fused q, k, v (stacked in this order), as in open_clip."""

    config: EcgConfig

    @nn.compact
    def __call__(self, hidden: Float[Array, "B P D"], _) -> tuple[Float[Array, "B P D"], None]:
        cfg = self.config
        options = {"dtype": cfg.dtype, "param_dtype": cfg.param_dtype}
        hidden = by_rows(hidden)
        normed = nn.LayerNorm(cfg.norm_eps, name="ln_1", **options)(hidden)
        qkv = nn.Dense(3 * cfg.width, name="in_proj", **options)(normed)
        q, k, v = (split_heads(part, cfg.head_dim) for part in jnp.split(qkv, 3, axis=-1))
        mixed = merge_heads(attention(q, k, v))
        hidden = hidden + nn.Dense(cfg.width, name="out_proj", **options)(mixed)
        normed = nn.LayerNorm(cfg.norm_eps, name="ln_2", **options)(hidden)
        wide = nn.Dense(int(cfg.width * cfg.mlp_ratio), name="c_fc", **options)(normed)
        return hidden + nn.Dense(cfg.width, name="c_proj", **options)(exact_gelu(wide)), None


class EcgEncoder(nn.Module):
    """The encoder: (tokens of the last block, pooled embedding) of a batch of records in mV."""

    config: EcgConfig

    @nn.compact
    def __call__(
        self, ecg: Float[Array, "B L T"]
    ) -> tuple[Float[Array, "B P D"], Float[Array, "B E"]]:
        cfg = self.config
        options = {"dtype": cfg.dtype, "param_dtype": cfg.param_dtype}
        scale = cfg.width**-0.5
        patches = nn.Conv(
            cfg.width,
            (cfg.patch_size,),
            cfg.patch_size,
            "VALID",
            use_bias=False,
            name="conv1",
            **options,
        )(ecg.swapaxes(1, 2))
        normal = nn.initializers.normal(scale)
        cls = self.param("class_embedding", normal, (cfg.width,), cfg.param_dtype)
        positions = self.param(
            "positional_embedding", normal, (cfg.num_tokens, cfg.width), cfg.param_dtype
        )
        cls = jnp.broadcast_to(cls.astype(patches.dtype), (ecg.shape[0], 1, cfg.width))
        hidden = jnp.concatenate([cls, patches], axis=1) + positions.astype(patches.dtype)
        hidden = nn.LayerNorm(cfg.norm_eps, name="ln_pre", **options)(hidden)
        hidden, _ = nn.scan(
            EcgBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=cfg.num_layers,
        )(cfg, name="blocks")(hidden, None)
        pooled = nn.LayerNorm(cfg.norm_eps, name="ln_post", **options)(hidden[:, 0])
        return hidden, nn.Dense(cfg.embed_dim, use_bias=False, name="proj", **options)(pooled)
