"""Metrics of two sets of features, against scipy, scikit-learn and closed forms."""

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
import scipy.stats
import sklearn.metrics.pairwise
from difflax.core.types import UserError
from difflax.evaluation import metrics as m
from difflax.evaluation.metrics import features as rows
from difflax.evaluation.metrics.extrapolation import frechet_infinity


def two_sets(seed, width=12, counts=(70, 90), shift=0.3):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(width, width))
    first, second = (rng.normal(size=(count, width)) @ mixing for count in counts)
    return first, second + shift


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few rows, so that there are many."""
    monkeypatch.setattr(rows, "BLOCK_BYTES", 8 * 90 * 7)


# Fréchet


@pytest.mark.parametrize("sizes", [(400,), (1, 2, 397), (100, 100, 100, 100)])
def test_moments_of_a_stream_are_numpys(sizes):
    features = (np.random.default_rng(0).normal(size=(400, 9)) * 3 + 500).astype(np.float32)
    moments = m.RunningMoments(9)
    for part in np.split(features, np.cumsum(sizes)[:-1]):
        moments.update(part)
    moments.update(features[:0])
    assert moments.count == 400
    np.testing.assert_allclose(moments.mean, features.mean(0, dtype=np.float64), rtol=1e-13)
    np.testing.assert_allclose(moments.covariance, np.cov(features.astype(np.float64).T), rtol=1e-10)


@pytest.mark.parametrize("count", [7, 300])
def test_a_streamed_distance_is_the_distance_at_once(count):
    first, second = two_sets(1, counts=(count, 200))
    moments = m.RunningMoments(first.shape[1])
    for part in np.array_split(first, 5):
        moments.update(part)
    streamed = m.frechet_distance(moments.fit(), m.fit_gaussian(second))
    assert streamed == pytest.approx(m.frechet_distance(m.fit_gaussian(first), m.fit_gaussian(second)))


@pytest.mark.parametrize("trace", m.TRACES)
def test_every_trace_is_the_trace_of_scipys_root(trace):
    first, second = (m.fit_gaussian(part) for part in two_sets(2))
    root = scipy.linalg.sqrtm(first.covariance @ second.covariance)
    expected = np.sum((first.mean - second.mean) ** 2) + np.trace(
        first.covariance + second.covariance - 2 * root.real
    )
    assert m.frechet_distance(first, second, trace=trace) == pytest.approx(expected, rel=1e-8)


def test_fid_infinity_takes_away_the_bias_of_few_images():
    """Two Gaussians whose distance is known: the parts are biased upwards, the limit much less."""
    rng, width = np.random.default_rng(3), 10
    truth = m.gaussian_of(np.zeros(width), np.eye(width))
    made = rng.normal(size=(4000, width)) * 1.2 + 0.1
    exact = width * (0.1**2 + 0.2**2)
    found = frechet_infinity(made, truth, seed=0, smallest=100)
    assert found.sizes[0] == 100 and found.sizes[-1] == 4000 and len(found.sizes) == 15
    fit = scipy.stats.linregress(1 / np.array(found.sizes), found.distances)
    assert found.value == pytest.approx(fit.intercept) and found.slope == pytest.approx(fit.slope)
    assert found.slope > 0
    assert abs(found.value - exact) < 0.15 * abs(found.distances[0] - exact)


# Kernels


def test_cmmd_is_that_of_scikit_learns_kernel(small_blocks):
    first, second = two_sets(4)
    x, y = m.normalize(first), m.normalize(second)

    def mean(a, b):
        return sklearn.metrics.pairwise.rbf_kernel(a, b, gamma=1 / (2 * 10**2)).mean()

    assert m.cmmd(first, second) == pytest.approx(1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y)), rel=1e-9)
    assert m.cmmd(first, first) == pytest.approx(0, abs=1e-12)


def test_kid_of_whole_sets_is_that_of_scikit_learns_kernel():
    """One subset of everything leaves nothing to chance."""
    first, second = two_sets(5, counts=(40, 40))
    kernel = sklearn.metrics.pairwise.polynomial_kernel
    within = [kernel(part, degree=3, coef0=1)[~np.eye(40, dtype=bool)].mean() for part in (first, second)]
    expected = sum(within) - 2 * kernel(first, second, degree=3, coef0=1).mean()
    for clamp in (False, True):
        found = m.kernel_distance(first, second, subsets=3, size=40, clamp=clamp)
        assert found.mean == pytest.approx(expected, rel=1e-9)
        assert found.deviation == pytest.approx(0, abs=1e-9 * abs(expected))
    assert m.kernel_distance(first, second, subsets=1, clamp=True).size == 40


# Nearest neighbours


def test_manifolds_are_those_of_scipys_tree(small_blocks):
    first, second = two_sets(6, width=3)
    made, real = scipy.spatial.cKDTree(first), scipy.spatial.cKDTree(second)
    made_radii, real_radii = made.query(first, 4)[0][:, -1], real.query(second, 4)[0][:, -1]
    between = scipy.spatial.distance.cdist(second, first)
    inside = between < real_radii[:, None]
    found = m.compare_manifolds(first, second, nearest=3)
    assert found.precision == pytest.approx(inside.any(0).mean())
    assert found.density == pytest.approx(inside.sum(0).mean() / 3)
    assert found.coverage == pytest.approx((between.min(1) < real_radii).mean())
    assert found.recall == pytest.approx((between < made_radii).any(1).mean())


@pytest.mark.parametrize("count", [5, 40])
def test_vendi_score_is_the_entropy_of_the_cosines(count):
    features = np.random.default_rng(7).normal(size=(count, 9)) + 1
    kernel = sklearn.metrics.pairwise.cosine_similarity(features) / count
    values = np.maximum(scipy.linalg.eigvalsh(kernel), 0)
    assert m.vendi_score(features) == pytest.approx(np.exp(scipy.stats.entropy(values)))


def test_vendi_score_counts():
    assert m.vendi_score(np.ones((6, 4))) == pytest.approx(1)
    assert m.vendi_score(np.repeat(np.eye(4), 3, axis=0)) == pytest.approx(4)


def test_contrast_is_the_deviation_of_luma():
    from PIL import Image

    image = np.random.default_rng(8).integers(0, 256, (1, 9, 7, 3), dtype=np.uint8)
    luma = np.asarray(Image.fromarray(image[0]).convert("L"), np.float64) / 255
    np.testing.assert_allclose(m.contrast(image / np.float32(255)), luma.std(), atol=2e-3)


# Bad input

ONE = np.ones((1, 4))
MANY = np.random.default_rng(9).normal(size=(20, 4))
NAN = np.where(np.arange(20)[:, None] == 3, np.nan, MANY)


@pytest.mark.parametrize(
    ("work", "says"),
    [
        (lambda: m.RunningMoments(4).fit(), "at least 2 images"),
        (lambda: m.RunningMoments(4).update(NAN), "rows 3"),
        (lambda: m.frechet_distance(m.fit_gaussian(MANY), m.fit_gaussian(MANY[:, :3])), "another network"),
        (lambda: m.frechet_distance(*[m.fit_gaussian(MANY)] * 2, trace="root"), "trace='root' is unknown"),
        (lambda: m.gaussian_of(MANY[0], MANY), "mean of 4"),
        (lambda: m.gaussian_of(NAN[3], np.eye(4)), "not finite"),
        (lambda: m.kernel_distance(MANY, MANY), "subsets of 1000"),
        (lambda: m.kernel_distance(ONE, MANY, clamp=True), "at least 2"),
        (lambda: m.kernel_distance(NAN, MANY, size=10), "the generated images: the features of 1"),
        (lambda: m.cmmd(MANY, NAN), "the reference images: the features of 1"),
        (lambda: m.cmmd(MANY, MANY[:, :2]), "reference of 2"),
        (lambda: m.compare_manifolds(MANY[:5], MANY), "at least 6"),
        (lambda: m.compare_manifolds(MANY, NAN), "not finite"),
        (lambda: m.frechet_infinity(MANY, m.fit_gaussian(MANY), seed=0), "more than 5000"),
        (lambda: m.vendi_score(MANY[:0]), "at least 1"),
    ],
)
def test_bad_input_is_one_line(work, says):
    with pytest.raises(UserError) as raised:
        work()
    assert says in str(raised.value) and "\n" not in str(raised.value)
