"""CLIP's contrastive loss."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from difflax.core.types import Params
from difflax.models.functional import Functional
from difflax.text.contrastive import contrastive_loss, retrieval
from difflax.text.pixels import PixelConfig, preprocess_images
from difflax.training.objectives.base import WHOLE, BatchPart, Plain


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrastive(Plain):
    """CLIP's (Radford et al. 2021, https://arxiv.org/abs/2103.00020, figure 3).

    A batch has ``image`` [b, h, w, c] uint8, ``input_ids`` [b, n] and ``caption_id`` [b], equal for equal
    captions. Each example is told from all others of its batch, so that a ``part`` of one is another loss.
    """

    model: Functional
    pixels: PixelConfig

    def loss(
        self, params: Params, batch: PyTree, key: Key[Array, ""], memory: PyTree = (), part: BatchPart = WHOLE
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, ""]]]:
        images = batch["image"].astype(jnp.float32) / 255
        pixel_values = preprocess_images(images, self.pixels.size, self.pixels.mean, self.pixels.std)
        logits = self.model.apply(params, batch["input_ids"], pixel_values).logits_per_text
        found = retrieval(logits, batch["caption_id"])
        return contrastive_loss(logits, batch["caption_id"]), {"recall_at_1": found.text_to_image}
