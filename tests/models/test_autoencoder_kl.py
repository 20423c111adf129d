"""The autoencoder: its distribution, scale and tiles; Stable Diffusion's own are in test_stable_diffusion."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.models.autoencoder import Autoencoder
from difflax.models.autoencoder_kl import AutoencoderKLConfig, KLAutoencoder, Posterior
from difflax.models.tiling import in_tiles
from difflax.pretrained.format.torch_names import from_torch

# Stable Diffusion 3's: 16 channels, a shift, no convolutions around the latent.
CONFIG = {
    "block_out_channels": [8, 16, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 32,
    "latent_channels": 16,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}


@pytest.fixture(scope="module")
def autoencoder():
    return KLAutoencoder(config=AutoencoderKLConfig.from_config(CONFIG))


@pytest.fixture(scope="module")
def params(autoencoder):
    return jax.jit(autoencoder.network.init)(jax.random.key(0))


def test_is_an_autoencoder_of_scaled_latents(autoencoder, params):
    assert isinstance(autoencoder, Autoencoder)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 24, 3)).astype(np.float32)
    latents = autoencoder.encode(params, jnp.asarray(images))
    assert latents.shape == (2, *autoencoder.latent_shape(16, 24)) == (2, 4, 6, 16)
    mean = autoencoder.network.apply(params, jnp.asarray(images), method="encode").mean
    np.testing.assert_allclose(latents, (mean - 0.0609) * 1.5305, rtol=1e-5)
    decoded = autoencoder.network.apply(params, mean, method="decode")
    np.testing.assert_allclose(autoencoder.decode(params, latents), decoded, atol=1e-4)
    with pytest.raises(UserError, match="multiples of 4"):
        autoencoder.latent_shape(18, 24)


def test_draws_and_divergence_are_those_of_the_gaussian():
    mean, log_variance = jnp.full((1, 64, 64, 4), 0.7), jnp.full((1, 64, 64, 4), np.log(0.25))
    posterior = Posterior(mean, log_variance)
    draws = np.asarray(posterior.sample(jax.random.key(0)))
    assert draws.mean() == pytest.approx(0.7, abs=0.02)
    assert draws.std() == pytest.approx(0.5, abs=0.02)
    # KL of N(mu, s^2) from N(0, 1) in closed form.
    one = (0.7**2 + 0.25 - 1 - np.log(0.25)) / 2
    assert float(posterior.kl()[0]) == pytest.approx(64 * 64 * 4 * one, rel=1e-5)


@pytest.mark.parametrize("length", [5, 8, 9, 14, 23])
def test_tiles_of_a_local_function_are_the_whole(length):
    """Blending adds nothing and leaves no seam where tiles agree."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, length, 11, 3)), jnp.float32)

    def local(x):
        return jnp.repeat(jnp.repeat(jnp.sin(x), 4, axis=1), 4, axis=2)

    made = in_tiles(local, x, tile=8, overlap=0.25, scale=4)
    np.testing.assert_allclose(made, local(x), atol=1e-5)


def test_one_tile_is_decoded_at_a_time(autoencoder):
    """The program holds one tile's activations, whatever the image's size."""
    tiled = dataclasses.replace(autoencoder, tile=8)

    def memory(autoencoder, edge):
        shape = jax.ShapeDtypeStruct((1, edge, edge, 16), jnp.float32)
        lowered = jax.jit(autoencoder.decode).lower(autoencoder.network.abstract(), shape)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    output = 4 * 3 * (40 * 4) ** 2
    assert memory(tiled, 40) < memory(tiled, 16) + 4 * output
    assert memory(tiled, 40) < memory(autoencoder, 40) / 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"down_block_types": ["DownEncoderBlock2D"]}, "down_block_types"),
        ({"up_block_types": ["AttnUpBlock2D"] * 3}, "up_block_types"),
        ({"latents_mean": [0.0]}, "latents_mean"),
        ({"depth": 3}, "unknown option 'depth'"),
    ],
)
def test_configs_that_are_not_supported(change, says):
    with pytest.raises(UserError, match=says):
        AutoencoderKLConfig.from_config(CONFIG | change)


def test_tiles_that_cannot_be(autoencoder):
    for change in ({"tile": 1}, {"tile": 8, "overlap": 0.0}, {"tile": 8, "overlap": 0.7}):
        with pytest.raises(UserError, match="tile"):
            dataclasses.replace(autoencoder, **change)


@pytest.mark.parity
def test_sixteen_channels_and_tiles_as_in_diffusers(autoencoder):
    torch = pytest.importorskip("torch")
    import diffusers

    torch.set_num_threads(1)
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKL(**CONFIG).eval()
    tensors = {n: t.detach().numpy() for n, t in theirs.state_dict().items()}
    params = from_torch(tensors, autoencoder.network.abstract(), "the case")
    latents = np.random.default_rng(0).standard_normal((1, 14, 14, 16)).astype(np.float32)
    z = torch.from_numpy(latents / 1.5305 + 0.0609).permute(0, 3, 1, 2)
    images = np.random.default_rng(0).uniform(-1, 1, (1, 32, 24, 3)).astype(np.float32)
    with torch.no_grad():
        whole = theirs.decode(z).sample.permute(0, 2, 3, 1).numpy()
        mode = theirs.encode(torch.from_numpy(images).permute(0, 3, 1, 2)).latent_dist.mode()
        theirs.enable_tiling()
        tiled = theirs.decode(z).sample.permute(0, 2, 3, 1).numpy()
    mode = (mode.permute(0, 2, 3, 1).numpy() - 0.0609) * 1.5305
    np.testing.assert_allclose(autoencoder.encode(params, jnp.asarray(images)), mode, atol=1e-4)
    np.testing.assert_allclose(autoencoder.decode(params, jnp.asarray(latents)), whole, atol=1e-4)
    ours = np.asarray(dataclasses.replace(autoencoder, tile=8).decode(params, jnp.asarray(latents)))
    assert np.abs(tiled - whole).max() > 0.01
    # Where four tiles meet diffusers blends one of them twice, and at the far edge it adds a small tile.
    for rows, columns in ((slice(24), slice(48)), (slice(48), slice(24)), (slice(32, 48), slice(32, 48))):
        np.testing.assert_allclose(ours[:, rows, columns], tiled[:, rows, columns], atol=1e-4)
