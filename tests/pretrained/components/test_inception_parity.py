"""The Inception of FID against torch-fidelity's, on the same random weights and inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from difflax.core.types import UserError
from difflax.pretrained.components.inception import inception_network, load_inception

from tests.fixtures.inception import pictures, torch_inception

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
pytest.importorskip("torch_fidelity")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same weights in all files that are read."""
    folder = tmp_path_factory.mktemp("inception")
    state = torch_inception().state_dict()
    torch.save(state, folder / "new.pth")
    torch.save(state, folder / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": state, "epoch": 3}, folder / "within.pt")
    arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in state.items()}
    safetensors.numpy.save_file(arrays, folder / "named.safetensors")
    return folder


@pytest.fixture(scope="module")
def params(files):
    return load_inception(files / "named.safetensors")


@pytest.mark.parametrize("name", ["new.pth", "old.pth", "within.pt"])
def test_all_files_hold_the_same_weights(files, params, name):
    jax.tree.map(np.testing.assert_array_equal, load_inception(files / name), params)


def test_features_are_torch_fidelitys(params):
    images = np.stack([np.resize(image, (299, 299, 3)) for image in pictures(1, 3)])
    with torch.no_grad():
        (expected,) = torch_inception()(torch.tensor(images).permute(0, 3, 1, 2))
    expected = expected.numpy()
    spread = expected.std(0).mean()
    assert spread > 0.05 * np.abs(expected).mean()
    found = inception_network().apply(params, jnp.asarray(images, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * spread)


def test_other_weights_are_one_line(files, tmp_path):
    torch.save({"fc.weight": torch.zeros(3, 4)}, tmp_path / "head.pth")
    for path, says in [(tmp_path / "head.pth", "missing Conv2d_1a_3x3"), (tmp_path, "is a folder")]:
        with pytest.raises(UserError, match=says):
            load_inception(path)
