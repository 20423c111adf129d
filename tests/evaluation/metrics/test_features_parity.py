"""The metrics of features against the packages that people report them with, on the same features."""

import contextlib
import io

import numpy as np
import pytest
from difflax.evaluation import metrics as m

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
metric_fid = pytest.importorskip("torch_fidelity.metric_fid")
metric_kid = pytest.importorskip("torch_fidelity.metric_kid")
clean_fid = pytest.importorskip("cleanfid.fid")
prdc = pytest.importorskip("prdc")


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(24, 24)) / 5
    return rng.normal(size=(300, 24)) @ mixing, 0.2 + 1.1 * rng.normal(size=(260, 24)) @ mixing


def test_frechet_distance_is_torch_fidelitys(features):
    stats = [metric_fid.fid_features_to_statistics(torch.tensor(part)) for part in features]
    expected = metric_fid.fid_statistics_to_metric(*stats, False)[metric_fid.KEY_METRIC_FID]
    fits = [m.fit_gaussian(part) for part in features]
    for trace in ("factors", "eigenvalues"):
        assert m.frechet_distance(*fits, trace=trace) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_is_clean_fids(features):
    expected = clean_fid.fid_from_feats(*features)
    fits = [m.fit_gaussian(part) for part in features]
    for trace in ("factors", "sqrtm"):
        assert m.frechet_distance(*fits, trace=trace) == pytest.approx(expected, rel=1e-9)


def test_kid_is_torch_fidelitys_on_its_own_subsets(features):
    first, second = map(torch.tensor, features)
    expected = metric_kid.kid_features_to_metric(first, second, kid_subset_size=100, verbose=False)
    found = m.kernel_distance(*features, size=100)
    assert found.mean == pytest.approx(expected[metric_kid.KEY_METRIC_KID_MEAN], rel=1e-9)
    assert found.deviation == pytest.approx(expected[metric_kid.KEY_METRIC_KID_STD], rel=1e-9)


def test_kid_is_clean_fids_on_its_own_subsets(features):
    """Its subsets are as large as the smaller set, and drawn from NumPy's global stream."""
    np.random.seed(7)  # noqa: NPY002
    expected = clean_fid.kernel_distance(*features)
    assert m.kernel_distance(*features, seed=7, clamp=True).mean == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("nearest", [3, 5])
def test_manifolds_are_those_of_prdc(features, nearest):
    made, real = features
    with contextlib.redirect_stdout(io.StringIO()):
        expected = prdc.compute_prdc(real, made, nearest)
    found = m.compare_manifolds(made, real, nearest=nearest)
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, abs=1e-12), name
    assert 0 < found.precision < 1 and 0 < found.coverage < 1
