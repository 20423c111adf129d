"""Named random streams: every draw is a function of (seed, name, step, sample index); nothing is stored.

A stream never depends on how often or in what order others were read, so resuming is exact and an image does
not depend on the batch that it was drawn in.
"""

import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Integer, Key


def stream(seed: int | Integer[Array, ""], name: str) -> Key[Array, ""]:
    """The key of the stream ``name`` under ``seed`` (any non-negative 32-bit integer, may be traced)."""
    return substream(jax.random.key(seed), name)


def substream(key: Key[Array, "*b"], name: str) -> Key[Array, "*b"]:
    """The stream ``name`` inside another, for one key or for one key a sample."""
    fold = jax.random.fold_in if key.ndim == 0 else jax.vmap(jax.random.fold_in, (0, None))
    return fold(key, zlib.crc32(name.encode()))


def sample_keys(key: Key[Array, ""], indices: Int[Array, " b"]) -> Key[Array, " b"]:
    """One key a sample, by the sample's own index."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, indices)


def normal(keys: Key[Array, " b"], shape: tuple[int, ...], dtype=jnp.float32) -> Float[Array, "b ..."]:
    """Standard normal noise of ``shape`` (without the batch axis), each sample from its own key."""
    return jax.vmap(lambda k: jax.random.normal(k, shape, dtype))(keys)
