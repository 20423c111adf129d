"""Fine-tuning of a pretrained model: denoising with networks that a tuning joins from frozen and trained."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from difflax.core import streams
from difflax.core.types import Conditioning, Params
from difflax.diffusion.loss.weightings import Constant
from difflax.models.autoencoder_kl import KLAutoencoder, Posterior
from difflax.pretrained.families.base import Networks
from difflax.pretrained.format.layout import AUTOENCODER
from difflax.training.objectives.base import LOSS_PARAMS, WHOLE, BatchPart, network_params, pixels
from difflax.training.objectives.denoising import Denoising, drop_rows
from difflax.training.tunings import Tuning


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuning:
    """A `Denoising` whose network, text encoder and autoencoder are a checkpoint's.

    A batch has ``image`` [b, h, w, c] uint8, or ``moments`` [b, lh, lw, 2 lc], what the autoencoder said of
    it: mean and log-variance; ``tokens`` [b, …] that ``encode`` reads, or ``conditioning``; and perhaps
    ``beside``, the conditions that are no text, ``weight`` [b], what the loss of an example counts, and
    ``mask``.

    Attributes:
        denoising: the loss; its ``model`` is the denoiser and ``null`` the condition of dropped captions.
        tuning: what is trained.
        networks: shapes of the checkpoint's networks.
        denoiser: the name of the denoising one.
        autoencoder: the autoencoder.
        encode: networks and tokens to what the denoiser is told.
        null_tokens: of the empty caption [1, …], in the place of dropped ones; ``None`` where these become
            ``denoising.null`` after they are read (Stable Diffusion XL's zeros).
        given: the arrays that are read and not trained: the tuning's frozen networks, and `AUTOENCODER`;
            those that batches make needless may be left out.
    """

    denoising: Denoising
    tuning: Tuning
    networks: Networks
    denoiser: str
    autoencoder: KLAutoencoder
    encode: Callable[[Networks, PyTree], Conditioning]
    null_tokens: PyTree
    given: PyTree = None

    @property
    def model(self):
        return self.denoising.model

    def init(self, key: Key[Array, ""]) -> Params:
        own = self.denoising.uncertainty.init()
        params = self.tuning.init(key, self.networks)
        return params if own is None else {**params, LOSS_PARAMS: {"log_variance": own}}

    def begin(self) -> PyTree:
        return self.denoising.begin()

    def advance(self, memory: PyTree, losses: Float[Array, " b"], key: Key[Array, ""]) -> PyTree:
        return self.denoising.advance(memory, losses, key)

    def reading(self, frozen: PyTree) -> "FineTuning":
        return dataclasses.replace(self, given=frozen)

    def loss(
        self, params: Params, batch: PyTree, key: Key[Array, ""], memory: PyTree = (), part: BatchPart = WHOLE
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, ""]]]:
        networks = self._networks(params)
        x0 = self._latents(batch, part.keys(key, _rows(batch)))
        conditioning, null = batch.get("conditioning"), self.denoising.null
        if "tokens" in batch:
            tokens = batch["tokens"]
            if self.null_tokens is not None:
                # Dropped before they are read, so that nothing is encoded twice.
                keys = part.keys(key, x0.shape[0])
                keys, share = streams.substream(keys, "caption"), self.denoising.caption_dropout
                tokens, null = drop_rows(tokens, self.null_tokens, share, keys), None
            conditioning = self.encode(networks, tokens)
        batch = _told(batch, conditioning)
        trained = {**networks[self.denoiser], **{n: v for n, v in params.items() if n == LOSS_PARAMS}}
        losses, metrics = self.denoising.loss_of_latents(trained, x0, batch, null, key, memory, part)
        return losses * batch.get("weight", 1.0), metrics

    def losses_at(
        self,
        params: Params,
        batch: PyTree,
        keys: Key[Array, " b"],
        t: Float[Array, " b"],
        weighting: Constant,
    ) -> Float[Array, " b"]:
        """See `Validated`; the latents are drawn from the autoencoder's posterior by the same keys."""
        networks = self._networks(params)
        conditioning = batch.get("conditioning")
        if conditioning is None:
            conditioning = self.encode(networks, batch["tokens"])
        x0, batch = self._latents(batch, keys), _told(batch, conditioning)
        network = networks[self.denoiser]
        return self.denoising.losses_of_latents_at(network, x0, batch, keys, t, weighting)

    def _networks(self, params: Params) -> Networks:
        frozen = {name: value for name, value in self.given.items() if name != AUTOENCODER}
        return self.tuning.merge(frozen, network_params(params))

    def _latents(self, batch: PyTree, keys: Key[Array, " b"]) -> Float[Array, "b lh lw lc"]:
        if "moments" in batch:
            posterior = Posterior(*jnp.split(batch["moments"], 2, axis=-1))
        else:
            posterior = self.autoencoder.posterior(self.given[AUTOENCODER], pixels(batch))
        noise = streams.normal(
            streams.substream(keys, "latent"), posterior.mean.shape[1:], posterior.mean.dtype
        )
        return jax.lax.stop_gradient(self.autoencoder.scale(posterior.at(noise)))


def _rows(batch: PyTree) -> int:
    return len(batch["moments"] if "moments" in batch else batch["image"])


def _told(batch: PyTree, conditioning: Conditioning) -> PyTree:
    """The batch with all that the network is told of it."""
    return {**batch, "conditioning": conditioning.joined(batch.get("beside", Conditioning()))}
