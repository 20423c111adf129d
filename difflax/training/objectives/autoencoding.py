"""Training the autoencoder of latent diffusion (Rombach et al. 2022, https://arxiv.org/abs/2112.10752,
appendix G), without its adversary:

    loss = mean |x - x̂| + kl_weight · KL(q(z|x) ‖ N(0, 1)) / values + feature_weight · d(x, x̂)

``values`` is the number of an image's values, so that weights mean the same at every image size; the
published loss is the sum over them. ``d`` compares the features of a given network, as LPIPS does.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from difflax.core import streams
from difflax.core.types import Params
from difflax.models.functional import Functional
from difflax.text.clip import unit_norm
from difflax.text.pixels import PixelConfig, preprocess_images
from difflax.training.objectives.base import WHOLE, BatchPart, Plain, pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureDistance:
    """A distance of images in the features of a frozen image tower, in the form of LPIPS (Zhang et al. 2018,
    https://arxiv.org/abs/1801.03924, equation 1, all channels weighted alike): features of unit length at
    each layer and place, squared differences summed over channels and averaged over places and layers.

    Attributes:
        model: a CLIP; its image tower is what is compared.
        params: of ``model``.
        pixels: what the tower was trained to see.
    """

    model: Functional
    params: Params = dataclasses.field(repr=False)
    pixels: PixelConfig

    def __call__(
        self, images: Float[Array, "b h w c"], others: Float[Array, "b h w c"]
    ) -> Float[Array, " b"]:
        """The distances of two batches of images in [-1, 1]; 0 for equal images, at most 4."""
        both = zip(self._features(images), self._features(others), strict=True)
        layers = [jnp.square(a - b).sum(-1).mean(-1) for a, b in both]
        return jnp.mean(jnp.stack(layers), axis=0)

    def _features(self, images: Float[Array, "b h w c"]) -> list[Float[Array, "b n d"]]:
        values = preprocess_images(images / 2 + 0.5, self.pixels.size, self.pixels.mean, self.pixels.std)
        states = self.model.apply(self.params, values, method="get_image_states")
        return [unit_norm(state) for state in states[1:]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoencoding(Plain):
    """Images through the encoder's distribution and back. A batch has ``image`` [b, h, w, c] uint8.

    Attributes:
        model: see `difflax.models.autoencoder_kl.AutoencoderKL`.
        kl_weight: of the divergence from the standard normal; small, so that it only keeps latents bounded.
        feature_weight: of ``distance``.
        distance: ``None``: none.
    """

    model: Functional
    kl_weight: float = 1e-6
    feature_weight: float = 0.0
    distance: FeatureDistance | None = None

    def loss(
        self, params: Params, batch: PyTree, key: Key[Array, ""], memory: PyTree = (), part: BatchPart = WHOLE
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, ""]]]:
        images = pixels(batch)
        posterior = self.model.apply(params, images, method="encode")
        keys = part.keys(key, len(images))
        noise = streams.normal(streams.substream(keys, "posterior"), posterior.mean.shape[1:])
        made = self.model.apply(params, posterior.at(noise), method="decode")
        absolute = jnp.abs(images - made).mean(axis=(1, 2, 3))
        kl = posterior.kl()
        losses = absolute + self.kl_weight * kl / images[0].size
        metrics = {"absolute_error": absolute.mean(), "kl": kl.mean()}
        if self.distance is not None:
            distance = self.distance(images, made)
            losses += self.feature_weight * distance
            metrics["feature_distance"] = distance.mean()
        return losses, metrics
