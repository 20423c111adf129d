"""How CLIP learns, and how well it retrieves.

A batch holds ``b`` images and their captions. Each image picks its caption out of the batch and each caption
its image, by softmax over scaled cosines (Radford et al. 2021, fig. 3):

    loss_i = ½ (−log softmax_j(l_ij)[i] − log softmax_j(l_ji)[i])

In a small language the same caption turns up several times in a batch. Its copies are no negatives of each
other, so both softmaxes leave them out; without copies, this is the loss above.

Under ``jit`` with the batch axis sharded the functions are the same: the matrix of logits is one global
product, and the compiler gathers the features that it needs.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from difflax.models.functional import Functional
from difflax.types import Params


def clip_loss(
    network: Functional, params: Params, input_ids: Int[Array, "b n"], pixel_values: Float[Array, "b h w c"]
) -> tuple[Float[Array, " b"], dict[str, Any]]:
    """The contrastive loss of each pair of a batch, and what to watch.

    Args:
        network: of a `CLIPModel`.
        params: its parameters.
        input_ids: the captions' tokens; equal rows count as one caption.
        pixel_values: the images, prepared by `difflax.text.pixels.preprocess_images`.

    Returns:
        the losses in nats; and ``recall``, the mean of both directions within the batch, and
        ``inverse_temperature``, scalars.
    """
    out = network.apply(params, input_ids, pixel_values)
    matches = equal_rows(input_ids)
    found = retrieval(jax.lax.stop_gradient(out.logits_per_text), matches)
    metrics = {
        "recall": (found.text_to_image + found.image_to_text) / 2,
        "inverse_temperature": jnp.exp(params["logit_scale"]),
    }
    return contrastive_loss(out.logits_per_text, matches), metrics


def contrastive_loss(
    logits_per_text: Float[Array, "b b"], matches: Bool[Array, "b b"] | None = None
) -> Float[Array, " b"]:
    """The symmetric cross-entropy of each pair, in nats; ``ln b`` when all logits are equal.

    Args:
        logits_per_text: scaled cosines, caption ``i`` against image ``j``; pairs stand on the diagonal.
        matches: where caption ``i`` is also right for image ``j``, and so no negative of it; ``None`` is the
            diagonal alone.
    """
    logits = logits_per_text.astype(jnp.float32)
    pair = jnp.diagonal(logits)
    if matches is not None:
        logits = jnp.where(matches & ~jnp.eye(len(logits), dtype=bool), -jnp.inf, logits)
    captions_pick = jax.nn.logsumexp(logits, axis=1) - pair
    images_pick = jax.nn.logsumexp(logits, axis=0) - pair
    return (captions_pick + images_pick) / 2


@flax.struct.dataclass
class Retrieval:
    """How often a right one comes first, as fractions in [0, 1].

    Attributes:
        text_to_image: captions whose best image is one that they fit.
        image_to_text: images whose best caption is one that fits them.
        chance: what both are, in expectation, for features that know nothing.
    """

    text_to_image: Float[Array, "*batch"]
    image_to_text: Float[Array, "*batch"]
    chance: Float[Array, "*batch"]


def retrieval(logits_per_text: Float[Array, "n n"], matches: Bool[Array, "n n"] | None = None) -> Retrieval:
    """Recall@1 among ``n`` pairs, ties broken at random in expectation, and its exact chance level.

    Args:
        logits_per_text: caption ``i`` against image ``j``, any positive scale.
        matches: as for `contrastive_loss`.
    """
    if matches is None:
        matches = jnp.eye(len(logits_per_text), dtype=bool)

    def recall(logits, right):
        best = logits == logits.max(axis=1, keepdims=True)
        return jnp.mean(jnp.sum(best & right, axis=1) / jnp.sum(best, axis=1))

    return Retrieval(
        text_to_image=recall(logits_per_text, matches),
        image_to_text=recall(logits_per_text.T, matches.T),
        chance=jnp.mean(matches),
    )


def equal_rows(input_ids: Int[Array, "b n"]) -> Bool[Array, "b b"]:
    """Which captions of a batch are the same, token by token."""
    return jnp.all(input_ids[:, None] == input_ids[None, :], axis=-1)
