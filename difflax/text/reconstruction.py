"""A decoder that says a caption again from its one vector, so that the vector keeps every word.

What a contrastive loss asks of a caption's vector is to find the picture among those of a batch. Words that
do not help with that, or that the image tower cannot see yet, are lost: places, relations, which word belongs
to which. An auto-encoder of sentences keeps them (Wang et al. 2021, "TSDAE", https://arxiv.org/abs/2104.06979:
a decoder that sees of the caption nothing but one vector); here the decoder also reads the words before each.
"""

import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from difflax.text.clip import CLIPEncoderLayer, CLIPTextEmbeddings
from difflax.text.clip_config import CLIPTextConfig


class CaptionDecoder(nnx.Module):
    """One causal layer that reads a caption's vector beside every word.

    Args:
        config: of the text tower; embeddings and layer have its sizes.
    """

    def __init__(self, config: CLIPTextConfig, *, rngs: nnx.Rngs):
        width, dtype = config.hidden_size, jnp.float32
        self.embeddings = CLIPTextEmbeddings(config, dtype=dtype, rngs=rngs)
        self.vector = nnx.Linear(width, width, rngs=rngs)
        self.layer = CLIPEncoderLayer(config, causal=True, dtype=dtype, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, config.vocab_size, rngs=rngs)

    def __call__(self, input_ids: Int[Array, "b n"], vectors: Float[Array, "b d"]) -> Float[Array, "b n v"]:
        """Logits of the token after each, given the caption's vector and the tokens up to it."""
        x = self.embeddings(input_ids) + self.vector(vectors)[:, None]
        return self.head(self.norm(self.layer(x)))


def reconstruction_loss(
    logits: Float[Array, "b n v"], following: Int[Array, "b n"], eos_token_id: int
) -> Float[Array, " b"]:
    """The cross-entropy of each caption, in nats, its end included and the padding after it left out.

    Args:
        logits: of the tokens ``following``.
        following: what came next, padded with any tokens after the first ``eos_token_id``.
    """
    ended = jnp.cumsum(following == eos_token_id, axis=-1) - (following == eos_token_id) > 0
    nats = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), following)
    return jnp.sum(jnp.where(ended, 0.0, nats), axis=-1)
