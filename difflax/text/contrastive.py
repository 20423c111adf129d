"""How CLIP learns, and how well it retrieves.

A batch holds ``b`` images and their captions. Each image picks its caption out of the batch and each caption
its image, by softmax over scaled cosines (Radford et al. 2021, fig. 3):

    loss_i = ½ (−log softmax_j(l_ij)[i] − log softmax_j(l_ji)[i])

In a small language the same caption turns up several times in a batch. Its copies are no negatives of each
other, so both softmaxes leave them out; without copies, this is the loss above.

Under ``jit`` with the batch axis sharded the functions are the same: the matrix of logits is one global
product, and the compiler gathers the features that it needs.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def contrastive_loss(
    logits_per_text: Float[Array, "b b"], caption_ids: Int[Array, " b"] | None = None
) -> Float[Array, " b"]:
    """The symmetric cross-entropy of each pair, in nats; ``ln b`` when all logits are equal.

    Args:
        logits_per_text: scaled cosines, caption ``i`` against image ``j``; pairs stand on the diagonal.
        caption_ids: examples with equal ids say the same and are no negatives of each other; ``None`` takes
            all to differ.
    """
    logits = logits_per_text.astype(jnp.float32)
    if caption_ids is not None:
        logits = jnp.where(_copies(caption_ids), -jnp.inf, logits)
    pair = jnp.diagonal(logits)
    captions_pick = jax.nn.logsumexp(logits, axis=1) - pair
    images_pick = jax.nn.logsumexp(logits, axis=0) - pair
    return (captions_pick + images_pick) / 2


@flax.struct.dataclass
class Retrieval:
    """How often the right one comes first, as fractions in [0, 1].

    Attributes:
        text_to_image: captions whose best image was captioned with the same words.
        image_to_text: images whose best caption is their own, or a copy of it.
        chance: what any of the two is for features that know nothing.
    """

    text_to_image: Float[Array, ""]
    image_to_text: Float[Array, ""]
    chance: Float[Array, ""]


def retrieval(logits_per_text: Float[Array, "n n"], caption_ids: Int[Array, " n"] | None = None) -> Retrieval:
    """Recall@1 among ``n`` pairs, ties broken at random in expectation, and its exact chance level.

    Args:
        logits_per_text: caption ``i`` against image ``j``, any positive scale.
        caption_ids: as for `contrastive_loss`.
    """
    same = jnp.eye(len(logits_per_text), dtype=bool)
    if caption_ids is not None:
        same = caption_ids[:, None] == caption_ids[None, :]

    def recall(logits):
        best = logits == logits.max(axis=1, keepdims=True)
        return jnp.mean(jnp.sum(best & same, axis=1) / jnp.sum(best, axis=1))

    return Retrieval(
        text_to_image=recall(logits_per_text),
        image_to_text=recall(logits_per_text.T),
        chance=jnp.mean(same),
    )


def _copies(caption_ids: Int[Array, " b"]) -> Array:
    equal = caption_ids[:, None] == caption_ids[None, :]
    return equal & ~jnp.eye(len(caption_ids), dtype=bool)
