"""The transformer of Stable Diffusion 3 and 3.5 by itself: its start, masks, perturbations and options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import Conditioning, UserError
from difflax.models.functional import functional
from difflax.models.mmdit import SD3Transformer2DModel
from difflax.models.options import supported_options
from difflax.models.perturbation import Perturbation

TINY = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 6,
    "pooled_projection_dim": 5,
    "pos_embed_max_size": 6,
}
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(2, 8, 6, 4)), jnp.float32)
TIMES = jnp.asarray([900.0, 20.0])
TEXT = Conditioning(
    context=jnp.asarray(RNG.normal(size=(2, 3, 6)), jnp.float32),
    pooled=jnp.asarray(RNG.normal(size=(2, 5)), jnp.float32),
)


def mmdit(**options):
    return functional(lambda rngs: SD3Transformer2DModel(**TINY | options, rngs=rngs))


@functools.cache
def moved(**options):
    """A network whose zeros are none any more, so that what is inside shows; and what it computes."""
    model = mmdit(**options)
    params = jax.tree.map(
        lambda a: a + 0.3 * jax.random.normal(jax.random.key(a.size), a.shape), model.init(jax.random.key(0))
    )

    @functools.partial(jax.jit, static_argnums=0)
    def run(perturbation, x=X, text=TEXT):
        return model.module(params, perturbation)(x, TIMES, text)

    return run


def test_a_fresh_network_is_zero_and_only_the_table_is_not_trained():
    model = mmdit(qk_norm="rms_norm", dual_attention_layers=(0,))
    params = jax.jit(model.init)(jax.random.key(0))

    def out(params):
        return model.apply(params, X, TIMES, TEXT)

    gradient = jax.jit(jax.grad(lambda p: jnp.sum(out(p) * X)))(params)
    np.testing.assert_array_equal(out(params), 0)
    assert np.abs(gradient["proj_out"]["kernel"]).max() > 0
    np.testing.assert_array_equal(gradient["pos_embed"]["pos_embed"], 0)


def test_text_that_is_masked_is_not_read():
    run = moved()
    mask = jnp.asarray([[True, True, False], [True, False, False]])
    masked = run(None, text=TEXT.replace(context_mask=mask))
    other = jnp.where(mask[..., None], TEXT.context, 7.0)
    np.testing.assert_allclose(
        masked, run(None, text=TEXT.replace(context_mask=mask, context=other)), atol=1e-5
    )
    assert np.abs(masked - run(None)).max() > 1e-3


def test_perturbations_reach_the_layers_that_are_named():
    run = moved()
    outputs = [
        run(perturbation)
        for perturbation in (
            None,
            Perturbation(kind="skip", layers="transformer_blocks/1$"),
            Perturbation(kind="skip", layers="transformer_blocks/[02]$"),
            Perturbation(kind="identity", layers="transformer_blocks/1/attn$"),
            Perturbation(kind="blur", layers="transformer_blocks/1/attn$"),
        )
    ]
    for i, a in enumerate(outputs):
        for b in outputs[:i]:
            assert np.abs(a - b).max() > 1e-3
    with pytest.raises(UserError, match=r"matches no layer.*transformer_blocks/0/attn"):
        run(Perturbation(kind="identity", layers="mid_block"))


def test_rematerialised_gradients_are_the_same():
    gradients = []
    for kind in ("none", "full"):
        model = mmdit(remat=kind, num_layers=2)
        params = jax.tree.map(lambda a: a + 0.1, model.init(jax.random.key(0)))

        def loss(p, model=model):
            return jnp.square(model.apply(p, X, TIMES, TEXT)).mean()

        gradients.append(jax.jit(jax.grad(loss))(params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *gradients)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"qk_norm": "rms_nrm"}, "did you mean 'rms_norm'"),
        ({"caption_projection_dim": 24}, "caption_projection_dim = 24 must be the width"),
        ({"dual_attention_layers": (0, 3)}, "dual_attention_layers = (0, 3) must lie in 0 … 2"),
        ({"pos_embed_max_size": 3}, "pos_embed_max_size = 3 tokens"),
        ({"patch_size": 4}, "8 × 6 pixels: the transformer reads multiples of patch_size = 4"),
        ({"attention_head_dim": 3}, "multiple of 4"),
    ],
)
def test_wrong_options_are_one_clear_line(options, says):
    with pytest.raises(UserError) as caught:
        model = mmdit(**options)
        jax.eval_shape(lambda: model.apply(model.init(jax.random.key(0)), X, TIMES, TEXT))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_configs_of_the_hub():
    read = functools.partial(supported_options, SD3Transformer2DModel)
    config = {"_class_name": "SD3Transformer2DModel", "num_layers": 24, "qk_norm": "rms_norm"}
    assert read(config) == {"num_layers": 24, "qk_norm": "rms_norm"}
    with pytest.raises(UserError, match="did you mean 'dual_attention_layers'"):
        read({"dual_attention_layer": (0, 1)})
