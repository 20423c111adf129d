"""The UNet by itself: its start, its seam, its options and their errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import Conditioning, UserError
from difflax.models.functional import functional
from difflax.models.layers import Conv2d, dropout
from difflax.models.options import supported_options
from difflax.models.unet import ABSENT, UNet2DConditionModel
from flax import nnx

TINY = {
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
}


@functools.cache
def unet(**options):
    return functional(lambda rngs: UNet2DConditionModel(**(TINY | options), rngs=rngs))


def call(model, params, x, time, context, *, dropout_key=None, **more):
    return model.apply(params, x, time, Conditioning(context=context, **more), dropout_key=dropout_key)


apply = jax.jit(call, static_argnums=0)


def random_params(model):
    """No zeros among them, so that every path matters."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        noise = 0.2 * rng.standard_normal(leaf.shape, np.float32)
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 1
        return jnp.asarray(noise / np.sqrt(fan_in) + (len(leaf.shape) == 1), leaf.dtype)

    return jax.tree.map(draw, model.abstract())


@pytest.fixture(scope="module")
def fresh():
    return jax.jit(unet().init)(jax.random.key(0))


@pytest.fixture(scope="module")
def inputs():
    keys = jax.random.split(jax.random.key(1), 2)
    return (
        jax.random.normal(keys[0], (2, 8, 6, 4)),
        jnp.asarray([3.0, 700.0]),
        jax.random.normal(keys[1], (2, 5, 12)),
    )


class TestStart:
    def test_the_first_output_is_zero(self, fresh, inputs):
        assert np.all(apply(unet(), fresh, *inputs) == 0)

    def test_every_residual_branch_starts_at_zero_and_learns(self, fresh, inputs):
        model, params = unet(), fresh
        names = {
            jax.tree_util.keystr(path, simple=True, separator="/")
            for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
            if path[-1].key == "kernel" and not np.any(leaf)
        }
        ends = ("conv2/kernel", "proj_out/kernel", "conv_out/kernel")
        assert names == {
            name
            for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]
            if (name := jax.tree_util.keystr(path, simple=True, separator="/")).endswith(ends)
        }
        loss = lambda p: jnp.mean(jnp.square(call(model, p, *inputs) - 1))  # noqa: E731
        gradient = jax.jit(jax.grad(loss))(params)
        assert np.any(gradient["conv_out"]["kernel"])

    def test_kernels_keep_the_variance(self):
        kernel = Conv2d(64, 128, 3, rngs=nnx.Rngs(0)).kernel[...]
        np.testing.assert_allclose(kernel.std(), (9 * 64) ** -0.5, rtol=0.05)


class TestSeam:
    def test_init_has_the_shapes_of_abstract(self):
        model = unet()
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        assert shapes == model.abstract()
        assert "transformer_blocks" in shapes["down_blocks"]["0"]["attentions"]["0"]

    def test_parameters_of_another_module_are_refused(self, inputs):
        params = random_params(unet())
        del params["conv_in"]
        with pytest.raises(ValueError, match=r"missing.*conv_in/bias"):
            call(unet(), params, *inputs)

    def test_network_joins_the_image_of_the_condition(self, inputs):
        x, t, context = inputs
        model = unet(in_channels=7)
        params = random_params(model)
        image = jax.random.normal(jax.random.key(5), (2, 8, 6, 3))
        joined = apply(model, params, jnp.concatenate([x, image], -1), t, context)
        condition = Conditioning(context=context, image=image)
        seen = jax.jit(model.apply)(params, x, t, condition)
        np.testing.assert_allclose(seen, joined, atol=1e-4)


class TestConditions:
    def test_masked_tokens_have_no_part(self, inputs):
        x, t, context = inputs
        model = unet()
        params = random_params(model)
        mask = jnp.asarray([[True, True, True, False, False]] * 2)
        masked = apply(model, params, x, t, context, context_mask=mask)
        np.testing.assert_allclose(masked, apply(model, params, x, t, context[:, :3]), atol=1e-4)
        assert np.abs(masked - apply(model, params, x, t, context)).max() > 1e-4

    def test_examples_do_not_see_each_other(self, inputs):
        model = unet()
        params = random_params(model)
        both = apply(model, params, *inputs)
        np.testing.assert_allclose(both[1:], apply(model, params, *(a[1:] for a in inputs)), atol=1e-4)

    def test_dropout_needs_a_key(self, inputs):
        model = unet(dropout=0.5)
        params = random_params(model)
        plain = apply(model, params, *inputs)
        np.testing.assert_allclose(plain, apply(unet(), params, *inputs), atol=1e-6)
        one, same, other = (apply(model, params, *inputs, dropout_key=jax.random.key(k)) for k in (0, 0, 1))
        np.testing.assert_array_equal(one, same)
        assert np.abs(one - other).max() > 1e-3
        assert np.abs(one - plain).max() > 1e-3

    def test_no_dropout_is_the_same_program_with_and_without_a_key(self, inputs):
        model = unet()
        params = random_params(model)
        x, times, context = inputs
        told = Conditioning(context=context)
        text = [
            jax.jit(lambda p, given=given: model.apply(p, x, times, told, **given)).lower(params).as_text()
            for given in ({}, {"dropout_key": jax.random.key(0)})
        ]
        assert text[0] == text[1]

    def test_missing_conditions_are_named(self, inputs):
        model = unet(num_class_embeds=3)
        with pytest.raises(ValueError, match="class_labels"):
            apply(model, random_params(model), *inputs)
        sizes = {"addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 8 + 6 * 4}
        model = unet(addition_embed_type="text_time", **sizes)
        with pytest.raises(ValueError, match="pooled and time_ids"):
            apply(model, random_params(model), *inputs)


@pytest.mark.parametrize("rate", [0.1, 0.9])
def test_dropout_keeps_the_mean_and_spreads_as_much_as_it_must(rate):
    """A value x becomes x / (1 - p) with probability 1 - p, else 0: mean x, variance x^2 p / (1 - p)."""
    x = jnp.asarray([-2.0, 0.5, 3.0])
    drawn = np.asarray(dropout(jnp.tile(x, (40_000, 1)), rate, jax.random.key(1)), np.float64)
    factors = np.unique(np.round(drawn / np.asarray(x), 4))
    np.testing.assert_allclose(factors, [0, 1 / (1 - rate)], rtol=1e-4)
    deviation = np.abs(x) * np.sqrt(rate / (1 - rate))
    np.testing.assert_allclose(drawn.mean(0), x, atol=4 * float(deviation.max()) / 200)
    np.testing.assert_allclose(drawn.std(0), deviation, rtol=0.03)


@pytest.mark.parametrize("remat", [pytest.param("dots", marks=pytest.mark.slow), "full"])
@pytest.mark.parametrize("rate", [pytest.param(0.0, marks=pytest.mark.slow), 0.5])
def test_remat_changes_no_gradient(remat, rate, inputs):
    one_level = {
        "block_out_channels": (8,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "mid_block_type": None,
        "up_block_types": ("CrossAttnUpBlock2D",),
    }

    def gradient(**options):
        model = unet(dropout=rate, **one_level, **options)
        key = jax.random.key(4) if rate else None
        loss = lambda p: jnp.mean(jnp.square(call(model, p, *inputs, dropout_key=key)))  # noqa: E731
        return jax.jit(jax.grad(loss))(random_params(model))

    kept, again = gradient(), gradient(remat=remat)
    largest = max(float(np.abs(a).max()) for a in jax.tree.leaves(kept))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), kept, again)


def test_bfloat16_is_near_float32(inputs):
    """Eight bits of mantissa: a part in 256 an operation, some ten operations deep."""
    exact = apply(unet(), random_params(unet()), *inputs)
    low = apply(unet(dtype=jnp.bfloat16), random_params(unet()), *inputs)
    assert low.dtype == jnp.bfloat16
    error = np.linalg.norm(low.astype(jnp.float32) - exact) / np.linalg.norm(exact)
    assert 0 < error < 0.03


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"down_block_types": ("CrossAttnDownBlok2D", "DownBlock2D")}, "did you mean 'CrossAttnDownBlock2D'"),
        ({"mid_block_type": "UNetMidBlock"}, "mid_block_type"),
        ({"dropout": 1.0}, "dropout"),
        ({"layers_per_block": (1, 1, 1)}, "layers_per_block has 3 entries, block_out_channels 2"),
        ({"attention_head_dim": 3}, "does not divide 8 channels"),
        ({"norm_num_groups": 5}, "norm_num_groups=5 does not divide 8 channels"),
        ({"act_fn": "sillu"}, "did you mean 'silu'"),
        ({"resnet_time_scale_shift": "shift"}, "resnet_time_scale_shift"),
        ({"class_embed_type": "identity"}, "class_embed_type='identity' is not supported"),
        ({"addition_embed_type": "image"}, "addition_embed_type='image' is unknown; valid: text_time"),
        ({"addition_embed_type": "text_time"}, "needs addition_time_embed_dim"),
        ({"transformer_layers_per_block": ((1, 2), 1)}, "needs reverse_transformer_layers_per_block"),
        ({"remat": "some"}, "remat"),
    ],
)
def test_wrong_options_are_one_clear_line(options, says, inputs):
    with pytest.raises(UserError) as caught:
        model = unet(**options)
        jax.eval_shape(lambda: call(model, model.init(jax.random.key(0)), *inputs))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_configs_of_the_hub():
    read = functools.partial(supported_options, UNet2DConditionModel, absent=ABSENT)
    options = read({"_class_name": "UNet2DConditionModel", "act_fn": "silu", "sample_size": 64})
    assert options == {"act_fn": "silu", "sample_size": 64}
    with pytest.raises(UserError, match="did you mean 'act_fn'"):
        read({"act_fm": "silu"})
    with pytest.raises(UserError, match="resnet_skip_time_act=True is not supported"):
        read({"resnet_skip_time_act": True})
