"""Denoising: the loss of a diffusion model."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from difflax.core import streams
from difflax.core.types import Conditioning, Params
from difflax.diffusion.denoisers import NetworkInput
from difflax.diffusion.loss.losses import Penalty, diffusion_loss
from difflax.diffusion.loss.noises import Noise, White
from difflax.diffusion.loss.time_samplers import TimeSampler, sample_times
from difflax.diffusion.loss.variational import VariationalBound
from difflax.diffusion.loss.weightings import Constant, NoUncertainty, Uncertainty, Weighting
from difflax.diffusion.predictions import PredictionType
from difflax.diffusion.schedules import NoiseSchedule, noise_level
from difflax.models.autoencoder import Autoencoder
from difflax.models.functional import Functional
from difflax.training.objectives.base import LOSS_PARAMS, WHOLE, BatchPart, Plain, network_params, pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoising(Plain):
    """Denoising under a condition (Ho et al. 2020, https://arxiv.org/abs/2006.11239, algorithm 1).

    A batch has ``image`` [b, h, w, c] uint8, or ``latent`` [b, lh, lw, lc] instead, and ``conditioning``;
    also ``mask`` [b, h, w, 1] uint8 where the loss is ``masked`` to a part of each image (255: it counts).

    Attributes:
        caption_dropout: the share of examples that see ``null`` in place of their caption, so that the
            network learns the unconditional model as well (Ho & Salimans, https://arxiv.org/abs/2207.12598).
        null: the condition of saying nothing, one row; ``None`` if examples have no captions.
        vlb_weight: of the `VariationalBound`; 0: none, and what a network says of its variance is not read.
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
    null: Conditioning | None
    noise: Noise = dataclasses.field(default_factory=White)
    uncertainty: Uncertainty = dataclasses.field(default_factory=NoUncertainty)
    masked: bool = False
    vlb_weight: float = 0.0

    def init(self, key: Key[Array, ""]) -> Params:
        own = self.uncertainty.init()
        params = self.model.init(key)
        return params if own is None else {**params, LOSS_PARAMS: {"log_variance": own}}

    def begin(self) -> PyTree:
        return self.time_sampler.begin()

    def loss(
        self, params: Params, batch: PyTree, key: Key[Array, ""], memory: PyTree = (), part: BatchPart = WHOLE
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, ""]]]:
        return self.loss_of_latents(params, self._latents(batch), batch, self.null, key, memory, part)

    def losses_at(
        self,
        params: Params,
        batch: PyTree,
        keys: Key[Array, " b"],
        t: Float[Array, " b"],
        weighting: Constant,
    ) -> Float[Array, " b"]:
        """See `Validated`."""
        return self.losses_of_latents_at(params, self._latents(batch), batch, keys, t, weighting)

    def losses_of_latents_at(
        self,
        params: Params,
        x0: Float[Array, "b h w c"],
        batch: PyTree,
        keys: Key[Array, " b"],
        t: Float[Array, " b"],
        weighting: Constant,
    ) -> Float[Array, " b"]:
        """As `losses_at`, of images that are encoded."""
        return diffusion_loss(
            self.model.module(network_params(params)),
            self.prediction_type,
            x0,
            White()(streams.substream(keys, "noise"), x0),
            noise_level(self.schedule, t),
            batch["conditioning"],
            weighting=weighting,
            network_input=self.network_input,
            mask=self._mask(batch, x0),
        )

    def loss_of_latents(
        self,
        params: Params,
        x0: Float[Array, "b h w c"],
        batch: PyTree,
        null: Conditioning | None,
        key: Key[Array, ""],
        memory: PyTree = (),
        part: BatchPart = WHOLE,
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, ""]]]:
        """The loss of images that are encoded; ``null`` takes the place of dropped captions, ``None`` drops
        none.
        """
        sampler, times = self._times(key, x0.shape[0] * part.of, memory)
        keys, t = part.keys(key, x0.shape[0]), times[part.rows(x0.shape[0])]
        eps = self.noise(streams.substream(keys, "noise"), x0)
        level = noise_level(self.schedule, t)
        conditioning = batch["conditioning"]
        if null is not None:
            keys_of_captions = streams.substream(keys, "caption")
            conditioning = drop_captions(conditioning, null, self.caption_dropout, keys_of_captions)
        dropout = part.own(streams.substream(key, "dropout"))
        bound = VariationalBound(schedule=self.schedule, weight=self.vlb_weight) if self.vlb_weight else None
        losses = diffusion_loss(
            functools.partial(self.model.module(network_params(params)), dropout_key=dropout),
            self.prediction_type,
            x0,
            eps,
            level,
            conditioning,
            weighting=self.weighting,
            penalty=self.penalty,
            network_input=self.network_input,
            mask=self._mask(batch, x0),
            bound=bound,
        )
        own = params.get(LOSS_PARAMS, {}).get("log_variance")
        losses = self.uncertainty(own, losses, level)
        return losses * sampler.factor(t).astype(losses.dtype), {}

    def advance(self, memory: PyTree, losses: Float[Array, " b"], key: Key[Array, ""]) -> PyTree:
        sampler, t = self._times(key, losses.shape[0], memory)
        return sampler.update(t, losses / sampler.factor(t))

    def _latents(self, batch: PyTree) -> Float[Array, "b h w c"]:
        return batch["latent"] if "latent" in batch else self.autoencoder.encode({}, pixels(batch))

    def _mask(self, batch: PyTree, x0: Float[Array, "b h w c"]) -> Float[Array, "b h w 1"] | None:
        if not self.masked:
            return None
        mask = batch["mask"].astype(jnp.float32) / 255
        return jax.image.resize(mask, (*x0.shape[:3], 1), "linear")

    def _times(
        self, key: Key[Array, ""], count: int, memory: PyTree
    ) -> tuple[TimeSampler, Float[Array, " b"]]:
        """The step's time sampler, and the times of all ``count`` examples of the batch."""
        keys = WHOLE.keys(key, count)
        sampler = self.time_sampler.remembering(memory)
        return sampler, sample_times(sampler, streams.substream(keys, "time"), self.schedule)


def drop_captions(
    captions: Conditioning, null: Conditioning, share: float, keys: Key[Array, " b"]
) -> Conditioning:
    """``null`` in place of each row with probability ``share``; what ``null`` says nothing of, as the sizes
    of an image, is no caption and stays.
    """
    said = [name for name, empty in vars(null).items() if empty is not None]
    rows, empty = ({name: getattr(told, name) for name in said} for told in (captions, null))
    return dataclasses.replace(captions, **drop_rows(rows, empty, share, keys))


def drop_rows(rows: PyTree, null: PyTree, share: float, keys: Key[Array, " b"]) -> PyTree:
    """``null`` in place of each row of a tree of arrays with probability ``share``."""
    dropped = jax.vmap(lambda k: jax.random.bernoulli(k, share))(keys)

    def replace(given: Array | np.ndarray, empty: Array | np.ndarray) -> Array:
        return jnp.where(dropped.reshape(-1, *[1] * (given.ndim - 1)), empty, given)

    return jax.tree.map(replace, rows, null)
