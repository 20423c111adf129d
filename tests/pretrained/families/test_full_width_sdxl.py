"""Every tensor of the full-size checkpoints has its place, and nothing is left over; no array is made.

``pytest -m slow tests/pretrained/families/test_full_width_sdxl.py`` also runs the base's UNet once in
bfloat16; that needs PyTorch, about 18 GB of memory and 6 GB of disk.
"""

import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from difflax.core.types import Conditioning, UserError
from difflax.models.size_conditioning import SCORE_NUMBERS, SIZE_NUMBERS, size_conditions
from difflax.models.unet import UNet2DConditionModel
from difflax.pretrained.families.family import denoiser_network
from difflax.pretrained.format.safetensors import open_weights
from difflax.pretrained.format.torch_names import check_names, from_torch
from difflax.text.clip_config import CLIPTextConfig
from difflax.text.encoders import text_network

from tests.fixtures import full_width_xl as reference
from tests.fixtures.make_shapes import read


class Shaped:
    def __init__(self, shape):
        self.shape = shape


def shaped(tensors):
    return {name: Shaped(shape) for name, shape in tensors.items()}


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "numbers", "billions"),
    # Podell et al. 2023, table 1: 2.6 B; the refiner's model card: 2.3 B.
    [("sdxl_unet", SIZE_NUMBERS, 2.6), ("sdxl_refiner_unet", SCORE_NUMBERS, 2.3)],
)
def test_unet(name, numbers, billions):
    config, tensors = read(name)
    abstract = denoiser_network(UNet2DConditionModel, json.dumps(config), "bfloat16").abstract()
    check_names(shaped(tensors), abstract, name)
    assert count(abstract) == sum(map(math.prod, tensors.values()))
    assert round(count(abstract) / 1e9, 1) == billions
    assert size_conditions(config, 1280, name) == (
        {SIZE_NUMBERS: "size", SCORE_NUMBERS: "size_and_score"}[numbers],
    )
    lost = dict(shaped(tensors))
    del lost["add_embedding.linear_1.weight"]
    with pytest.raises(UserError, match=r"missing add_embedding\.linear_1\.weight"):
        check_names(lost, abstract, name)


def test_big_g():
    config, tensors = read("big_g")
    abstract = text_network(CLIPTextConfig.from_config(config), True).abstract()
    named = {n if n.startswith(("text_model.", "text_projection.")) else f"text_model.{n}": t
             for n, t in shaped(tensors).items()}  # fmt: skip
    check_names(named, abstract, "bigG")
    # OpenCLIP's model profile of ViT-bigG-14: 694.66 M parameters of text.
    assert round(count(abstract) / 1e6, 2) == 694.66


@pytest.mark.slow
@pytest.mark.parity
def test_a_forward_in_bfloat16(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    # In a process of its own, so that PyTorch's copy of the weights is gone when ours come.
    subprocess.run([sys.executable, reference.__file__, tmp_path], check=True)
    model = denoiser_network(UNet2DConditionModel, json.dumps(read("sdxl_unet")[0]), jnp.bfloat16)
    tensors = open_weights(tmp_path / "unet", "diffusion_pytorch_model")
    params = from_torch(tensors, model.abstract(), "the UNet", dtype=jnp.bfloat16)
    given = safetensors.numpy.load_file(tmp_path / "references.safetensors")
    added = {name: given[name] for name in ("pooled", "time_ids")}
    run = jax.jit(
        lambda p, x, t, context, added: model.apply(p, x, t, Conditioning(context=context, **added))
    )
    out = run(params, given["x"], np.asarray([reference.TIMESTEP], np.float32), given["context"], added)
    error = np.linalg.norm(np.asarray(out, np.float32) - given["out"]) / np.linalg.norm(given["out"])
    assert error < 0.05
