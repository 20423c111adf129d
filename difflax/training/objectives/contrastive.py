"""CLIP's contrastive loss, and the loss of what its captions' vectors forget."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from difflax.core.types import Params
from difflax.models.functional import Functional
from difflax.text.contrastive import contrastive_loss, retrieval
from difflax.text.pixels import PixelConfig, preprocess_images
from difflax.text.reconstruction import reconstruction_loss
from difflax.training.objectives.base import LOSS_PARAMS, WHOLE, BatchPart, Plain, network_params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrastive(Plain):
    """CLIP's (Radford et al. 2021, https://arxiv.org/abs/2103.00020, figure 3).

    A batch has ``image`` [b, h, w, c] uint8, ``input_ids`` [b, n] and ``caption_id`` [b], equal for equal
    captions. Each example is told from all others of its batch, so that a ``part`` of one is another loss.

    Attributes:
        reconstruction: what a nat of `reconstruction_loss` counts, in nats of the contrastive loss; 0: it is
            not computed.
        decoder: a `CaptionDecoder`, of which a loss with ``reconstruction`` has the parameters.
        eos_token_id: of the captions' end.
    """

    model: Functional
    pixels: PixelConfig
    reconstruction: float = 0.0
    decoder: Functional | None = None
    eos_token_id: int = 0

    def init(self, key: Key[Array, ""]) -> Params:
        params = self.model.init(key)
        if self.decoder is None:
            return params
        return {**params, LOSS_PARAMS: {"decoder": self.decoder.init(jax.random.fold_in(key, 1))}}

    def loss(
        self, params: Params, batch: PyTree, key: Key[Array, ""], memory: PyTree = (), part: BatchPart = WHOLE
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, ""]]]:
        images = batch["image"].astype(jnp.float32) / 255
        pixel_values = preprocess_images(images, self.pixels.size, self.pixels.mean, self.pixels.std)
        towers, captions = self.model.module(network_params(params)), batch["input_ids"]
        logits = towers(captions, pixel_values).logits_per_text
        losses = contrastive_loss(logits, batch["caption_id"])
        metrics = {"recall_at_1": retrieval(logits, batch["caption_id"]).text_to_image}
        if self.decoder is not None:
            vectors = towers.text_model(captions).pooled
            said_again = self.decoder.apply(params[LOSS_PARAMS]["decoder"], captions[:, :-1], vectors)
            nats = reconstruction_loss(said_again, captions[:, 1:], self.eos_token_id)
            losses = losses + self.reconstruction * nats
            metrics["caption_nats"] = jnp.mean(nats)
        return losses, metrics
