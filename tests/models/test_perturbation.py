"""Perturbations of a network's layers: what they compute, and where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import Conditioning, UserError
from difflax.models.attention import Attention, BasicTransformerBlock
from difflax.models.functional import functional
from difflax.models.perturbation import Perturbation
from difflax.models.unet import UNet2DConditionModel
from flax import nnx

GRID = (3, 4)
X = jax.random.normal(jax.random.key(0), (2, 12, 8))


def attention():
    return Attention(8, heads=2, rngs=nnx.Rngs(0))


def heads(layer, tokens):
    return np.asarray(layer(tokens)).reshape(2, 12, 2, 4)


def written_out(layer, query):
    """Softmax attention over 12 tokens, in numpy."""
    key, value = heads(layer.to_k, X), heads(layer.to_v, X)
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / 2
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum("bhqk,bkhd->bqhd", weights, value).reshape(2, 12, 8)
    return np.asarray(layer.to_out[0](jnp.asarray(out)))


def test_identity_attention_is_every_tokens_own_value():
    """PAG, eq. 16: the attention map is the identity."""
    layer = attention()
    np.testing.assert_allclose(layer(X, grid=GRID), written_out(layer, heads(layer.to_q, X)), atol=1e-5)
    layer.perturbation = Perturbation(kind="identity")
    np.testing.assert_allclose(layer(X, grid=GRID), layer.to_out[0](layer.to_v(X)), atol=1e-6)


def test_blurred_queries():
    """SEG: with an infinite blur every query is the mean query; with almost none nothing changes."""
    layer = attention()
    plain, query = layer(X, grid=GRID), heads(layer.to_q, X)
    layer.perturbation = Perturbation(kind="blur")
    mean = np.broadcast_to(query.mean(axis=1, keepdims=True), query.shape)
    np.testing.assert_allclose(layer(X, grid=GRID), written_out(layer, mean), atol=1e-5)
    layer.perturbation = Perturbation(kind="blur", blur=1e-4)
    np.testing.assert_allclose(layer(X, grid=GRID), plain, atol=1e-5)


def test_a_skipped_block_is_the_identity():
    block = BasicTransformerBlock(8, heads=2, context_dim=6, rngs=nnx.Rngs(0))
    context = jnp.ones((2, 3, 6))
    assert np.abs(block(X, context) - X).max() > 0.01
    block.perturbation = Perturbation(kind="skip")
    np.testing.assert_array_equal(block(X, context), X)


@pytest.fixture(scope="module")
def network():
    model = functional(
        lambda rngs: UNet2DConditionModel(
            in_channels=3,
            out_channels=3,
            block_out_channels=(8,),
            norm_num_groups=4,
            down_block_types=("CrossAttnDownBlock2D",),
            mid_block_type=None,
            attention_head_dim=2,
            up_block_types=("CrossAttnUpBlock2D",),
            layers_per_block=1,
            cross_attention_dim=6,
            rngs=rngs,
        )
    )
    # The last layer of each residual starts at zero; move it, so that what is inside shows.
    noise = lambda a: a + 0.1 * jax.random.normal(jax.random.key(1), a.shape)  # noqa: E731
    params = jax.tree.map(noise, jax.jit(model.init)(jax.random.key(0)))
    x, conditioning = jax.random.normal(jax.random.key(2), (1, 4, 6, 3)), Conditioning(context=X[:1, :3, :6])
    return lambda perturbation: model.module(params, perturbation)(x, jnp.zeros(1), conditioning)


def test_the_layers_are_chosen_by_path(network):
    """Each choice is another network, the unperturbed one stays as it was."""
    outputs = [
        network(perturbation)
        for perturbation in (
            None,
            Perturbation(layers="down_blocks"),
            Perturbation(layers="up_blocks"),
            Perturbation(layers="."),
            Perturbation(kind="skip", layers="up_blocks"),
        )
    ]
    for i, a in enumerate(outputs):
        for b in outputs[:i]:
            assert np.abs(a - b).max() > 1e-4
    np.testing.assert_array_equal(network(None), outputs[0])


def test_a_path_that_matches_nothing_is_refused(network):
    with pytest.raises(UserError, match=r"'mid_block' matches no layer.*down_blocks/0"):
        network(Perturbation(layers="mid_block"))
    for bad in ({"kind": "blurr"}, {"layers": "("}, {"blur": 0.0}):
        with pytest.raises(Exception, match=r"kind|layers|blur"):
            Perturbation(**bad)
