"""Autoencoders: what stands between images and what the network denoises.

An image is ``[b, h, w, channels]`` in [-1, 1]; what the network sees is called its latent, whether or not
anything was learned. An autoencoder holds settings; weights, where it has any, are passed in as ``params``.
"""

import dataclasses
import functools
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from jaxtyping import Array, Float, Key

from difflax.core.types import Params, UserError
from difflax.models.layers import depth_to_space, space_to_depth


@runtime_checkable
class Autoencoder(Protocol):
    """Images to latents and back.

    ``channels`` is the number of an image's. ``log_volume`` is the logarithm of what ``encode`` multiplies
    volumes by, per value; ``None`` where it loses a part of the image. ``widest`` is how many channels a
    pixel has at most on the way.
    """

    channels: int
    widest: int
    log_volume: float | None

    def encode(
        self, params: Params, images: Float[Array, "b h w c"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "b lh lw lc"]:
        """Latents of ``images``; ``key`` draws from the encoder's distribution, ``None`` takes its mode."""
        ...

    def decode(self, params: Params, latents: Float[Array, "b lh lw lc"]) -> Float[Array, "b h w c"]:
        """Images of ``latents``."""
        ...

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Height, width and channels of the latent of an image of ``height`` × ``width`` pixels.

        Raises:
            UserError: if there is no latent of such an image.
        """
        ...


@functools.partial(jax.jit, static_argnums=0)
def encode_images(
    autoencoder: Autoencoder, params: Params, images: Float[Array | np.ndarray, "b h w c"]
) -> Float[Array, "b lh lw lc"]:
    """Latents of images in [-1, 1], as one compiled program."""
    return autoencoder.encode(params, images)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """The network denoises the pixels themselves.

    Attributes:
        channels: of an image.
    """

    channels: int = 3
    log_volume = 0.0

    @property
    def widest(self) -> int:
        return self.channels

    def encode(
        self, params: Params, images: Float[Array, "b h w c"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "b h w c"]:
        return images

    def decode(self, params: Params, latents: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return latents

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return height, width, self.channels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patchify:
    """Space to depth: every square of ``patch_size`` × ``patch_size`` pixels becomes one of many channels.

    Lossless and orthogonal, so noise in the latent is noise of the same strength in the image. Channels are
    in the order (row, column, colour) within the square.

    Attributes:
        patch_size: edge of a square, in pixels.
        channels: of an image.
    """

    patch_size: int = 2
    channels: int = 3
    log_volume = 0.0

    @property
    def widest(self) -> int:
        return self.channels

    def __post_init__(self):
        if self.patch_size < 1:
            raise UserError(f"patch_size={self.patch_size} must be at least 1")

    def encode(
        self, params: Params, images: Float[Array, "b h w c"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "b lh lw lc"]:
        self.latent_shape(*images.shape[1:3])
        return space_to_depth(images, self.patch_size)

    def decode(self, params: Params, latents: Float[Array, "b lh lw lc"]) -> Float[Array, "b h w c"]:
        return depth_to_space(latents, self.patch_size)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        p = self.patch_size
        if height % p or width % p:
            raise UserError(f"patch_size={p} does not divide an image of {height} × {width} pixels")
        return height // p, width // p, p * p * self.channels


@dataclasses.dataclass(frozen=True, kw_only=True)
class CosineTransform:
    """Squares of ``patch_size`` pixels as the coefficients of their cosine transform (DCT-II, orthonormal),
    after DCTdiff (Ning et al. 2024, https://arxiv.org/abs/2412.15032).

    The coefficient of ``u`` half-waves down and ``v`` across is multiplied by ``(1 + u + v) ** whitening``.
    Pictures have little energy in high frequencies, so that noise and the loss drown what tells one outline
    from another; with ``whitening`` 1 fine structure counts about as much as colour. 0 is `Patchify` rotated.

    Attributes:
        patch_size: edge of a square, in pixels.
        channels: of an image.
        whitening: exponent of the gains, not negative.
    """

    patch_size: int = 4
    channels: int = 3
    whitening: float = 1.0

    def __post_init__(self):
        if self.whitening < 0:
            raise ValueError(f"whitening must not be negative, got {self.whitening}")

    @property
    def widest(self) -> int:
        return self.channels

    @property
    def log_volume(self) -> float:
        return float(np.log(self._gains).mean())

    @property
    def _patches(self) -> Patchify:
        return Patchify(patch_size=self.patch_size, channels=self.channels)

    @property
    def _basis(self) -> Float[np.ndarray, "p p"]:
        """One half-wave number a row."""
        return scipy.fft.dct(np.eye(self.patch_size), axis=0, norm="ortho").astype(np.float32)

    @property
    def _gains(self) -> Float[np.ndarray, "p p 1"]:
        waves = np.arange(self.patch_size, dtype=np.float32)
        return (1 + waves[:, None, None] + waves[:, None]) ** self.whitening

    def encode(
        self, params: Params, images: Float[Array, "b h w c"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "b lh lw lc"]:
        flat = self._patches.encode(params, images)
        squares = flat.reshape(*flat.shape[:3], self.patch_size, self.patch_size, -1)
        waves = jnp.einsum("up,vq,bhwpqc->bhwuvc", self._basis, self._basis, squares)
        return (waves * self._gains).reshape(flat.shape)

    def decode(self, params: Params, latents: Float[Array, "b lh lw lc"]) -> Float[Array, "b h w c"]:
        waves = latents.reshape(*latents.shape[:3], self.patch_size, self.patch_size, -1) / self._gains
        squares = jnp.einsum("up,vq,bhwuvc->bhwpqc", self._basis, self._basis, waves)
        return self._patches.decode(params, squares.reshape(latents.shape))

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return self._patches.latent_shape(height, width)


AUTOENCODERS = {"identity": Identity, "patchify": Patchify, "cosine_transform": CosineTransform}
