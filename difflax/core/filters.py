"""Image filters that several rooms of the house need."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def gaussian_blur(image: Float[Array, "b h w c"], std: float | Float[Array, ""]) -> Float[Array, "b h w c"]:
    """A Gaussian blur of standard deviation ``std`` pixels, mirrored at the borders (so constants are
    kept); an infinite one is the mean.
    """
    for axis in (1, 2):
        size = image.shape[axis]
        order, position = jnp.arange(size), jnp.arange(size) + 0.5
        # Mirrored borders make it diagonal in the cosine basis; frequency pi k / n decays as a Gaussian.
        cosines = jnp.cos(jnp.pi / size * position[:, None] * order) * jnp.sqrt(2 / size)
        cosines = cosines.at[:, 0].set(size**-0.5)
        decay = jnp.exp(-((jnp.pi / size * jnp.minimum(std, 1e3 * size) * order) ** 2) / 2)
        matrix = ((cosines * decay) @ cosines.T).astype(image.dtype)
        image = jnp.moveaxis(jnp.tensordot(matrix, image, axes=(1, axis)), 0, axis)
    return image


def coarse(image: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """What is left of an image after one level of a Laplacian pyramid: halved and doubled again (Burt &
    Adelson, 1983, as kornia's ``pyrdown`` and ``pyrup`` do it: the binomial filter, mirrored at the borders,
    before the one and after the other bilinear resize). An axis of fewer than 3 pixels stays as it is.
    """
    small = [max(size // 2, 1) if size >= 3 else size for size in image.shape[1:3]]
    halved = _resize(_binomial(image), small)
    return _binomial(_resize(halved, image.shape[1:3]))


def _binomial(image: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """(1, 4, 6, 4, 1) / 16 along both axes of two pixels or more on either side."""
    kernel = np.array([1, 4, 6, 4, 1]) / 16
    for axis in (1, 2):
        size = image.shape[axis]
        if size < 3:
            continue
        widths = [(2, 2) if i == axis else (0, 0) for i in range(4)]
        padded = jnp.pad(image, widths, mode="reflect")
        parts = [
            weight * jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i, weight in enumerate(kernel)
        ]
        image = sum(parts[1:], parts[0])
    return image


def _resize(image: Float[Array, "b h w c"], size: Sequence[int]) -> Float[Array, "b rows columns c"]:
    return jax.image.resize(image, (image.shape[0], *size, image.shape[-1]), method="linear", antialias=False)
