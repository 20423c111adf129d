"""LAION's aesthetic predictor against the same layers in PyTorch."""

import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.pretrained.components.aesthetic import load_aesthetic

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")


def layers(width):
    """The published architecture."""
    nn = torch.nn
    parts = [nn.Linear(width, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2)]
    parts += [nn.Linear(128, 64), nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1)]
    return nn.ModuleDict({"layers": nn.Sequential(*parts)}).eval()


def test_marks_are_pytorchs(tmp_path):
    theirs = layers(32)
    torch.save(theirs.state_dict(), tmp_path / "linear.pth")
    features = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    unit = torch.tensor(features / np.linalg.norm(features, axis=1, keepdims=True))
    with torch.no_grad():
        expected = theirs["layers"](unit)[:, 0]
    score = load_aesthetic(tmp_path / "linear.pth")
    np.testing.assert_allclose(score(features), expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match="this CLIP gives 31"):
        score(features[:, 1:])


def test_other_files_are_one_line(tmp_path):
    torch.save({"layers.0.weight": torch.zeros(3, 4)}, tmp_path / "a.pth")
    two = {"layers.0.weight": torch.zeros(3, 4), "layers.0.bias": torch.zeros(3)}
    torch.save(two, tmp_path / "b.pth")
    for name, says in [("a", "no aesthetic predictor"), ("b", "one mark"), ("c", "no c.pth")]:
        with pytest.raises(UserError, match=says):
            load_aesthetic(tmp_path / f"{name}.pth")
