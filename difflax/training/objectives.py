"""What is trained: a loss of every example as a pure function of parameters, batch and key."""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from difflax import streams
from difflax.diffusion.denoisers import NetworkInput
from difflax.diffusion.losses import MeanSquared, diffusion_loss
from difflax.diffusion.predictions import PredictionType
from difflax.diffusion.schedules import NoiseSchedule, noise_level
from difflax.diffusion.time_samplers import TimeSampler, sample_times
from difflax.diffusion.weightings import Weighting
from difflax.models.autoencoder import Codec
from difflax.models.functional import Functional, conditional_network
from difflax.text.contrastive import contrastive_loss, retrieval
from difflax.text.pixels import PixelConfig, preprocess_images
from difflax.types import Conditioning, Params


@runtime_checkable
class Objective(Protocol):
    """A loss, and the model whose parameters it trains."""

    model: Functional

    def loss(
        self, params: Params, batch: PyTree, key: Key[Array, ""]
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, ""]]]:
        """The loss of every example, and what else is worth logging."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoising:
    """Denoising under a condition (Ho et al. 2020, https://arxiv.org/abs/2006.11239, algorithm 1).

    A batch has ``image`` [b, h, w, c] uint8 and ``conditioning``.

    Attributes:
        caption_dropout: the share of examples that see ``null`` in place of their caption, so that the
            network learns the unconditional model as well (Ho & Salimans, https://arxiv.org/abs/2207.12598).
        null: the condition of saying nothing, one row; ``None`` if examples have no captions.
    """

    model: Functional
    codec: Codec
    schedule: NoiseSchedule
    prediction_type: PredictionType
    time_sampler: TimeSampler
    weighting: Weighting
    penalty: MeanSquared
    network_input: NetworkInput
    caption_dropout: float
    null: Conditioning

    def loss(
        self, params: Params, batch: PyTree, key: Key[Array, ""]
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, ""]]]:
        images = batch["image"].astype(jnp.float32) / 127.5 - 1
        x0 = self.codec.encode({}, images)
        keys = streams.sample_keys(key, jnp.arange(x0.shape[0]))
        t = sample_times(self.time_sampler, streams.substream(keys, "time"), self.schedule)
        eps = streams.normal(streams.substream(keys, "noise"), x0.shape[1:])
        losses = diffusion_loss(
            conditional_network(self.model),
            params,
            self.prediction_type,
            x0,
            eps,
            noise_level(self.schedule, t),
            drop_captions(
                batch["conditioning"], self.null, self.caption_dropout, streams.substream(keys, "caption")
            ),
            weighting=self.weighting,
            penalty=self.penalty,
            network_input=self.network_input,
        )
        return losses, {}


def drop_captions(
    conditioning: Conditioning, null: Conditioning, share: float, keys: Key[Array, " b"]
) -> Conditioning:
    """``null`` in place of each row with probability ``share``."""
    dropped = jax.vmap(lambda k: jax.random.bernoulli(k, share))(keys)

    def replace(given: Array, empty: Array) -> Array:
        return jnp.where(dropped.reshape(-1, *[1] * (given.ndim - 1)), empty, given)

    return jax.tree.map(replace, conditioning, null)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrastive:
    """CLIP's (Radford et al. 2021, https://arxiv.org/abs/2103.00020, figure 3).

    A batch has ``image`` [b, h, w, c] uint8, ``input_ids`` [b, n] and ``caption_id`` [b], equal for equal
    captions.
    """

    model: Functional
    pixels: PixelConfig

    def loss(
        self, params: Params, batch: PyTree, key: Key[Array, ""]
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, ""]]]:
        images = batch["image"].astype(jnp.float32) / 255
        pixel_values = preprocess_images(images, self.pixels.size, self.pixels.mean, self.pixels.std)
        logits = self.model.apply(params, batch["input_ids"], pixel_values).logits_per_text
        found = retrieval(logits, batch["caption_id"])
        return contrastive_loss(logits, batch["caption_id"]), {"recall_at_1": found.text_to_image}
