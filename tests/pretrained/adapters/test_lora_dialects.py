"""One random LoRA of every layer, written in each dialect in use, changes the networks by the same numbers.

In the original code's names it is what that code's own layout of the weights says; and where diffusers
(PyTorch) reads a dialect, what diffusers merges.
"""

import dataclasses
from collections.abc import Callable

import difflax
import numpy as np
import pytest
import safetensors.numpy
from difflax.core.types import UserError
from difflax.models.lora import adaptable_layers
from difflax.pretrained.adapters.lora import merge_lora
from difflax.pretrained.families.base import networks_of
from difflax.pretrained.format.torch_names import to_torch

from tests.fixtures.original_layout import mmdit, rename, unet_modules
from tests.pretrained.adapters.families import FAMILIES, UNET

RANK, ALPHA = 2, 3.0
KOHYA = {
    **dict.fromkeys(("unet", "transformer"), "lora_unet_"),
    "text_encoder": "lora_te1_",
    "text_encoder_2": "lora_te2_",
    "text_encoder_3": "lora_te3_",
}
OMI = {"unet": "unet.", "transformer": "transformer.", "text_encoder": "clip_l.", "text_encoder_2": "clip_g."}
OMI["text_encoder_3"] = "t5."
COMFY = {
    **dict.fromkeys(("unet", "transformer"), "diffusion_model."),
    **{
        f"text_encoder{suffix}": f"text_encoders.{name}.transformer."
        for suffix, name in (("", "clip_l"), ("_2", "clip_g"), ("_3", "t5xxl"))
    },
}
DENOISERS = ("unet", "transformer")
OLD_TEXT = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}


def dotted(network, layer):
    return f"{network}.{layer}"


def flat(prefixes):
    return lambda network, layer: prefixes[network] + layer.replace(".", "_")


def processors(network, layer):
    """diffusers' names of 2023: attention's factors are its processor's."""
    parent, _, last = layer.rpartition(".")
    if network in DENOISERS and layer.endswith("to_out.0"):
        parent, last = layer.removesuffix(".to_out.0"), "to_out"
    if network not in DENOISERS and last in OLD_TEXT:
        return f"{network}.{parent}.{OLD_TEXT[last]}_lora"
    if network in DENOISERS and last in (*OLD_TEXT.values(), "to_out"):
        return f"{network}.{parent}.processor.{last}_lora"
    return f"{network}.{layer}.lora"


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How a program names tensors.

    Attributes:
        stem: of a network and a layer.
        down, up: the ends.
        alpha: the shape that it is stored in; ``None``: it is in the factors.
        only: the networks that it has.
    """

    stem: Callable[[str, str], str]
    down: str
    up: str
    alpha: tuple[int, ...] | None
    only: tuple[str, ...] | None = None


AB = (".lora_A.weight", ".lora_B.weight")
DOWN_UP = (".lora_down.weight", ".lora_up.weight")
DIALECTS = {
    "diffusers": Dialect(dotted, *AB, None),
    "diffusers with alphas": Dialect(dotted, *AB, ()),
    "diffusers of 2023": Dialect(processors, ".down.weight", ".up.weight", None),
    "diffusers' text encoders": Dialect(
        dotted, ".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight", None
    ),
    "peft, a named adapter": Dialect(dotted, ".lora_A.default.weight", ".lora_B.default.weight", None),
    "peft in a network": Dialect(lambda n, layer: f"{n}.base_model.model.{layer}", *AB, None),
    "peft of a single network": Dialect(lambda _, layer: f"base_model.model.{layer}", *AB, None, DENOISERS),
    "no prefix": Dialect(lambda _, layer: layer, ".lora_A", ".lora_B", None, DENOISERS),
    "kohya, A1111": Dialect(flat(KOHYA), *DOWN_UP, ()),
    "kohya, alpha [1]": Dialect(flat(KOHYA), *DOWN_UP, (1,)),
    "OneTrainer": Dialect(flat(KOHYA | {"transformer": "lora_transformer_"}), *DOWN_UP, ()),
    "SimpleTuner": Dialect(flat(dict.fromkeys(DENOISERS, "lycoris_")), *DOWN_UP, (), DENOISERS),
    "ComfyUI": Dialect(lambda n, layer: COMFY[n] + layer, *AB, None),
}
ORIGINAL = {
    "kohya": Dialect(flat(KOHYA), *DOWN_UP, ()),
    "ComfyUI": Dialect(lambda n, layer: COMFY[n] + layer, *DOWN_UP, (1,)),
    "ComfyUI, peft's ends": Dialect(lambda n, layer: COMFY[n] + layer, *AB, ()),
    "OneTrainer's newest": Dialect(lambda n, layer: OMI[n] + layer, *DOWN_UP, ()),
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(family.name, marks=[pytest.mark.slow] if family.name == "sdxl" else [])
        for family in FAMILIES
    ],
)
def family(request):
    return next(family for family in FAMILIES if family.name == request.param)


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return family.build(tmp_path_factory.mktemp("checkpoint") / "checkpoint")


@pytest.fixture(scope="module")
def networks(family, folder):
    pipeline = difflax.from_pretrained(str(folder), variant="fp16", batch_size=1, **family.options)
    return networks_of(pipeline.model.configs, pipeline.model.params, pipeline.model.text_encoder)


def as_torch(params):
    return {name: np.asarray(tensor, np.float32) for name, tensor in to_torch(params).items()}


def factors_of(shape, rng):
    """``lora_down`` and ``lora_up`` of a weight [out, in, …] in PyTorch's layout."""
    outputs, *inside = shape
    down = rng.standard_normal((RANK, *inside)).astype(np.float32)
    up = rng.standard_normal((outputs, RANK, *[1] * (len(shape) - 2))).astype(np.float32)
    return down, up


def product(down, up):
    change = up.reshape(len(up), -1).astype(np.float64) @ down.reshape(len(down), -1)
    return ALPHA / RANK * change.reshape(len(up), *down.shape[1:])


def write(path, dialect, changes):
    """A file of ``changes``, (network, layer) → (down, up)."""
    tensors = {}
    for (network, layer), (down, up) in changes.items():
        stem = dialect.stem(network, layer)
        if dialect.alpha is None:
            down = down * np.float32(ALPHA / RANK)
        else:
            tensors[f"{stem}.alpha"] = np.full(dialect.alpha, ALPHA, np.float32)
        tensors |= {stem + dialect.down: down, stem + dialect.up: up}
    safetensors.numpy.save_file(tensors, path)
    return path


def kernels(networks, only=None):
    """(network, layer) → PyTorch's weight of every linear layer and convolution."""
    found = {}
    for name, params in networks.items():
        weights = as_torch(params)
        if only is None or name in only:
            found |= {(name, layer): weights[f"{layer}.weight"] for layer in adaptable_layers(params)}
    return found


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_is_the_same_change(family, networks, tmp_path, name):
    dialect, rng = DIALECTS[name], np.random.default_rng(0)
    before = kernels(networks, dialect.only)
    changes = {place: factors_of(weight.shape, rng) for place, weight in before.items()}
    path = write(tmp_path / "lora.safetensors", dialect, changes)
    after = kernels(merge_lora(path, networks), dialect.only)
    for place, (down, up) in changes.items():
        expected = before[place] + product(down, up)
        np.testing.assert_allclose(after[place], expected, rtol=1e-5, atol=1e-5, err_msg=str(place))


def original(family, networks):
    """The denoiser's tensors in the layout of the code that it was published in."""
    weights = as_torch(networks[family.denoiser])
    if family.denoiser == "transformer":
        blocks = {name.split(".")[1] for name in weights if name.startswith("transformer_blocks.")}
        return mmdit(weights, len(blocks))
    levels = sorted({name.split(".")[1] for name in weights if name.startswith("down_blocks.")})
    attends = [any(n.startswith(f"down_blocks.{i}.attentions") for n in weights) for i in levels]
    modules = unet_modules(attends, layers=2)
    modules |= {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
    return rename(weights, modules)


@pytest.mark.parametrize("name", ORIGINAL)
def test_the_original_names_are_the_original_layers(family, networks, tmp_path, name):
    dialect, rng = ORIGINAL[name], np.random.default_rng(1)
    before = original(family, networks)
    layers = [n.removesuffix(".weight") for n, w in before.items() if n.endswith(".weight") and w.ndim > 1]
    assert len(layers) > 20
    changes = {(family.denoiser, layer): factors_of(before[f"{layer}.weight"].shape, rng) for layer in layers}
    path = write(tmp_path / "lora.safetensors", dialect, changes)
    after = original(family, merge_lora(path, networks))
    for layer in layers:
        expected = before[f"{layer}.weight"] + product(*changes[family.denoiser, layer])
        np.testing.assert_allclose(after[f"{layer}.weight"], expected, rtol=1e-5, atol=1e-5, err_msg=layer)


@pytest.mark.parametrize("family", ["sd3"], indirect=True, scope="module")
def test_onetrainers_three_parts_of_one_original_layer(networks, tmp_path):
    rng, names = np.random.default_rng(2), ("to_q", "to_k", "to_v")
    place = "transformer_blocks.0.attn."
    before = kernels(networks)
    shape = before["transformer", place + "to_q"].shape
    changes = {
        ("transformer", f"joint_blocks.0.x_block.attn.qkv.{i}"): factors_of(shape, rng) for i in range(3)
    }
    path = write(tmp_path / "lora.safetensors", ORIGINAL["OneTrainer's newest"], changes)
    after = kernels(merge_lora(path, networks))
    for name, pair in zip(names, changes.values(), strict=True):
        expected = before["transformer", place + name] + product(*pair)
        np.testing.assert_allclose(after["transformer", place + name], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["sd15"], indirect=True, scope="module")
def test_a_layer_that_is_there_twice(networks, tmp_path):
    layer, rng = "down_blocks.0.attentions.0.proj_in", np.random.default_rng(0)
    pair = factors_of(kernels(networks)["unet", layer].shape, rng)
    changes = {("unet", layer): pair, ("unet", "input_blocks.1.1.proj_in"): pair}
    path = write(tmp_path / "lora.safetensors", DIALECTS["kohya, A1111"], changes)
    with pytest.raises(UserError, match=r"twice.*keep one"):
        merge_lora(path, networks)


@pytest.mark.parity
class TestAgainstDiffusers:
    """The same file, merged by diffusers' ``load_lora_weights`` and ``fuse_lora``, leaves equal weights."""

    @pytest.fixture(scope="class", autouse=True)
    def needed(self):
        pytest.importorskip("peft")

    @pytest.mark.parametrize(
        ("family", "name", "by_original_names"),
        [
            ("sd15", "kohya, A1111", False),
            ("sdxl", "kohya, A1111", False),
            ("sdxl", "kohya", True),
            ("sd15", "diffusers", False),
            ("sdxl", "diffusers", False),
            ("sd3", "diffusers", False),
        ],
        indirect=["family"],
        scope="module",
    )
    def test_what_both_read(self, family, folder, networks, tmp_path, name, by_original_names):
        rng = np.random.default_rng(3)
        chosen = family.layers if family.denoiser == "transformer" else (*UNET, "conv1")
        if by_original_names:
            dialect, weights = ORIGINAL[name], original(family, networks)
            ends = (*UNET, "in_layers.2", "emb_layers.1")
            changes = {
                (family.denoiser, layer): factors_of(weight.shape, rng)
                for full, weight in weights.items()
                if (layer := full.removesuffix(".weight")) != full and layer.endswith(ends)
            }
        else:
            dialect = DIALECTS[name]
            # diffusers 0.42 drops kohya's layers of a text encoder's attention with transformers 5.
            text = ("fc1",) if name.startswith("kohya") else ("q_proj", "fc1")
            ends = {family.denoiser: chosen, **dict.fromkeys(family.texts, text)}
            changes = {
                place: factors_of(weight.shape, rng)
                for place, weight in kernels(networks, ends).items()
                if place[1].endswith(ends[place[0]])
            }
        path = write(tmp_path / "lora.safetensors", dialect, changes)
        ours = merge_lora(path, networks, 0.7)
        theirs = family.load(folder)
        theirs.load_lora_weights(path)
        theirs.fuse_lora(components=[family.denoiser, *family.texts], lora_scale=0.7)
        theirs.unload_lora_weights()
        for network in (family.denoiser, *family.texts):
            expected = getattr(theirs, network).state_dict()
            before = as_torch(networks[network])
            assert network != family.denoiser or changes
            for full, tensor in as_torch(ours[network]).items():
                key = full if full in expected else full.removeprefix("text_model.")
                np.testing.assert_allclose(tensor, expected[key].numpy(), rtol=1e-5, atol=1e-5, err_msg=full)
            touched = {place[0] for place in changes}
            moved = sum(not np.array_equal(before[n], t) for n, t in as_torch(ours[network]).items())
            assert (moved > 0) == (network in touched)
