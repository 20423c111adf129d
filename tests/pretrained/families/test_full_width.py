"""Stable Diffusion 1.5 at full width: an 860 M UNet, CLIP-L and the autoencoder, with random weights.

Needs PyTorch, 9 GB of memory and 5 GB of disk:
``pytest -m slow tests/pretrained/families/test_full_width.py``.
"""

import pathlib
import subprocess
import sys

import difflax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from difflax.core.types import Conditioning

SCRIPT = pathlib.Path(__file__).parents[2] / "fixtures" / "full_width.py"

pytestmark = [pytest.mark.slow, pytest.mark.parity]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    place = tmp_path_factory.mktemp("full")
    # In a process of its own, so that PyTorch's copy of the weights is gone when ours come.
    subprocess.run([sys.executable, SCRIPT, place], check=True)
    return place


def test_every_component(folder):
    pipeline = difflax.from_pretrained(str(folder))
    given = safetensors.numpy.load_file(folder / "references.safetensors")
    parameters = sum(leaf.size for leaf in jax.tree.leaves(pipeline.model.params))
    assert parameters == 859_520_964  # as published of Stable Diffusion 1

    def error(ours, name):
        return np.abs(np.asarray(ours) - given[name]).max() / np.abs(given[name]).max()

    unet = jax.jit(pipeline.model.network.apply)(
        pipeline.model.params,
        jnp.asarray(given["noise"]),
        jnp.asarray([981.0]),
        Conditioning(context=given["context"]),
    )
    text = pipeline.model.text_encoder.condition_ids(jnp.asarray(given["input_ids"].astype(np.int32)))
    autoencoder, params = pipeline.model.autoencoder, pipeline.model.autoencoder_params
    encode, decode = (
        jax.jit(lambda p, x, m=method: autoencoder.network.apply(p, x, method=m))
        for method in ("encode", "decode")
    )
    errors = {
        "unet": error(unet, "unet"),
        "text states": error(text.context, "last_hidden_state"),
        "pooled text": error(text.pooled, "pooled"),
        "encoded": error(encode(params, jnp.asarray(given["picture"])).mean, "mean"),
        "decoded": error(decode(params, jnp.asarray(given["noise"])), "decoded"),
    }
    assert max(errors.values()) < 1e-4, errors
