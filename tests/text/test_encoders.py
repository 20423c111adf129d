"""Encoding captions: what an embedding depends on, and what it does not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.text import encoders
from difflax.text.clip_config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from difflax.text.encoders import TextEncoder, text_network
from difflax.text.joint import CLIP, clip_network
from difflax.text.pixels import PixelConfig, preprocess_images
from difflax.text.tokenizer import MIN_VOCAB_SIZE, load_tokenizer, train_bpe

from tests.runs import count_tokens

CAPTIONS = ["a red circle", "", "two", "a large blue square", "naïve ☃"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer = train_bpe(CAPTIONS, directory, vocab_size=MIN_VOCAB_SIZE + 20, max_length=14)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    text = CLIPTextConfig(
        vocab_size=tokenizer.vocab_size,
        max_position_embeddings=14,
        eos_token_id=tokenizer.vocab_size - 1,
        projection_dim=12,
        **sizes,
    )
    vision = CLIPVisionConfig(image_size=16, patch_size=8, projection_dim=12, **sizes)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    params = jax.jit(clip_network(config).init)(jax.random.key(0))
    pixels = PixelConfig(size=16)
    return CLIP(params=params, config=config, tokenizer=tokenizer, pixels=pixels, batch_size=2)


@pytest.fixture(scope="module")
def encoder(clip):
    return clip.text_encoder()


def test_context_is_the_normed_last_state_and_pooled_is_projected(clip, encoder):
    ids = jnp.asarray(encoder.tokenizer(CAPTIONS))
    out = text_network(encoder.config, True).apply(encoder.params, ids)
    condition = encoder.encode(CAPTIONS)
    np.testing.assert_allclose(condition.context, out.last_hidden_state, atol=1e-5)
    np.testing.assert_allclose(condition.pooled, out.projected, atol=1e-5)
    assert condition.context_mask is None
    features = clip.text_features(CAPTIONS)
    cosines = jnp.sum(features * condition.pooled, -1) / jnp.linalg.norm(condition.pooled, axis=-1)
    np.testing.assert_allclose(cosines, 1, atol=1e-5)


@pytest.mark.parametrize("layer", [-2, 1, 0])
def test_any_layer_with_or_without_the_norm(encoder, layer):
    ids = jnp.asarray(encoder.tokenizer(CAPTIONS))
    states = text_network(encoder.config, True).apply(encoder.params, ids).hidden_states
    bare = encoder.replace(layer=layer, final_norm=False).encode(CAPTIONS)
    normed = encoder.replace(layer=layer).encode(CAPTIONS)
    np.testing.assert_allclose(bare.context, states[layer], atol=1e-5)
    centred = states[layer] - states[layer].mean(-1, keepdims=True)
    # A fresh norm has scale 1 and bias 0.
    expected = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + encoder.config.layer_norm_eps)
    np.testing.assert_allclose(normed.context, expected, atol=1e-4)
    np.testing.assert_array_equal(bare.pooled, normed.pooled)


def test_without_projection_pooled_is_the_end_of_text_state(encoder):
    bare = encoder.replace(params={"text_model": encoder.params["text_model"]})
    condition = bare.encode(CAPTIONS)
    ends = [count_tokens(bare.tokenizer, caption) - 1 for caption in CAPTIONS]
    np.testing.assert_allclose(condition.pooled, condition.context[np.arange(5), np.array(ends)], atol=1e-6)


def test_a_caption_is_encoded_alike_in_any_company(encoder):
    together = encoder.encode(CAPTIONS)
    for index, caption in enumerate(CAPTIONS):
        alone = encoder.encode([caption])
        for ours, theirs in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            np.testing.assert_array_equal(ours[0], theirs[index])


def test_any_number_of_captions_compiles_once(encoder):
    encoder = encoder.replace(batch_size=3)
    encoder.encode(CAPTIONS)
    compiled = encoders._encode._cache_size()
    for count in (1, 2, 3, 4, 17):
        assert encoder.encode(["a"] * count).context.shape == (count, 14, 16)
    assert encoders._encode._cache_size() == compiled


def test_no_captions_make_no_rows(encoder):
    condition = encoder.encode([])
    assert condition.context.shape == (0, 14, 16)
    assert condition.pooled.shape == (0, 12)


def test_null_is_the_empty_caption(encoder):
    np.testing.assert_array_equal(encoder.null.context[0], encoder.encode(CAPTIONS).context[1])


def test_fingerprint_changes_with_all_that_changes_an_embedding(encoder, tmp_path):
    tokenizer = train_bpe(["other words"], tmp_path, vocab_size=MIN_VOCAB_SIZE + 20, max_length=14)
    changed = [
        encoder,
        encoder.replace(layer=-2),
        encoder.replace(final_norm=False),
        encoder.replace(dtype=jnp.bfloat16),
        encoder.replace(
            params=jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].add(1e-6), encoder.params)
        ),
        encoder.replace(params={"text_model": encoder.params["text_model"]}),
        encoder.replace(config=dataclasses.replace(encoder.config, hidden_act="gelu")),
        encoder.replace(tokenizer=tokenizer),
    ]
    assert len({e.fingerprint() for e in changed}) == len(changed)


def test_fingerprint_stays_where_nothing_changes(encoder):
    same = encoder.replace(batch_size=9, layer=2, params=jax.tree.map(np.asarray, encoder.params))
    assert same.fingerprint() == encoder.fingerprint()


def test_image_features(clip):
    images = np.random.default_rng(0).random((3, 20, 20, 3), np.float32)
    pixels = preprocess_images(jnp.asarray(images), 16)
    expected = clip_network(clip.config).apply(clip.params, None, pixels).image_embeds
    np.testing.assert_allclose(clip.image_features(images), expected, atol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(clip.image_features(images), axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": 3}, "from -3 to 2"),
        ({"layer": -4}, "from -3 to 2"),
        ({"batch_size": 0}, "at least 1"),
        ({"config": {"max_position_embeddings": 13}}, "max_length=13"),
        ({"config": {"vocab_size": 500}}, "do not belong together"),
    ],
)
def test_what_does_not_fit_is_refused(encoder, change, message):
    if "config" in change:
        change = {"config": dataclasses.replace(encoder.config, **change["config"])}
    with pytest.raises(UserError, match=message):
        encoder.replace(**change)


def test_an_encoder_is_a_pytree_of_its_weights(encoder):
    doubled = jax.tree.map(lambda leaf: 2 * leaf, encoder)
    assert isinstance(doubled, TextEncoder)
    assert len(jax.tree.leaves(doubled)) == len(jax.tree.leaves(encoder.params))


def test_loading_with_a_shorter_length(encoder, tmp_path):
    encoder.tokenizer.save(tmp_path)
    short = encoder.replace(tokenizer=load_tokenizer(tmp_path, max_length=6))
    whole = encoder.encode(["two"]).context
    np.testing.assert_allclose(short.encode(["two"]).context, whole[:, :6], atol=1e-5)
