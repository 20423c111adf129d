"""CLIP against transformers' numbers, and the properties that no numbers show."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.models.functional import functional
from difflax.pretrained.format.torch_names import from_torch, torch_name
from difflax.text.clip import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    eos_positions,
    inverse_temperature,
    unit_norm,
)
from difflax.text.clip_config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from difflax.text.contrastive import contrastive_loss
from difflax.text.joint import clip_network

from tests.fixtures.make_clip import CASES, make_case, read_case, section

SMALL = CLIPTextConfig(
    vocab_size=30,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=8,
    eos_token_id=29,
)


@pytest.fixture(params=[pytest.param(n, marks=[] if n == "openai" else pytest.mark.slow) for n in CASES])
def committed(request):
    return read_case(request.param)


def assert_close(ours, theirs, tolerance=1e-5):
    """Largest difference relative to the largest value."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@functools.partial(jax.jit, static_argnums=0, static_argnames="layer")
def apply(network, params, *inputs, **options):
    return network.apply(params, *inputs, **options)


def assert_agrees(config, tensors):
    """Every output and every gradient of one case agrees with transformers."""
    config = CLIPConfig.from_config(config)
    clip = clip_network(config)
    params = jax.device_put(from_torch(section(tensors, "weights"), clip.abstract(), "the case"))
    ids, pixels = (jnp.asarray(tensors[f"inputs.{name}"]) for name in ("input_ids", "pixel_values"))
    expected = section(tensors, "outputs")

    tower = {"text_model": params["text_model"]}
    out = apply(functional(functools.partial(_make, CLIPTextModel, config.text_config)), tower, ids)
    assert out.projected is None
    tower["text_projection"] = params["text_projection"]
    projecting = functools.partial(_make, CLIPTextModelWithProjection, config.text_config)
    out = apply(functional(projecting), tower, ids)
    for field in ("last_hidden_state", "pooled", "projected"):
        assert_close(getattr(out, field), expected[f"text.{field}"])
    seen = jax.jit(functools.partial(clip.apply, method="get_image_states"))(params, pixels)
    assert_close(seen[-1], expected["vision.last_hidden_state"])
    read = jax.jit(functools.partial(clip.apply, method="get_image_features"))(params, pixels)
    assert_close(read, unit_norm(jnp.asarray(expected["vision.projected"])))
    for name, states in {"text": out.hidden_states, "vision": seen}.items():
        assert len(states) == getattr(config, f"{name}_config").num_hidden_layers + 1
        for layer, state in enumerate(states):
            assert_close(state, expected[f"{name}.hidden_states.{layer}"])

    text = functional(functools.partial(_make, CLIPTextModel, config.text_config))
    skipped = apply(text, {"text_model": params["text_model"]}, ids, layer=-2)
    assert_close(skipped.last_hidden_state, expected["skip"])
    assert_close(skipped.pooled, expected["text.pooled"])

    out = apply(clip, params, ids, pixels)
    for field in ("text_embeds", "image_embeds", "logits_per_text"):
        assert_close(getattr(out, field), expected[field])

    def mean_loss(params):
        return contrastive_loss(clip.apply(params, ids, pixels).logits_per_text).mean()

    loss, gradients = jax.jit(jax.value_and_grad(mean_loss))(params)
    assert_close(loss, expected["loss"])
    theirs = from_torch(section(tensors, "gradients"), clip.abstract(), "the gradients")
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(theirs))
    flat, _ = jax.tree_util.tree_flatten_with_path(gradients)
    for (path, ours), their in zip(flat, jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(ours, their, rtol=0, atol=1e-5 * largest, err_msg=torch_name(path))


def _make(kind, config, rngs, **options):
    return kind(config, rngs=rngs, **options)


def test_agrees_with_committed_numbers_of_transformers(committed):
    assert_agrees(*committed)


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_transformers(name):
    pytest.importorskip("torch")
    assert_agrees(*make_case(name, seed=1))


@pytest.fixture(scope="module")
def text():
    network = functional(functools.partial(_make, CLIPTextModel, SMALL))
    return network, jax.jit(network.init)(jax.random.key(0))


def test_a_token_changes_nothing_before_it(text):
    network, params = text
    ids = jax.random.randint(jax.random.key(1), (3, 8), 0, 29)
    before = apply(network, params, ids).last_hidden_state
    after = apply(network, params, ids.at[:, 5].add(1)).last_hidden_state
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.abs(before[:, 5:] - after[:, 5:]).max(-1).min() > 1e-3


def test_what_follows_the_end_leaves_the_pooled_state(text):
    network, params = text
    ids = jnp.asarray([[1, 2, 29, 29, 29, 29, 29, 29], [1, 2, 29, 4, 5, 6, 29, 7]])
    pooled = apply(network, params, ids).pooled
    np.testing.assert_array_equal(pooled[0], pooled[1])


@pytest.mark.parametrize(
    ("eos", "ids", "position"),
    [
        (9, [1, 4, 9, 9, 9], 2),  # padding is the end token
        (9, [1, 4, 11, 9, 0], 3),  # a token was added behind the end in the vocabulary
        (2, [1, 4, 9, 0, 0], 2),  # an old config: the largest id
        (2, [1, 2, 9, 9, 0], 2),  # there, 2 is an ordinary token
        (9, [1, 4, 5, 6, 7], 0),  # no end
    ],
)
def test_end_of_text(eos, ids, position):
    assert eos_positions(jnp.asarray([ids]), eos)[0] == position


def test_shorter_rows_are_read_and_longer_ones_refused(text):
    network, params = text
    ids = jnp.ones((2, 8), int)
    whole, part = (apply(network, params, x).last_hidden_state for x in (ids, ids[:, :3]))
    np.testing.assert_allclose(part, whole[:, :3], atol=1e-6)
    with pytest.raises(ValueError, match="9 tokens"):
        network.apply(params, jnp.ones((2, 9), int))


def test_remat_changes_no_gradient(text):
    _, params = text
    ids = jax.random.randint(jax.random.key(1), (3, 8), 0, 30)

    def gradient(remat):
        network = functional(functools.partial(_make, CLIPTextModel, SMALL, remat=remat))
        return jax.jit(jax.grad(lambda p: jnp.sum(network.apply(p, ids).pooled ** 2)))(params)

    for kept, again in zip(jax.tree.leaves(gradient(False)), jax.tree.leaves(gradient(True)), strict=True):
        np.testing.assert_allclose(kept, again, atol=1e-5)


def test_bfloat16_computes_close_to_float32_and_keeps_float32_parameters(text):
    network, params = text
    half = functional(functools.partial(_make, CLIPTextModel, SMALL, dtype=jnp.bfloat16))
    ids = jax.random.randint(jax.random.key(1), (3, 8), 0, 30)
    out = apply(half, params, ids).last_hidden_state
    assert out.dtype == jnp.bfloat16
    assert_close(out.astype(jnp.float32), apply(network, params, ids).last_hidden_state, tolerance=0.03)
    assert {leaf.dtype for leaf in jax.tree.leaves(half.abstract())} == {jnp.dtype("float32")}


def test_image_of_another_size_is_refused():
    config, _ = read_case("openai")
    network = clip_network(CLIPConfig.from_config(config))
    params = jax.jit(network.init)(jax.random.key(0))
    with pytest.raises(ValueError, match=r"\(16, 16, 3\)"):
        network.apply(params, jnp.zeros((1, 32, 32, 3)), method="get_image_features")


def test_one_tower_alone():
    config, tensors = read_case("openai")
    network = clip_network(CLIPConfig.from_config(config))
    params = jax.jit(network.init)(jax.random.key(0))
    out = apply(network, params, jnp.asarray(tensors["inputs.input_ids"]))
    assert out.text_embeds.shape == (5, 20)
    assert out.image_embeds is None
    assert out.logits_per_text is None


def test_unit_norm_is_finite_at_zero():
    assert np.all(np.isfinite(jax.jacobian(unit_norm)(jnp.zeros(4))))
    np.testing.assert_allclose(jnp.linalg.norm(unit_norm(jnp.asarray([3e-5, 4e-5]))), 1, rtol=1e-6)


class TestInverseTemperature:
    def test_starts_where_the_paper_does(self):
        scale = jnp.asarray(CLIPConfig().logit_scale_init_value)
        np.testing.assert_allclose(inverse_temperature(scale), 1 / 0.07, rtol=1e-6)

    def test_below_the_limit_it_is_the_exponential(self):
        scale = jnp.asarray(2.0)
        np.testing.assert_allclose(inverse_temperature(scale), np.exp(2), rtol=1e-6)
        np.testing.assert_allclose(jax.grad(inverse_temperature)(scale), np.exp(2), rtol=1e-6)

    def test_at_the_limit_descent_can_lower_it_and_not_raise_it(self):
        scale = jnp.asarray(5.0)
        assert inverse_temperature(scale) == 100
        assert jax.grad(inverse_temperature)(scale) > 0
        assert jax.grad(lambda s: -inverse_temperature(s))(scale) == 0


class TestConfig:
    def test_written_and_read_again_is_the_same(self):
        config = CLIPConfig(
            text_config=dataclasses.replace(SMALL, projection_dim=7),
            vision_config=CLIPVisionConfig(projection_dim=7, hidden_act="gelu"),
            projection_dim=7,
        )
        assert CLIPConfig.from_config(config.to_config()) == config

    def test_old_files_override_the_tower_in_a_second_section(self):
        fields = {"text_config": {"hidden_size": 512}, "text_config_dict": {"hidden_size": 768}}
        assert CLIPConfig.from_config(fields).text_config.hidden_size == 768

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"hidden_act": "swish"}, "quick_gelu, gelu"),
            ({"hidden_size": 10, "num_attention_heads": 3}, "not a multiple"),
            ({"attention_dropout": 0.1}, "attention_dropout"),
        ],
    )
    def test_what_cannot_be_honoured_is_refused(self, fields, message):
        with pytest.raises(UserError, match=message):
            CLIPTextConfig.from_config(fields)

    def test_patches_tile_the_image(self):
        with pytest.raises(UserError, match="patch_size"):
            CLIPVisionConfig(image_size=30, patch_size=8)
