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

from difflax.text.clip import CLIPEncoderLayer
from difflax.text.clip_config import CLIPTextConfig

STD = 0.02  # of embeddings, as in GPT-2


class CaptionDecoder(nnx.Module):
    """One causal layer that reads a caption's vector beside every word.

    Args:
        config: of the text tower; the layer has its sizes.
    """

    def __init__(self, config: CLIPTextConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        width = config.hidden_size
        table = nnx.initializers.normal(STD)
        self.token_embedding = nnx.Embed(config.vocab_size, width, embedding_init=table, rngs=rngs)
        self.position_embedding = nnx.Embed(
            config.max_position_embeddings, width, embedding_init=table, rngs=rngs
        )
        self.vector = nnx.Linear(width, width, rngs=rngs)
        self.layer = CLIPEncoderLayer(config, causal=True, dtype=dtype, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, config.vocab_size, rngs=rngs)

    def __call__(self, input_ids: Int[Array, "b n"], vectors: Float[Array, "b d"]) -> Float[Array, "b n v"]:
        """Logits of the token after each, given the caption's vector and the tokens up to it."""
        x = self.token_embedding(input_ids) + self.position_embedding(jnp.arange(input_ids.shape[1]))
        return self.head(self.norm(self.layer(x + self.vector(vectors)[:, None])))


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
