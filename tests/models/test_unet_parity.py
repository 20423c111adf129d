"""The UNet against diffusers' in PyTorch, on the same random weights and inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import Conditioning
from difflax.models import layers, resnet
from difflax.models.functional import functional
from difflax.models.softmax_attention import attend
from difflax.models.unet import UNet2DConditionModel
from difflax.pretrained.format.torch_names import from_torch

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

TWO = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
CROSS = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
}
XL = {
    "block_out_channels": (16, 32, 64),
    "layers_per_block": 2,
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (2, 4, 8),
    "transformer_layers_per_block": (1, 2, 3),
    "cross_attention_dim": 24,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 20 + 6 * 8,
}
CONFIGS = {
    "SD 1": {
        "block_out_channels": (16, 32, 32),
        "layers_per_block": 2,
        "norm_num_groups": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 24,
        "attention_head_dim": 8,
    },
    "SD 2": {
        **TWO,
        **CROSS,
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "SDXL": XL,
    "SDXL, depths of the way up": XL
    | {
        "transformer_layers_per_block": ((1, 1), (2, 1), (1, 3)),
        "reverse_transformer_layers_per_block": ((1, 3, 1), (2, 1, 2), (1, 1, 1)),
    },
    "class labels": TWO | CROSS | {"num_class_embeds": 5},
    "class as a time": TWO | CROSS | {"class_embed_type": "timestep"},
    "class as a vector": TWO
    | CROSS
    | {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 20},
    "scale and shift": TWO | CROSS | {"resnet_time_scale_shift": "scale_shift"},
    "no middle": TWO | CROSS | {"mid_block_type": None},
    "plain middle": TWO | CROSS | {"mid_block_type": "UNetMidBlock2D"},
    "cross-attention only": TWO | CROSS | {"only_cross_attention": (True, False)},
    "small choices": TWO
    | CROSS
    | {
        "center_input_sample": True,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "downsample_padding": 0,
        "act_fn": "gelu",
        "norm_eps": 1e-3,
        "mid_block_scale_factor": 1.5,
        "time_embedding_dim": 40,
        "time_embedding_act_fn": "silu",
        "conv_in_kernel": 5,
        "conv_out_kernel": 1,
    },
}


def pair(options):
    """Both networks with the same weights, none of them zero."""
    torch.manual_seed(0)
    theirs = diffusers.UNet2DConditionModel(sample_size=16, **options).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    ours = functional(lambda rngs: UNet2DConditionModel(**options, rngs=rngs))
    tensors = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    return theirs, ours, from_torch(tensors, ours.abstract(), "the UNet")


def inputs(options, size):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 4)).astype(np.float32)
    context = rng.normal(size=(2, 7, options["cross_attention_dim"])).astype(np.float32)
    times = np.asarray([999.0, 13.0], np.float32)
    more = {}
    if "num_class_embeds" in options:
        more["class_labels"] = np.asarray([3, 0])
    if options.get("class_embed_type") == "timestep":
        more["class_labels"] = np.asarray([3, 700])
    if "projection_class_embeddings_input_dim" in options:
        more["pooled"] = rng.normal(size=(2, 20)).astype(np.float32)
    if "addition_embed_type" in options:
        more["time_ids"] = np.asarray([[64, 48, 0, 3, 64, 64]] * 2, np.float32)
    return x, times, context, more


def theirs_of(model, x, times, context, more, mask=None):
    added = {"text_embeds": more.get("pooled"), "time_ids": more.get("time_ids")}
    if "time_ids" not in more:
        added = {}
    added = {name: torch.tensor(value) for name, value in added.items()}
    vector = model.config.class_embed_type == "projection"
    labels = more.get("pooled" if vector else "class_labels")
    return model(
        torch.tensor(x).permute(0, 3, 1, 2),
        torch.tensor(times),
        torch.tensor(context),
        class_labels=None if labels is None else torch.tensor(labels),
        added_cond_kwargs=added or None,
        encoder_attention_mask=None if mask is None else torch.tensor(mask),
    ).sample.permute(0, 2, 3, 1)


def apply(model, params, x, times, context, **more):
    return model.apply(params, x, times, Conditioning(context=context, **more))


def relative(ours, theirs):
    return float(np.abs(np.asarray(ours, np.float32) - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("size", [(16, 16), (13, 10)], ids=["even", "odd"])
@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_are_those_of_diffusers(name, size):
    options = CONFIGS[name]
    if options.get("downsample_padding") == 0 and size != (16, 16):
        size = (12, 8)  # diffusers itself refuses odd sizes here
    theirs, ours, params = pair(options)
    *given, more = inputs(options, size)
    with torch.no_grad():
        expected = theirs_of(theirs, *given, more).numpy()
    assert relative(jax.jit(apply, static_argnums=0)(ours, params, *given, **more), expected) <= 1e-4


def test_a_mask_is_theirs():
    theirs, ours, params = pair(CONFIGS["SD 2"])
    *given, more = inputs(CONFIGS["SD 2"], (16, 16))
    mask = np.arange(7)[None] < np.asarray([[3], [7]])
    with torch.no_grad():
        expected = theirs_of(theirs, *given, more, mask).numpy()
    assert relative(apply(ours, params, *given, context_mask=jnp.asarray(mask)), expected) <= 1e-4


@pytest.mark.parametrize("name", ["SD 1", "SDXL"])
def test_gradients_are_those_of_autograd(name):
    options = CONFIGS[name]
    theirs, ours, params = pair(options)
    *given, more = inputs(options, (16, 16))
    theirs_of(theirs, *given, more).square().mean().backward()
    gradient = jax.jit(jax.grad(lambda p: jnp.mean(jnp.square(apply(ours, p, *given, **more)))))(params)
    expected = {name: weight.grad.numpy() for name, weight in theirs.named_parameters()}
    expected = from_torch(expected, ours.abstract(), "the gradient")
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * largest), gradient, expected)


@pytest.mark.parametrize("name", ["SD 1", "SDXL"])
def test_bfloat16_is_near_their_float32(name):
    options = CONFIGS[name]
    theirs, _, params = pair(options)
    ours = functional(lambda rngs: UNet2DConditionModel(**options, dtype=jnp.bfloat16, rngs=rngs))
    *given, more = inputs(options, (16, 16))
    with torch.no_grad():
        expected = theirs_of(theirs, *given, more).numpy()
    out = np.asarray(apply(ours, params, *given, **more), np.float32)
    error = np.linalg.norm(out - expected) / np.linalg.norm(expected)
    assert error < 0.05


@pytest.mark.parametrize("implementation", ["blocked", "xla"])
@pytest.mark.parametrize("shape", [(2, 300, 150, 3, 8), (1, 64, 5, 2, 4)])
def test_attention_is_theirs(implementation, shape):
    b, n, m, h, d = shape
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(b, size, h, d)).astype(np.float32) * 3 for size in (n, m, m))
    mask = rng.random((b, m)) < 0.7
    tensors = [torch.tensor(a.swapaxes(1, 2), requires_grad=True) for a in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(
        *tensors, attn_mask=torch.tensor(mask)[:, None, None]
    )
    expected.square().sum().backward()

    def total(q, k, v):
        out = attend(q, k, v, jnp.asarray(mask), implementation=implementation)
        return jnp.square(out).sum(), out

    gradients, out = jax.grad(total, (0, 1, 2), has_aux=True)(q, k, v)
    assert relative(out.swapaxes(1, 2), expected.detach().numpy()) <= 1e-5
    for ours, theirs in zip(gradients, tensors, strict=True):
        assert relative(ours.swapaxes(1, 2), theirs.grad.numpy()) <= 1e-4


@pytest.mark.parametrize("name", ["SD 1", "SDXL", "plain middle"])
def test_dropout_is_where_diffusers_has_it(name, monkeypatch):
    """Every dropout of diffusers' network, in the order in which they are called, drops what ours drops."""
    theirs, ours, params = pair(CONFIGS[name] | {"dropout": 0.3})
    given = inputs(CONFIGS[name], (16, 16))
    kept = []

    def noted(x, rate, key):
        kept.append(np.asarray(layers.dropout(jnp.ones(x.shape), rate, key)))
        return layers.dropout(x, rate, key)

    monkeypatch.setattr(resnet, "dropout", noted)
    x, times, context, more = given
    told = Conditioning(context=context, **more)
    made = ours.apply(params, x, times, told, dropout_key=jax.random.key(2))

    class Noted(torch.nn.Module):
        def forward(self, x):
            return x * torch.tensor(left.pop(0)).permute(0, 3, 1, 2)

    for module in list(theirs.modules()):
        for child, layer in list(module.named_children()):
            if isinstance(layer, torch.nn.Dropout) and layer.p > 0:
                setattr(module, child, Noted())
    left = list(kept)
    with torch.no_grad():
        expected = theirs_of(theirs, *given).numpy()
    assert kept and not left
    assert relative(made, expected) < 1e-5
    assert relative(ours.apply(params, x, times, told), expected) > 1e-2
