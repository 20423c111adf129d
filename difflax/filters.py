"""Image filters that several rooms of the house need."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def gaussian_blur(image: Float[Array, "b h w c"], std: float | Float[Array, ""]) -> Float[Array, "b h w c"]:
    """A Gaussian blur of standard deviation ``std`` pixels, mirrored at the borders (so constants are
    kept); an infinite one is the mean.
    """
    for axis in (1, 2):
        size = image.shape[axis]
        position = jnp.arange(size)
        # Mirrored borders make the blur diagonal in the cosine basis; a matrix is simplest at image sizes.
        distance = position[:, None] - jnp.arange(-size, 2 * size)[None]
        weights = jnp.exp(-(distance**2) / (2 * jnp.maximum(std, 1e-3) ** 2))
        mirrored = weights[:, :size][:, ::-1] + weights[:, size : 2 * size] + weights[:, 2 * size :][:, ::-1]
        mirrored = (mirrored / mirrored.sum(axis=1, keepdims=True)).astype(image.dtype)
        image = jnp.moveaxis(jnp.tensordot(mirrored, image, axes=(1, axis)), 0, axis)
    return image
