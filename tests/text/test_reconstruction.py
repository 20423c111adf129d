"""Captions are said again from their vectors, and so the vectors keep what they say."""

import jax
import jax.numpy as jnp
import numpy as np
from difflax.models.functional import functional
from difflax.text.clip_config import CLIPTextConfig
from difflax.text.reconstruction import CaptionDecoder, reconstruction_loss
from scipy.special import log_softmax

END = 6
CONFIG = CLIPTextConfig(
    hidden_size=8,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    projection_dim=8,
    vocab_size=7,
    max_position_embeddings=5,
    bos_token_id=5,
    eos_token_id=END,
    pad_token_id=END,
)


def test_every_token_counts_up_to_the_first_end():
    logits = np.random.default_rng(0).normal(size=(3, 4, 7)).astype(np.float32)
    following = np.array([[0, 1, END, END], [END, END, END, END], [3, 2, 1, 0]])
    expected = [
        -sum(log_softmax(row[i].astype(float))[token] for i, token in enumerate(tokens[:length]))
        for row, tokens, length in zip(logits, following, (3, 1, 4), strict=True)
    ]
    np.testing.assert_allclose(
        reconstruction_loss(jnp.asarray(logits), jnp.asarray(following), END), expected, rtol=1e-5
    )


def test_a_word_is_said_from_the_vector_and_the_words_before_it():
    decoder = functional(lambda rngs: CaptionDecoder(CONFIG, rngs=rngs))
    params = decoder.init(jax.random.key(0))
    ids, vectors = jnp.asarray([[5, 1, 2, 3]]), jnp.ones((1, 8))
    logits = decoder.apply(params, ids, vectors)
    later = decoder.apply(params, ids.at[0, 2].set(4), vectors)
    np.testing.assert_array_equal(logits[:, :2], later[:, :2])
    assert np.all(np.any(logits[:, 2:] != later[:, 2:], axis=-1))
    of_another = decoder.apply(params, ids, vectors.at[0, 0].set(-1))
    assert np.all(np.any(logits != of_another, axis=-1))
