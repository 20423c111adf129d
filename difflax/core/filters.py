"""Image filters that several rooms of the house need."""

import jax.numpy as jnp
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
