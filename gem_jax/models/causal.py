"""Causal attention in blocks of queries, whose probabilities are made again for the gradient.

A block looks at no key behind its last query, so half of the products is never computed; of a row's
softmax only the logarithm of its sum is kept, as in FlashAttention (arXiv 2205.14135). Products are
of matrices that lie as XLA's CPU backend multiplies them fastest, heads before tokens.

Axes: B batch, T tokens, K key/value heads, G queries' heads of each, H head width, C queries of a
block, S keys that it sees.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

BLOCK = 128
# Of what the gradient needs and a policy of `jax.checkpoint` may keep.
NAME = "attention"
# The score of what is not seen; finite, so that no difference of two is NaN.
UNSEEN = -1e30


@jax.custom_vjp
def causal_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    mask: Bool[Array, "B 1 T T"],
) -> Float[Array, "B T N H"]:
    """Returns softmax(q·kᵀ/√H)·v where `mask` is true; it must be false ahead of the query.

    Every query sees a key.
    """
    return _attend(q, k, v, mask)[0]


def cached_attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    mask: Bool[Array, "B 1 T S"],
) -> Float[Array, "B T N H"]:
    """Returns the attention of a few tokens to a cache, whose heads lie before its tokens."""
    heads = _heads_first(q, k.shape[1])
    p = jax.nn.softmax(_scores(heads, k, mask)).astype(v.dtype)
    return _tokens_first(_product("bkgcs,bksh->bkgch", p, v)).astype(q.dtype)


def _attend(q: Any, k: Any, v: Any, mask: Any) -> tuple[jax.Array, Any]:
    """Returns (attention, what the gradient needs)."""
    heads, keys, values = _heads_first(q, k.shape[2]), k.swapaxes(1, 2), v.swapaxes(1, 2)
    mixed, log_sums = [], []
    for rows, seen in _blocks(q.shape[1]):
        scores = _scores(heads[..., rows, :], keys[..., seen, :], mask[..., rows, seen])
        largest = scores.max(axis=-1, keepdims=True)
        exps = jnp.exp(scores - largest)
        total = exps.sum(axis=-1, keepdims=True)
        mix = _product("bkgcs,bksh->bkgch", exps.astype(v.dtype), values[..., seen, :])
        mixed.append(mix / total)
        log_sums.append(largest + jnp.log(total))
    out = checkpoint_name(_tokens_first(jnp.concatenate(mixed, axis=-2)).astype(q.dtype), NAME)
    log_sum = checkpoint_name(jnp.concatenate(log_sums, axis=-2), NAME)
    return out, (q, k, v, mask, out, log_sum)


def _gradients(kept: Any, ct: Float[Array, "B T N H"]) -> tuple[Any, Any, Any, None]:
    """Returns the cotangents of q, k and v."""
    q, k, v, mask, out, log_sums = kept
    heads, keys, values = _heads_first(q, k.shape[2]), k.swapaxes(1, 2), v.swapaxes(1, 2)
    mixes = _heads_first(ct, k.shape[2])
    # A row's Σ p·dp: softmax gives the gradient p·(dp − Σ p·dp).
    means = _heads_first((ct * out).astype(jnp.float32), k.shape[2]).sum(axis=-1, keepdims=True)
    d_heads, d_keys = [], jnp.zeros(keys.swapaxes(2, 3).shape, jnp.float32)
    d_values = d_keys
    for rows, seen in _blocks(q.shape[1]):
        own = [each[..., rows, :] for each in (heads, mixes, log_sums, means)]
        others = [keys[..., seen, :], values[..., seen, :], mask[..., rows, seen]]
        d_head, d_key, d_value = _block_gradients(*own, *others)
        d_heads.append(d_head)
        d_keys, d_values = d_keys.at[..., seen].add(d_key), d_values.at[..., seen].add(d_value)
    d_q = _tokens_first(jnp.concatenate(d_heads, axis=-2)).astype(q.dtype)
    d_k, d_v = (d.transpose(0, 3, 1, 2).astype(k.dtype) for d in (d_keys, d_values))
    return d_q, d_k, d_v, None


def _block_gradients(
    q: Float[Array, "B K G C H"],
    ct: Float[Array, "B K G C H"],
    log_sum: Float[Array, "B K G C 1"],
    mean: Float[Array, "B K G C 1"],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    mask: Bool[Array, "B 1 C S"],
) -> tuple[Float[Array, "B K G C H"], Float[Array, "B K H S"], Float[Array, "B K H S"]]:
    p = jnp.exp(_scores(q, k, mask) - log_sum)
    dp = _product("bkgch,bksh->bkgcs", ct, v)
    ds = (p * (dp - mean) * q.shape[-1] ** -0.5).astype(q.dtype)
    d_q = _product("bkgcs,bksh->bkgch", ds, k)
    # Width before keys: the other way around is no product that XLA's CPU backend has a kernel for.
    d_k = _product("bkgch,bkgcs->bkhs", q, ds)
    return d_q, d_k, _product("bkgch,bkgcs->bkhs", ct, p.astype(v.dtype))


causal_attention.defvjp(_attend, _gradients)


def _blocks(length: int) -> Iterator[tuple[slice, slice]]:
    """Yields each block's queries, and the keys that it sees."""
    for begin in range(0, length, BLOCK):
        end = min(begin + BLOCK, length)
        yield slice(begin, end), slice(0, end)


def _scores(
    q: Float[Array, "B K G C H"], k: Float[Array, "B K S H"], mask: Bool[Array, "B 1 C S"]
) -> Float[Array, "B K G C S"]:
    scores = _product("bkgch,bksh->bkgcs", q, k) * q.shape[-1] ** -0.5
    return jnp.where(mask[:, :, None], scores, UNSEEN)


def _product(axes: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(axes, a, b, preferred_element_type=jnp.float32)


def _heads_first(x: Float[Array, "B T N H"], kv_heads: int) -> Float[Array, "B K G T H"]:
    rows, length, _, width = x.shape
    return x.reshape(rows, length, kv_heads, -1, width).transpose(0, 2, 3, 1, 4)


def _tokens_first(x: Float[Array, "B K G T H"]) -> Float[Array, "B T N H"]:
    rows, _, _, length, width = x.shape
    return x.transpose(0, 3, 1, 2, 4).reshape(rows, length, -1, width)
