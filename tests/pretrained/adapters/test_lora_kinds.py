"""LoHa, LoKr, DoRA and the rest against peft on random layers, and where peft has no equal against the
papers' formulas in NumPy, float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from difflax.core.types import UserError
from difflax.pretrained.adapters.lora import merge_lora

INPUTS, OUTPUTS, RANK, ALPHA = 12, 18, 3, 2.0
SHAPES = {"linear": (OUTPUTS, INPUTS), "conv": (OUTPUTS, INPUTS, 3, 3), "conv1": (OUTPUTS, INPUTS, 1, 1)}
AXES = {4: (2, 3, 1, 0), 2: (1, 0)}


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def networks(weights):
    """One network of these layers, with biases, and a norm."""
    layers = {
        name: {"kernel": weight.transpose(AXES[weight.ndim]), "bias": np.ones(OUTPUTS, np.float32)}
        for name, weight in weights.items()
    }
    norm = {"scale": np.ones(INPUTS, np.float32), "bias": np.zeros(INPUTS, np.float32)}
    return jax.tree.map(jnp.asarray, {"unet": {"block": layers | {"norm": norm}}})


def merged(path, networks, weight=1.0):
    """The weights after merging, in PyTorch's layout."""
    layers = merge_lora(path, networks, weight)["unet"]["block"]
    inverse = {4: (3, 2, 0, 1), 2: (1, 0)}
    return {name: np.asarray(layers[name]["kernel"]).transpose(inverse[len(SHAPES[name])]) for name in SHAPES}


def write(path, tensors):
    safetensors.numpy.save_file({n: np.ascontiguousarray(t, np.float32) for n, t in tensors.items()}, path)
    return path


def draw(rng, **shapes):
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


LOW = {"decompose_both": True, "decompose_factor": 6}
EFFECTIVE = {"use_effective_conv2d": True}
PEFT = {
    "lora": ("LoraConfig", {"lora_alpha": ALPHA}),
    "rslora": ("LoraConfig", {"lora_alpha": ALPHA, "use_rslora": True}),
    "biases": ("LoraConfig", {"lora_alpha": ALPHA, "lora_bias": True}),
    "patterns": ("LoraConfig", {"lora_alpha": 1, "alpha_pattern": {"conv": 5}, "rank_pattern": {"conv": 2}}),
    "dora": ("LoraConfig", {"lora_alpha": ALPHA, "use_dora": True}),
    "loha": ("LoHaConfig", {"alpha": ALPHA}),
    "loha, tucker": ("LoHaConfig", {"alpha": ALPHA} | EFFECTIVE),
    "lokr": ("LoKrConfig", {"alpha": ALPHA, "r": 2}),
    "lokr, tucker": ("LoKrConfig", {"alpha": ALPHA, "r": 2} | EFFECTIVE),
    "lokr, both of low rank": ("LoKrConfig", {"alpha": ALPHA, "r": 1} | LOW),
    "lokr, whole": ("LoKrConfig", {"alpha": ALPHA, "r": 16}),
}


class TestAgainstPeft:
    """A peft adapter on disk, with its config beside it, here and there."""

    pytestmark = pytest.mark.parity

    @pytest.mark.parametrize("name", PEFT)
    @pytest.mark.parametrize("weight", [1.0, 0.7])
    def test_the_same_weights(self, weights, networks, tmp_path, name, weight):
        torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
        kind, options = PEFT[name]

        class Block(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = torch.nn.Linear(INPUTS, OUTPUTS)
                self.conv = torch.nn.Conv2d(INPUTS, OUTPUTS, 3)
                self.conv1 = torch.nn.Conv2d(INPUTS, OUTPUTS, 1)

        model = torch.nn.Module()
        model.block = Block()
        for layer, value in weights.items():
            getattr(model.block, layer).weight.data = torch.tensor(value)
            getattr(model.block, layer).bias.data = torch.ones(OUTPUTS)
        made = peft.get_peft_model(
            model, getattr(peft, kind)(**({"r": RANK} | options), target_modules=list(SHAPES))
        )
        generator = torch.Generator().manual_seed(0)
        for key, parameter in made.named_parameters():
            if parameter.requires_grad:
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.data = drawn.abs() + 0.5 if "magnitude" in key else drawn
        made.save_pretrained(tmp_path)
        for module in made.modules():
            if hasattr(module, "scaling"):
                module.scaling = {key: weight * value for key, value in module.scaling.items()}
        merge = made.merge_and_unload().block
        ours = merged(tmp_path, networks, weight)
        for layer, before in weights.items():
            theirs = getattr(merge, layer).weight.detach().numpy()
            assert np.abs(theirs - before).max() > 0.1
            close(ours[layer], theirs)
            bias = merge_lora(tmp_path, networks, weight)["unet"]["block"][layer]["bias"]
            close(bias, getattr(merge, layer).bias.detach().numpy())


def test_a_convolution_with_a_core(weights, networks, tmp_path):
    """LyCORIS' LoCon with ``use_tucker`` (CP): a 1 × 1 down, a core of the window, a 1 × 1 up."""
    rng = np.random.default_rng(1)
    parts = draw(rng, down=(RANK, INPUTS, 1, 1), mid=(RANK, RANK, 3, 3), up=(OUTPUTS, RANK, 1, 1))
    tensors = {f"lora_unet_block_conv.lora_{part}.weight": array for part, array in parts.items()}
    path = write(tmp_path / "x.safetensors", tensors | {"lora_unet_block_conv.alpha": np.float32(ALPHA)})
    wide = {part: array.astype(np.float64) for part, array in parts.items()}
    change = np.einsum("oi,ijhw,jc->ochw", wide["up"][..., 0, 0], wide["mid"], wide["down"][..., 0, 0])
    close(merged(path, networks)["conv"], weights["conv"] + ALPHA / RANK * change)


def test_a_flattened_convolution_and_a_linear_file_for_a_1x1(weights, networks, tmp_path):
    rng = np.random.default_rng(2)
    flat = draw(rng, down=(RANK, INPUTS * 9), up=(OUTPUTS, RANK))
    linear = draw(rng, down=(RANK, INPUTS), up=(OUTPUTS, RANK))
    tensors = {f"lora_unet_block_conv.lora_{part}.weight": array for part, array in flat.items()}
    tensors |= {f"lora_unet_block_conv1.lora_{part}.weight": array for part, array in linear.items()}
    found = merged(write(tmp_path / "x.safetensors", tensors), networks)
    for layer, pair in (("conv", flat), ("conv1", linear)):
        change = (pair["up"].astype(np.float64) @ pair["down"]).reshape(SHAPES[layer])
        close(found[layer], weights[layer] + change)


@pytest.mark.parametrize("of_inputs", [False, True])
@pytest.mark.parametrize("kind", ["lora", "loha", "lokr"])
@pytest.mark.parametrize("layer", ["linear", "conv"])
def test_lycoris_dora_of_any_change(weights, networks, tmp_path, layer, kind, of_inputs):
    """Equation 5, m (W + Δ) / |W + Δ|, with a length an output or, as LyCORIS had it first, an input."""
    rng, (outputs, inputs, *window) = np.random.default_rng(3), SHAPES[layer]
    size = inputs * int(np.prod(window))
    lengths = (1, inputs) if of_inputs else (outputs, 1)
    magnitude = rng.uniform(1, 2, (*lengths, *[1] * len(window))).astype(np.float32)
    if kind == "lora":
        parts = draw(rng, a=(RANK, inputs, *window), b=(outputs, RANK, *[1] * len(window)))
        change = parts["b"].reshape(outputs, RANK).astype(np.float64) @ parts["a"].reshape(RANK, -1)
        names, rank = {"a": "lora_down.weight", "b": "lora_up.weight"}, RANK
    elif kind == "loha":
        parts = draw(rng, a1=(outputs, RANK), b1=(RANK, size), a2=(outputs, RANK), b2=(RANK, size))
        wide = {name: array.astype(np.float64) for name, array in parts.items()}
        change = (wide["a1"] @ wide["b1"]) * (wide["a2"] @ wide["b2"])
        names = {f"{x}{n}": f"hada_w{n}_{x}" for x in "ab" for n in "12"}
        rank = RANK
    else:
        parts = draw(rng, w1=(3, 2), a=(outputs // 3, 2), b=(2, size // 2))
        wide = {name: array.astype(np.float64) for name, array in parts.items()}
        second = (wide["a"] @ wide["b"]).reshape(outputs // 3, inputs // 2, *window)
        change = np.kron(wide["w1"].reshape(3, 2, *[1] * len(window)), second)
        names, rank = {"w1": "lokr_w1", "a": "lokr_w2_a", "b": "lokr_w2_b"}, 2
    stem = f"lycoris_block_{layer}"
    tensors = {f"{stem}.{names[name]}": array for name, array in parts.items()}
    tensors |= {f"{stem}.alpha": np.float32(ALPHA), f"{stem}.dora_scale": magnitude}
    path = write(tmp_path / "x.safetensors", tensors)
    moved = weights[layer] + ALPHA / rank * change.reshape(SHAPES[layer])
    axes = tuple(axis for axis in range(moved.ndim) if axis != (1 if of_inputs else 0))
    expected = magnitude * moved / np.sqrt((moved**2).sum(axes, keepdims=True))
    close(merged(path, networks)[layer], expected)


def test_whole_matrices_of_lokr_are_not_scaled(weights, networks, tmp_path):
    """LyCORIS writes ``alpha = dim`` there, and reads 1 for what they are scaled by."""
    parts = draw(np.random.default_rng(4), lokr_w1=(2, 3), lokr_w2=(OUTPUTS // 2, INPUTS // 3, 3, 3))
    tensors = {f"lora_unet_block_conv.{name}": array for name, array in parts.items()}
    tensors["lora_unet_block_conv.alpha"] = np.float32(100000)
    change = np.kron(parts["lokr_w1"].reshape(2, 3, 1, 1).astype(np.float64), parts["lokr_w2"])
    close(merged(write(tmp_path / "x.safetensors", tensors), networks)["conv"], weights["conv"] + change)


def test_differences_of_weights_biases_and_norms(weights, networks, tmp_path):
    rng = np.random.default_rng(5)
    parts = draw(rng, diff=SHAPES["conv"], diff_b=(OUTPUTS,), w_norm=(INPUTS,), b_norm=(INPUTS,))
    tensors = {f"lora_unet_block_conv.{name}": parts[name] for name in ("diff", "diff_b")}
    tensors |= {f"lora_unet_block_norm.{name}": parts[name] for name in ("w_norm", "b_norm")}
    path = write(tmp_path / "x.safetensors", tensors)
    close(merged(path, networks, 0.5)["conv"], weights["conv"] + 0.5 * parts["diff"])
    block = merge_lora(path, networks, 0.5)["unet"]["block"]
    close(block["conv"]["bias"], 1 + 0.5 * parts["diff_b"])
    close(block["norm"]["scale"], 1 + 0.5 * parts["w_norm"])
    close(block["norm"]["bias"], 0.5 * parts["b_norm"])


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"hada_w1_a": (OUTPUTS, 2), "hada_w1_b": (2, INPUTS)}, "without hada_w2_a and hada_w2_b"),
        ({"lokr_w1": (5, 2), "lokr_w2": (3, 6)}, "5 × 2, which does not divide 18 × 12"),
        ({"lokr_w1": (3, 2)}, "neither lokr_w2 nor both of"),
        ({"lokr_w1": (3, 2), "diff": (OUTPUTS, INPUTS)}, "parts of LoKr and of a whole difference"),
        ({"diff": (OUTPUTS, 7)}, r"shape \(18, 7\) in place of \(18, 12\)"),
        ({"diff_b": (7,)}, "7 biases and not of 18"),
        ({"diff": (OUTPUTS, INPUTS), "alpha": (2,)}, "alpha of 2 numbers"),
        (
            {"lora_down.weight": (2, INPUTS), "lora_up.weight": (OUTPUTS, 2), "alpha": (2,)},
            "alpha of 2 numbers",
        ),
        ({"lora_down.weight": (2, INPUTS), "lora_up.weight": (OUTPUTS, 3)}, "rank 2 and 3"),
        (
            {"lora_down.weight": (2, INPUTS), "lora_up.weight": (OUTPUTS, 2), "dora_scale": (7, 1)},
            r"lengths of shape \(7, 1\)",
        ),
        ({"oft_blocks": (2, 3, 3)}, "1 tensor of OFT"),
        ({"a1.weight": (2, 3), "a2.weight": (3, 3)}, "2 tensors of GLoRA"),
        ({"weight": (2,), "on_input": (1,)}, "not read"),
    ],
)
def test_parts_that_make_no_change(networks, tmp_path, parts, says):
    tensors = {f"lora_unet_block_linear.{name}": np.ones(shape) for name, shape in parts.items()}
    path = write(tmp_path / "x.safetensors", tensors)
    with pytest.raises(UserError, match=says) as error:
        merge_lora(path, networks)
    assert len(str(error.value)) < 500


def test_a_norm_takes_no_factors(networks, tmp_path):
    tensors = {
        "unet.block.norm.lora_A.weight": np.ones((2, INPUTS)),
        "unet.block.norm.lora_B.weight": np.ones((1, 2)),
    }
    with pytest.raises(UserError, match="neither a linear layer nor a convolution"):
        merge_lora(write(tmp_path / "x.safetensors", tensors), networks)
