"""Softmax attention of many heads: the formula once, by the fastest route that the device has.

    out = softmax(q kᵀ / sqrt(d)) v          (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, eq. 1)

Accelerators have kernels of their own behind ``jax.nn.dot_product_attention``. XLA's CPU backend has none,
and its general path is bound by memory: the table of scores is written out, scaled, masked and normalised in
passes of their own. ``blocked`` keeps a few rows of the table at a time (Rabe & Staats 2021,
https://arxiv.org/abs/2112.05682), scales the queries in place of the scores, and divides by the softmax's sum
after the product with ``v``. The backward pass computes each block again.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

QUERY_ROWS = 32
"""Queries a block."""

SMALL = 2**15
"""A head's table of scores up to this many entries is one block."""


def attend(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b m h d"],
    value: Float[Array, "b m h d"],
    mask: Bool[Array, "b m"] | None = None,
    *,
    causal: bool = False,
    implementation: str | None = None,
) -> Float[Array, "b n h d"]:
    """Each query's mean of ``value``, weighted by the softmax of its products with ``key``.

    Args:
        mask: True where a key may be attended to; at least one in each row.
        causal: a query sees the keys up to its own place. Texts are short, so this is never blocked.
        implementation: ``"blocked"`` (this file's), or ``"xla"`` or ``"cudnn"`` of
            ``jax.nn.dot_product_attention``; ``None``: blocked on CPU, JAX's choice elsewhere.
    """
    if not causal and (implementation == "blocked" or (implementation is None and _on_cpu())):
        return blocked(query, key, value, mask)
    dtype = value.dtype
    if dtype == jnp.float16 and _on_cpu():  # XLA has no float16 attention there
        query, key, value = (a.astype(jnp.float32) for a in (query, key, value))
    out = jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=None if mask is None else mask[:, None, None],
        is_causal=causal,
        implementation=implementation,
    )
    return out.astype(dtype)


def blocked(
    query: Float[Array, "b n h d"],
    key: Float[Array, "b m h d"],
    value: Float[Array, "b m h d"],
    mask: Bool[Array, "b m"] | None = None,
    *,
    rows: int = QUERY_ROWS,
) -> Float[Array, "b n h d"]:
    """Attention with the scores of ``rows`` queries at a time; batch and heads stay whole, and so may be
    sharded.
    """
    b, n, h, d = query.shape
    query = _heads_first(query * jnp.asarray(d**-0.5, query.dtype))
    rest = (_heads_first(key), _heads_first(value), mask)
    if n <= rows or n * key.shape[1] <= SMALL:
        return _heads_first(_attend_block(query, *rest))
    count = -(-n // rows)
    padded = jnp.pad(query, ((0, 0), (0, 0), (0, count * rows - n), (0, 0)))
    blocks = padded.reshape(b, h, count, rows, d).transpose(2, 0, 1, 3, 4)
    block: Callable[[Any], Array] = jax.checkpoint(lambda q: _attend_block(q, *rest))
    out = jax.lax.map(block, blocks)
    return out.transpose(1, 0, 3, 2, 4).reshape(b, count * rows, h, d)[:, :n]


def _attend_block(
    query: Float[Array, "b h r d"],
    key: Float[Array, "b h m d"],
    value: Float[Array, "b h m d"],
    mask: Bool[Array, "b m"] | None,
) -> Float[Array, "b h r d"]:
    """Attention of scaled queries; products and softmax in float32."""
    dtype = value.dtype
    if dtype == jnp.float16 and _on_cpu():
        # XLA's CPU backend cannot sum products of float16 numbers in float32.
        query, key, value = (a.astype(jnp.float32) for a in (query, key, value))
    scores = jnp.einsum("bhrd,bhmd->bhrm", query, key, preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True)
    summed = jnp.einsum(
        "bhrm,bhmd->bhrd", weights.astype(value.dtype), value, preferred_element_type=jnp.float32
    )
    return (summed / total).astype(dtype)


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _heads_first(x: Array) -> Array:
    return x.swapaxes(1, 2)
