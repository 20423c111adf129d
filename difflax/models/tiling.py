"""An image network run on overlapping tiles, blended where they overlap, so that memory stays bounded."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def in_tiles(
    function: Callable[[Float[Array, "b t u c"]], Float[Array, "b ts us d"]],
    x: Float[Array, "b h w c"],
    *,
    tile: int,
    overlap: float,
    scale: int,
) -> Float[Array, "b hs ws d"]:
    """``function`` of ``x``, one tile at a time; it enlarges an image ``scale`` times.

    All tiles have one size, ``tile`` or the image's edge if that is shorter; the last one is moved back into
    the image. Where two overlap, their weights are linear ramps that add up to one.
    """
    tops, row_weights = _tiles(x.shape[1], tile, overlap, scale)
    lefts, column_weights = _tiles(x.shape[2], tile, overlap, scale)
    size = (min(tile, x.shape[1]), min(tile, x.shape[2]))
    batch, channels = x.shape[0], x.shape[3]
    piece = jax.eval_shape(function, jax.ShapeDtypeStruct((batch, *size, channels), x.dtype))
    whole = jnp.zeros((batch, x.shape[1] * scale, x.shape[2] * scale, piece.shape[3]), piece.dtype)

    def add(whole, place):
        row, column = place
        top, left = jnp.asarray(tops)[row], jnp.asarray(lefts)[column]
        made = function(jax.lax.dynamic_slice(x, (0, top, left, 0), (batch, *size, channels)))
        weight = jnp.asarray(row_weights)[row][:, None] * jnp.asarray(column_weights)[column]
        corner = (0, top * scale, left * scale, 0)
        before = jax.lax.dynamic_slice(whole, corner, piece.shape)
        return jax.lax.dynamic_update_slice(whole, before + made * weight[..., None], corner), None

    places = np.stack([m.ravel() for m in np.meshgrid(range(len(tops)), range(len(lefts)), indexing="ij")])
    return jax.lax.scan(add, whole, tuple(jnp.asarray(places)))[0]


def _tiles(length: int, tile: int, overlap: float, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the tiles along one edge start, and their weights ``[tiles, scale * tile]``."""
    if length <= tile:
        return np.zeros(1, np.int32), np.ones((1, length * scale), np.float32)
    stride = max(1, int(tile * (1 - overlap)))
    count = math.ceil((length - tile) / stride) + 1
    starts = np.minimum(np.arange(count) * stride, length - tile)
    place = np.arange(length * scale)
    weights = np.zeros((count, length * scale))
    for i, start in enumerate(starts * scale):
        weight = ((place >= start) & (place < start + tile * scale)).astype(float)
        if i > 0:
            shared = (starts[i - 1] + tile) * scale - start
            weight *= np.clip((place - start) / shared, 0, 1)
        if i < count - 1:
            following = starts[i + 1] * scale
            weight *= np.clip(1 - (place - following) / (start + tile * scale - following), 0, 1)
        weights[i] = weight
    weights /= weights.sum(axis=0)
    pieces = [weights[i, s : s + tile * scale] for i, s in enumerate(starts * scale)]
    return starts.astype(np.int32), np.stack(pieces).astype(np.float32)
