"""Captions are said again from their vectors, and so the vectors keep what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.config.embedded import find_workdir
from difflax.data.shapes import captions
from difflax.data.shapes.examples import make_captions
from difflax.models.functional import functional
from difflax.pretrained.components.clip import load_clip
from difflax.text.clip_config import CLIPTextConfig
from difflax.text.reconstruction import CaptionDecoder, reconstruction_loss
from etils import epath
from scipy.special import log_softmax
from sklearn.linear_model import RidgeClassifier

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


# On one worker, so that the captions are read once.
TOGETHER = pytest.mark.xdist_group("vectors")


@pytest.fixture(scope="module")
def vectors():
    """Captions of the world, and their vectors in the model that comes along."""
    said = make_captions(1, "train", range(6000))
    clip = load_clip(epath.Path(find_workdir("embedded")) / "clip", batch_size=500)
    return [captions.parse(text) for text in said], np.asarray(clip.text_encoder().encode(said).pooled)


@TOGETHER
@pytest.mark.parametrize(
    ("factor", "least"), [("light", 0.95), ("relation", 0.95), ("background", 0.99), ("tone", 0.99)]
)
def test_the_vectors_of_the_model_that_comes_along_keep_what_captions_say_of_the_scene(
    vectors, factor, least
):
    named = [getattr(caption, factor) for caption in vectors[0]]
    assert read(vectors[1], named) >= least


@TOGETHER
@pytest.mark.parametrize(
    ("factor", "least"),
    [("place", 0.95), ("shape", 0.99), ("colour", 0.99), ("texture", 0.99), ("size", 0.99)],
)
def test_and_of_the_one_object(vectors, factor, least):
    named = [getattr(said.objects[0], factor) if said.counts == (1,) else None for said in vectors[0]]
    assert read(vectors[1], named) >= least


def read(vectors, named):
    """How often a linear reader that was fitted on three quarters is right of the others."""
    rows = np.array([i for i, value in enumerate(named) if value is not None])
    values = np.array([named[i] for i in rows])
    fitted = len(rows) * 3 // 4
    reader = RidgeClassifier(1e-3, solver="svd").fit(vectors[rows[:fitted]], values[:fitted])
    return reader.score(vectors[rows[fitted:]], values[fitted:])
