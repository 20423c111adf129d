"""Autoencoders without weights: what goes in comes out, and the cosine transform is scipy's."""

import jax
import numpy as np
import pytest
import scipy.fft
from difflax.core.types import UserError
from difflax.models.autoencoder import CosineTransform, Identity, Patchify

IMAGES = jax.random.uniform(jax.random.key(0), (2, 8, 12, 3), minval=-1.0)
AUTOENCODERS = [
    Identity(),
    Patchify(patch_size=4),
    CosineTransform(whitening=0.0),
    CosineTransform(whitening=1.25),
]


@pytest.mark.parametrize("autoencoder", AUTOENCODERS, ids=repr)
def test_decoding_inverts_encoding(autoencoder):
    latents = autoencoder.encode({}, IMAGES)
    assert latents.shape[1:] == autoencoder.latent_shape(8, 12)
    np.testing.assert_allclose(autoencoder.decode({}, latents), IMAGES, atol=1e-6)


@pytest.mark.parametrize("whitening", [0.0, 1.25])
def test_the_cosine_transform_is_scipys_with_its_gains(whitening):
    latents = CosineTransform(patch_size=4, whitening=whitening).encode({}, IMAGES)
    for row, column in ((0, 0), (1, 2)):
        square = IMAGES[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        waves = scipy.fft.dctn(square, axes=(1, 2), norm="ortho")
        for u in range(4):
            for v in range(4):
                waves[:, u, v] *= (1 + u + v) ** whitening
        np.testing.assert_allclose(latents[:, row, column], waves.reshape(2, -1), atol=1e-5)


def test_without_whitening_distances_are_kept():
    """An orthonormal transform: noise of unit variance stays so, and a squared error is the pixels'."""
    latents = CosineTransform(whitening=0.0).encode({}, IMAGES)
    np.testing.assert_allclose((np.asarray(latents) ** 2).sum(), (IMAGES**2).sum(), rtol=1e-5)


@pytest.mark.parametrize("autoencoder", AUTOENCODERS[1:], ids=repr)
def test_an_image_that_is_no_whole_number_of_patches_is_refused(autoencoder):
    with pytest.raises(UserError, match="does not divide"):
        autoencoder.latent_shape(8, 10)
