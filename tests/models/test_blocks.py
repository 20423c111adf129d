"""Blocks as a loop of the program against the same blocks written out, and what the loop makes smaller."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import Conditioning
from difflax.models.functional import functional
from difflax.models.mmdit import SD3Transformer2DModel
from difflax.models.perturbation import Perturbation
from difflax.models.unet import UNet2DConditionModel
from jax.extend.core import jaxprs_in_params


def mmdit(**options):
    """Layers 0 and 1 alike, 2 and 3 with a second attention, 4 the last."""
    fields = {
        "sample_size": 4,
        "patch_size": 1,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 5,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 8,
        "pooled_projection_dim": 8,
        "pos_embed_max_size": 4,
        "dual_attention_layers": (2, 3),
        "qk_norm": "rms_norm",
    }
    return functional(lambda rngs: SD3Transformer2DModel(**fields, **options, rngs=rngs))


def unet(**options):
    fields = {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 3),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": 8,
    }
    return functional(lambda rngs: UNet2DConditionModel(**fields, **options, rngs=rngs))


def random_params(model):
    leaves, tree = jax.tree.flatten(model.abstract())
    rng = np.random.default_rng(0)
    return tree.unflatten([jnp.asarray(rng.normal(size=leaf.shape) * 0.2, leaf.dtype) for leaf in leaves])


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(1)
    x, context, pooled = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 4, 4, 4), (2, 3, 8), (2, 8))
    )
    mask = jnp.array([[True, True, False], [True, True, True]])
    return x, jnp.array([10.0, 700.0]), Conditioning(context=context, context_mask=mask, pooled=pooled)


def scans(jaxpr) -> int:
    """Loops in a program, those within loops and calls too."""
    return sum(
        (equation.primitive.name == "scan") + sum(scans(inner) for inner in jaxprs_in_params(equation.params))
        for equation in jaxpr.eqns
    )


@pytest.mark.parametrize("remat", ["none", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("make", "loops"), [(mmdit, 2), pytest.param(unet, 4, marks=pytest.mark.slow)])
def test_the_loop_gives_the_same_output_and_gradient(make, loops, remat, inputs):
    def run(**options):
        network = make(**options).apply

        def loss(params):
            out = network(params, *inputs)
            return jnp.mean(jnp.square(out)), out

        params = random_params(make())
        loops = scans(jax.make_jaxpr(loss)(params).jaxpr)
        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params), loops

    ((_, plain), gradient), none = run()
    ((_, out), scanned), some = run(scan_layers=True, remat=remat)
    assert (none, some) == (0, loops)
    np.testing.assert_allclose(out, plain, atol=1e-5 * np.abs(plain).max())
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), gradient, scanned)


def test_a_skipped_block_is_left_out_of_the_loop(inputs):
    skipped = Perturbation(kind="skip", layers="transformer_blocks/1$")
    params = random_params(mmdit())
    plain, looped, whole = (
        model.module(params, perturbation)(*inputs)
        for model, perturbation in ((mmdit(), skipped), (mmdit(scan_layers=True), skipped), (mmdit(), None))
    )
    np.testing.assert_allclose(looped, plain, atol=1e-5 * np.abs(plain).max())
    assert np.abs(whole - plain).max() > 1e-2 * np.abs(plain).max()
