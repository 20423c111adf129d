"""The transformers of Stable Diffusion 3 and 3.5 at full width.

``pytest -m slow tests/pretrained/families/test_full_width_sd3.py`` also runs SD3-medium once in bfloat16;
that needs PyTorch, about 14 GB of memory and 5 GB of disk.
"""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from difflax.core.types import Conditioning
from difflax.models.mmdit import SD3Transformer2DModel
from difflax.pretrained.families.family import denoiser_network
from difflax.pretrained.format.safetensors import open_weights
from difflax.pretrained.format.torch_names import check_names, from_torch

from tests.fixtures import full_width_sd3 as reference

PARAMETERS = {"SD3-medium": 2.0e9, "SD3.5-medium": 2.5e9, "SD3.5-large": 8.1e9}
"""As Stability AI publishes them, rounded; the table of positions is counted among them."""


def network(name, dtype=jnp.float32):
    return denoiser_network(SD3Transformer2DModel, json.dumps(reference.CONFIGS[name]), dtype)


@pytest.mark.parametrize("name", reference.CONFIGS)
def test_every_tensor_of_the_checkpoint_has_its_place(name):
    tensors = {key: jax.ShapeDtypeStruct(shape, np.float16) for key, shape in reference.shapes(name).items()}
    abstract = network(name).abstract()
    check_names(tensors, abstract, name)
    count = sum(int(np.prod(t.shape)) for t in tensors.values())
    assert abs(count / PARAMETERS[name] - 1) < 0.05


@pytest.mark.slow
@pytest.mark.parity
def test_a_forward_in_bfloat16(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    # In a process of its own, so that PyTorch's copy of the weights is gone when ours come.
    subprocess.run([sys.executable, reference.__file__, tmp_path], check=True)
    model = network("SD3-medium", jnp.bfloat16)
    tensors = open_weights(tmp_path / "transformer", "diffusion_pytorch_model")
    params = from_torch(tensors, model.abstract(), "SD3-medium", dtype=jnp.bfloat16)
    given = safetensors.numpy.load_file(tmp_path / "references.safetensors")
    run = jax.jit(
        lambda p, x, t, context, pooled: model.apply(p, x, t, Conditioning(context=context, pooled=pooled))
    )
    out = run(params, given["x"], np.asarray([640.0], np.float32), given["context"], given["pooled"])
    error = np.linalg.norm(np.asarray(out, np.float32) - given["out"]) / np.linalg.norm(given["out"])
    assert error < 0.05
