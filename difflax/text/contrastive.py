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
from jaxtyping import Array, Bool, Float, Int


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
    pair = jnp.diagonal(logits)
    if caption_ids is not None:
        copies = _equal(caption_ids) & ~jnp.eye(len(logits), dtype=bool)
        logits = jnp.where(copies, -jnp.inf, logits)
    captions_pick = jax.nn.logsumexp(logits, axis=1) - pair
    images_pick = jax.nn.logsumexp(logits, axis=0) - pair
    return (captions_pick + images_pick) / 2


@flax.struct.dataclass
class Retrieval:
    """How often a right one comes first, as fractions in [0, 1].

    Attributes:
        text_to_image: captions whose best image was captioned with the same words.
        image_to_text: images whose best caption is their own, or a copy of it.
        chance: what both are, in expectation, for features that know nothing.
    """

    text_to_image: Float[Array, "*batch"]
    image_to_text: Float[Array, "*batch"]
    chance: Float[Array, "*batch"]


def retrieval(logits_per_text: Float[Array, "n n"], caption_ids: Int[Array, " n"] | None = None) -> Retrieval:
    """Recall@1 among ``n`` pairs in both directions, and its exact chance level.

    Args:
        logits_per_text: caption ``i`` against image ``j``, any positive scale.
        caption_ids: as for `contrastive_loss`.
    """
    ids = jnp.arange(len(logits_per_text)) if caption_ids is None else caption_ids
    right = _equal(ids)
    return Retrieval(
        text_to_image=recall_at_1(logits_per_text, right),
        image_to_text=recall_at_1(logits_per_text.T, right),
        chance=jnp.mean(right),
    )


def recall_at_1(scores: Float[Array, "n m"], right: Bool[Array, "n m"]) -> Float[Array, ""]:
    """The fraction of ``n`` queries whose best of ``m`` candidates is right, ties drawn at random.

    Features that know nothing reach ``right.mean()`` in expectation.
    """
    best = scores == scores.max(axis=1, keepdims=True)
    return jnp.mean(jnp.sum(best & right, axis=1) / jnp.sum(best, axis=1))


def _equal(ids: Int[Array, " b"]) -> Bool[Array, "b b"]:
    return ids[:, None] == ids[None, :]
