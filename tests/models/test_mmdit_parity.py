"""The transformer of Stable Diffusion 3 and 3.5 against diffusers' in PyTorch, on the same random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import Conditioning
from difflax.models.functional import functional
from difflax.models.mmdit import SD3Transformer2DModel, position_table
from difflax.models.perturbation import Perturbation
from difflax.pretrained.format.torch_names import from_torch

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SMALL = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 24,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 20,
    "pos_embed_max_size": 12,
}
LAYOUTS = {
    "SD3-medium": SMALL,
    "SD3.5-medium": SMALL | {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)},
    "SD3.5-large": SMALL | {"qk_norm": "rms_norm", "num_layers": 4},
}


@functools.cache
def pair(layout):
    """Both networks with the same weights, none of them zero."""
    options = LAYOUTS[layout]
    torch.manual_seed(0)
    theirs = diffusers.SD3Transformer2DModel(**options).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    ours = functional(lambda rngs: SD3Transformer2DModel.from_config(dict(theirs.config), rngs=rngs))
    tensors = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    return theirs, ours, from_torch(tensors, ours.abstract(), "the transformer")


def inputs(size):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 4)).astype(np.float32)
    text = Conditioning(
        context=rng.normal(size=(2, 7, 24)).astype(np.float32),
        pooled=rng.normal(size=(2, 20)).astype(np.float32),
    )
    return x, np.asarray([999.0, 13.0], np.float32), text


def theirs_of(model, x, times, text, **more):
    return model(
        hidden_states=torch.tensor(x).permute(0, 3, 1, 2),
        timestep=torch.tensor(times),
        encoder_hidden_states=torch.tensor(text.context),
        pooled_projections=torch.tensor(text.pooled),
        **more,
    ).sample.permute(0, 2, 3, 1)


def perturbed(model, perturbation):
    return lambda params, *given: model.module(params, perturbation)(*given)


def relative(ours, theirs):
    theirs = theirs.detach().numpy()
    return float(np.abs(np.asarray(ours, np.float32) - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("size", [(16, 16), (6, 24)], ids=["square", "wide"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_outputs_are_those_of_diffusers(layout, size):
    theirs, ours, params = pair(layout)
    given = inputs(size)
    with torch.no_grad():
        expected = theirs_of(theirs, *given)
    assert relative(jax.jit(ours.apply)(params, *given), expected) <= 1e-4


def test_the_table_of_a_fresh_network_is_theirs():
    theirs = pair("SD3-medium")[0].pos_embed.pos_embed.numpy()[0]
    np.testing.assert_allclose(position_table(32, 12, 8).reshape(theirs.shape), theirs, atol=1e-6)


def test_skipped_layers_are_theirs():
    theirs, ours, params = pair("SD3.5-medium")
    given = inputs((6, 8))
    worse = perturbed(ours, Perturbation(kind="skip", layers="transformer_blocks/[01]$"))
    with torch.no_grad():
        expected = theirs_of(theirs, *given, skip_layers=[0, 1])
    assert relative(jax.jit(worse)(params, *given), expected) <= 1e-4


def test_perturbed_attention_is_theirs():
    """PAG for joint attention; diffusers' own leaves out the norms of queries and keys, so without them."""
    theirs, ours, params = pair("SD3-medium")
    from diffusers.models.attention_processor import JointAttnProcessor2_0, PAGJointAttnProcessor2_0

    x, times, text = inputs((6, 8))
    worse = perturbed(ours, Perturbation(kind="identity", layers="transformer_blocks/1/attn$"))
    # Theirs takes the perturbed examples as the second half of a batch.
    twice = [np.concatenate([a, a]) for a in (x, times, text.context, text.pooled)]
    theirs.transformer_blocks[1].attn.processor = PAGJointAttnProcessor2_0()
    with torch.no_grad():
        expected = theirs_of(theirs, *twice[:2], Conditioning(context=twice[2], pooled=twice[3]))[2:]
    theirs.transformer_blocks[1].attn.processor = JointAttnProcessor2_0()
    assert relative(jax.jit(worse)(params, x, times, text), expected) <= 1e-4


def test_gradients_are_those_of_autograd():
    theirs, ours, params = pair("SD3.5-medium")
    given = inputs((6, 8))
    theirs.zero_grad()
    theirs_of(theirs, *given).square().mean().backward()
    network, given = ours.apply, jax.tree.map(jnp.asarray, given)
    gradient = jax.jit(jax.grad(lambda p: jnp.mean(jnp.square(network(p, *given)))))(params)
    tables = {"pos_embed.pos_embed": np.zeros_like(theirs.pos_embed.pos_embed)}
    expected = from_torch(
        tables
        | {
            name: np.zeros(weight.shape, np.float32) if weight.grad is None else weight.grad.numpy()
            for name, weight in theirs.named_parameters()
        },
        ours.abstract(),
        "the gradient",
    )
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * largest), gradient, expected)


def test_bfloat16_is_near_their_float32():
    theirs, _, params = pair("SD3.5-medium")
    options = {name: value for name, value in theirs.config.items() if not name.startswith("_")}
    ours = functional(lambda rngs: SD3Transformer2DModel(**options, dtype=jnp.bfloat16, rngs=rngs))
    given = inputs((6, 8))
    with torch.no_grad():
        expected = theirs_of(theirs, *given).numpy()
    out = np.asarray(jax.jit(ours.apply)(params, *given), np.float32)
    assert np.linalg.norm(out - expected) / np.linalg.norm(expected) < 0.05
