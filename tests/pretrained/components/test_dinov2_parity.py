"""DINOv2 against transformers' in PyTorch, on the same random weights and inputs."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.models.dinov2 import interpolation
from difflax.pretrained.components.dinov2 import dinov2_network, load_dinov2

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "patch_size": 4}


@pytest.mark.parametrize("gated", [False, True])
def test_features_are_transformers(tmp_path, gated):
    torch.manual_seed(0)
    config = transformers.Dinov2Config(**SIZES, image_size=28, use_swiglu_ffn=gated)
    theirs = transformers.Dinov2Model(config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    theirs.save_pretrained(tmp_path)
    ours, params = load_dinov2(tmp_path)
    network = dinov2_network(dataclasses.replace(ours, interpolate_offset=0.0))
    for edge in (28, 16):
        images = torch.randn(3, 3, edge, edge)
        with torch.no_grad():
            expected = theirs(images).pooler_output.numpy()
        found = network.apply(params, jnp.asarray(images.permute(0, 2, 3, 1).numpy()))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("old", "new"), [(37, 16), (7, 16)])
def test_positions_are_interpolated_as_the_authors_do(old, new):
    """Their code gives PyTorch a scale of (new + 0.1) / old, and PyTorch scales by that."""
    grid = torch.randn(1, 5, old, old)
    scale = (new + 0.1) / old
    expected = torch.nn.functional.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    weights = interpolation(old, new, 0.1)
    found = np.einsum("ia,jb,cab->cij", weights, weights, grid[0].numpy())
    np.testing.assert_allclose(found, expected[0], atol=2e-5)


def test_another_folder_is_one_line(clip_folder, tmp_path):
    for folder, says in [(clip_folder, "'clip' model"), (tmp_path, "no config.json")]:
        with pytest.raises(UserError, match=says):
            load_dinov2(folder)
