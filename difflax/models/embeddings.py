"""Embeddings of the time and of the other numbers that condition a network."""

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int

from difflax.core.spelling import choose
from difflax.models.layers import ACTIVATIONS


def timestep_embedding(
    timesteps: Float[Array, " b"] | Int[Array, " b"], dim: int, *, flip_sin_to_cos: bool, freq_shift: float
) -> Float[Array, "b {dim}"]:
    """Sinusoids of ``timesteps`` at ``dim // 2`` frequencies from 1 to 1/10000 (float32).

    Ho et al. 2020 (https://arxiv.org/abs/2006.11239) after Vaswani et al. 2017: frequency ``i`` is
    ``10000^(-i / (dim // 2 - freq_shift))``. Sines come first, or cosines if ``flip_sin_to_cos``.
    """
    half = dim // 2
    frequencies = jnp.exp(-math.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / (half - freq_shift))
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies
    waves = (jnp.cos(angles), jnp.sin(angles)) if flip_sin_to_cos else (jnp.sin(angles), jnp.cos(angles))
    return jnp.pad(jnp.concatenate(waves, axis=-1), ((0, 0), (0, dim % 2)))


class TimestepEmbedding(nnx.Module):
    """Two linear layers that turn sinusoids (or any vector) into the embedding that residual blocks read."""

    def __init__(
        self,
        in_channels: int,
        time_embed_dim: int,
        *,
        act_fn: str = "silu",
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.linear_1 = nnx.Linear(in_channels, time_embed_dim, dtype=dtype, rngs=rngs)
        self.linear_2 = nnx.Linear(time_embed_dim, time_embed_dim, dtype=dtype, rngs=rngs)
        self.act = choose(ACTIVATIONS, act_fn, "act_fn")

    def __call__(self, sample: Float[Array, "b d"]) -> Float[Array, "b e"]:
        return self.linear_2(self.act(self.linear_1(sample)))
