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
class Reconstruction:
    """Every caption is said again from its vector, so that the vector keeps its words.

    Attributes:
        weight: what a nat of `reconstruction_loss` counts, in nats of the contrastive loss.
        decoder: a `CaptionDecoder`.
        eos_token_id: of the captions' end.
    """

    weight: float
    decoder: Functional
    eos_token_id: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrastive(Plain):
    """CLIP's (Radford et al. 2021, https://arxiv.org/abs/2103.00020, figure 3).

    A batch has ``image`` [b, h, w, c] uint8, ``input_ids`` [b, n] and ``caption_id`` [b], equal for equal
    captions. Each example is told from all others of its batch, so that a ``part`` of one is another loss.

    Attributes:
        reconstruction: a loss of the captions alone, beside it; ``None``: none.
    """

    model: Functional
    pixels: PixelConfig
    reconstruction: Reconstruction | None = None

    def init(self, key: Key[Array, ""]) -> Params:
        params = self.model.init(key)
        if self.reconstruction is None:
            return params
        decoder = self.reconstruction.decoder.init(jax.random.fold_in(key, 1))
        return {**params, LOSS_PARAMS: {"decoder": decoder}}

    def loss(
        self, params: Params, batch: PyTree, key: Key[Array, ""], memory: PyTree = (), part: BatchPart = WHOLE
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, ""]]]:
        images = batch["image"].astype(jnp.float32) / 255
        pixel_values = preprocess_images(images, self.pixels.size, self.pixels.mean, self.pixels.std)
        captions, also = batch["input_ids"], self.reconstruction
        found = self.model.apply(network_params(params), captions, pixel_values)
        losses = contrastive_loss(found.logits_per_text, batch["caption_id"])
        retrieved = retrieval(found.logits_per_text, batch["caption_id"])
        metrics = {"recall_at_1": retrieved.text_to_image}
        if also is not None:
            decoder = params[LOSS_PARAMS]["decoder"]
            logits = also.decoder.apply(decoder, captions[:, :-1], found.text_pooled)
            nats = reconstruction_loss(logits, captions[:, 1:], also.eos_token_id)
            losses = losses + also.weight * nats
            metrics["caption_nats"] = jnp.mean(nats)
        return losses, metrics
