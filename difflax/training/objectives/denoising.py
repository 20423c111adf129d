"""Denoising: the loss of a diffusion model."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from difflax.core import streams
from difflax.core.types import Conditioning, Params
from difflax.diffusion.denoisers import NetworkInput
from difflax.diffusion.loss.losses import Penalty, diffusion_loss
from difflax.diffusion.loss.noises import Noise, White
from difflax.diffusion.loss.time_samplers import LossAwareTimes, RunningLoss, TimeSampler, sample_times
from difflax.diffusion.loss.weightings import LearnedUncertainty, NoUncertainty, Weighting
from difflax.diffusion.predictions import PredictionType
from difflax.diffusion.schedules import NoiseSchedule, noise_level
from difflax.models.autoencoder import Autoencoder
from difflax.models.functional import Functional, conditional_network
from difflax.training.objectives.base import LOSS_PARAMS, Plain, network_params, pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoising(Plain):
    """Denoising under a condition (Ho et al. 2020, https://arxiv.org/abs/2006.11239, algorithm 1).

    A batch has ``image`` [b, h, w, c] uint8, or ``latent`` [b, lh, lw, lc] instead, and ``conditioning``;
    also ``mask`` [b, h, w, 1] uint8 where the loss is ``masked`` to a part of each image (255: it counts).

    Attributes:
        caption_dropout: the share of examples that see ``null`` in place of their caption, so that the
            network learns the unconditional model as well (Ho & Salimans, https://arxiv.org/abs/2207.12598).
        null: the condition of saying nothing, one row; ``None`` if examples have no captions.
    """

    model: Functional
    autoencoder: Autoencoder
    schedule: NoiseSchedule
    prediction_type: PredictionType
    time_sampler: TimeSampler
    weighting: Weighting
    penalty: Penalty
    network_input: NetworkInput
    caption_dropout: float
    null: Conditioning
    noise: Noise = dataclasses.field(default_factory=White)
    uncertainty: LearnedUncertainty | NoUncertainty = dataclasses.field(default_factory=NoUncertainty)
    masked: bool = False

    def init(self, key: Key[Array, ""]) -> Params:
        own = self.uncertainty.init()
        params = self.model.init(key)
        return params if own is None else {**params, LOSS_PARAMS: {"log_variance": own}}

    def begin(self) -> PyTree:
        return self.time_sampler.begin() if isinstance(self.time_sampler, RunningLoss) else ()

    def loss(
        self, params: Params, batch: PyTree, key: Key[Array, ""], memory: PyTree = ()
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, ""]]]:
        x0 = batch["latent"] if "latent" in batch else self.autoencoder.encode({}, pixels(batch))
        return self.loss_of_latents(params, x0, batch, self.null, key, memory)

    def loss_of_latents(
        self,
        params: Params,
        x0: Float[Array, "b h w c"],
        batch: PyTree,
        null: Conditioning | None,
        key: Key[Array, ""],
        memory: PyTree = (),
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, ""]]]:
        """The loss of images that are encoded; ``null`` takes the place of dropped captions, ``None`` drops
        none.
        """
        keys, t = self._times(key, x0.shape[0], memory)
        eps = self.noise(streams.substream(keys, "noise"), x0)
        level = noise_level(self.schedule, t)
        mask = None
        if self.masked:
            mask = batch["mask"].astype(jnp.float32) / 255
            mask = jax.image.resize(mask, (*x0.shape[:3], 1), "linear")
        conditioning = batch["conditioning"]
        if null is not None:
            keys_of_captions = streams.substream(keys, "caption")
            conditioning = drop_captions(conditioning, null, self.caption_dropout, keys_of_captions)
        losses = diffusion_loss(
            conditional_network(self.model),
            network_params(params),
            self.prediction_type,
            x0,
            eps,
            level,
            conditioning,
            weighting=self.weighting,
            penalty=self.penalty,
            network_input=self.network_input,
            mask=mask,
        )
        own = params.get(LOSS_PARAMS, {}).get("log_variance")
        losses = self.uncertainty(own, losses, level)
        if isinstance(memory, LossAwareTimes):
            losses = losses * memory.factor(t)
        return losses, {}

    def advance(self, memory: PyTree, losses: Float[Array, " b"], key: Key[Array, ""]) -> PyTree:
        if not isinstance(memory, LossAwareTimes):
            return memory
        _, t = self._times(key, losses.shape[0], memory)
        return memory.update(t, losses / memory.factor(t))

    def _times(
        self, key: Key[Array, ""], count: int, memory: PyTree
    ) -> tuple[Key[Array, " b"], Float[Array, " b"]]:
        """The keys of the examples and their times."""
        keys = streams.sample_keys(key, jnp.arange(count))
        sampler = memory if isinstance(memory, LossAwareTimes) else self.time_sampler
        return keys, sample_times(sampler, streams.substream(keys, "time"), self.schedule)


def drop_captions(captions: PyTree, null: PyTree, share: float, keys: Key[Array, " b"]) -> PyTree:
    """``null`` in place of each row of conditions or tokens with probability ``share``; the sizes of an image
    are no caption and stay.
    """
    dropped = jax.vmap(lambda k: jax.random.bernoulli(k, share))(keys)

    def replace(given: Array, empty: Array) -> Array:
        return jnp.where(dropped.reshape(-1, *[1] * (given.ndim - 1)), empty, given)

    if not isinstance(captions, Conditioning):
        return jax.tree.map(replace, captions, null)
    made = jax.tree.map(replace, dataclasses.replace(captions, time_ids=None), null)
    return dataclasses.replace(made, time_ids=captions.time_ids)
