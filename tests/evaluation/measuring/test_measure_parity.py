"""The whole path, from a folder of images to numbers, against the packages that people report, on the same
random Inception.
"""

import contextlib
import io

import difflax
import numpy as np
import pytest
from difflax.evaluation import metrics as m

from tests.fixtures.inception import pictures, torch_inception, write_pictures

pytestmark = [pytest.mark.parity, pytest.mark.xdist_group("inception")]
torch = pytest.importorskip("torch")
torch_fidelity = pytest.importorskip("torch_fidelity")
clean_fid = pytest.importorskip("cleanfid.fid")

COUNT = 24


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    torch.save(torch_inception().state_dict(), folder / "inception.pth")
    darker = [image // 2 for image in pictures(4, COUNT)]
    write_pictures(folder / "made", pictures(3, COUNT)), write_pictures(folder / "real", darker)
    return folder


def measured(folders, resize):
    return difflax.measure(
        folders / "made",
        folders / "real",
        "fid,kid,prdc",
        resize=resize,
        inception=folders / "inception.pth",
        settings=difflax.MeasureSettings(kid_subset_size=20, kid_subsets=10, batch_size=16, nearest=3),
    )


@pytest.mark.slow
def test_legacy_is_torch_fidelity(folders):
    expected = torch_fidelity.calculate_metrics(
        input1=str(folders / "made"),
        input2=str(folders / "real"),
        cuda=False,
        fid=True,
        kid=True,
        kid_subset_size=20,
        kid_subsets=10,
        batch_size=1,  # its loader cannot stack images of several sizes
        cache=False,
        verbose=False,
        feature_extractor_weights_path=str(folders / "inception.pth"),
    )
    found = measured(folders, "legacy")
    assert found["fid"] == pytest.approx(expected["frechet_inception_distance"], rel=1e-3)
    assert found["kid"] == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-3)
    assert found["kid_std"] == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-2)


@pytest.mark.slow
def test_clean_is_clean_fid(folders):
    prdc = pytest.importorskip("prdc")
    network = torch_inception()

    def model(batch):
        # clean-fid's network takes images that are resized already, and the extractor resizes 299 to 299.
        with torch.no_grad():
            return run_resized(network, batch)

    features = [
        clean_fid.get_folder_features(
            str(folders / name),
            model,
            num_workers=0,
            batch_size=16,
            device="cpu",
            mode="clean",
            verbose=False,
        )
        for name in ("made", "real")
    ]
    found = measured(folders, "clean")
    # Its own root of a singular 2048 × 2048 product takes minutes; that the two distances are one is shown on
    # the same features in test_features_parity.py.
    fits = [m.fit_gaussian(part) for part in features]
    assert found["fid"] == pytest.approx(m.frechet_distance(*fits), rel=1e-3)
    np.random.seed(2020)  # noqa: NPY002
    expected = clean_fid.kernel_distance(*features, num_subsets=10, max_subset_size=20)
    assert found["kid"] == pytest.approx(expected, rel=1e-3)
    with contextlib.redirect_stdout(io.StringIO()):
        manifolds = prdc.compute_prdc(features[1], features[0], 3)
    for name, value in manifolds.items():
        assert found[name] == pytest.approx(value, abs=1e-4), name


def run_resized(network, batch):
    """torch-fidelity's network without its resize and its bytes."""
    stem = [network.Conv2d_1a_3x3, network.Conv2d_2a_3x3, network.Conv2d_2b_3x3, network.MaxPool_1]
    stem += [network.Conv2d_3b_1x1, network.Conv2d_4a_3x3, network.MaxPool_2]
    mixed = [getattr(network, f"Mixed_{name}") for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e")]
    x = (batch - 128) / 128
    for layer in [*stem, *mixed, network.Mixed_7a, network.Mixed_7b, network.Mixed_7c, network.AvgPool]:
        x = layer(x)
    return torch.flatten(x, 1)
