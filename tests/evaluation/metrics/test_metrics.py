"""Metrics against closed forms and independent implementations."""

import colorsys

import numpy as np
import pytest
import scipy.linalg
from difflax.evaluation import metrics as m
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist


def gaussian(rng, dimension, rank=None):
    root = rng.normal(size=(rank or dimension, dimension))
    return m.GaussianFit(mean=rng.normal(size=dimension), factor=root, count=1000)


def covariance(fit):
    return fit.factor.T @ fit.factor


def by_sqrtm(first, second):
    """Heusel et al. 2017, eq. 6, with scipy's matrix square root."""
    root = scipy.linalg.sqrtm(covariance(first) @ covariance(second))
    shift = np.sum((first.mean - second.mean) ** 2)
    return shift + np.trace(covariance(first)) + np.trace(covariance(second)) - 2 * np.trace(root).real


@pytest.mark.parametrize("dimension", [1, 2, 7, 40])
def test_frechet_distance_is_scipys(dimension):
    rng = np.random.default_rng(dimension)
    first, second = gaussian(rng, dimension), gaussian(rng, dimension)
    assert m.frechet_distance(first, second) == pytest.approx(by_sqrtm(first, second), rel=1e-8)


def test_frechet_distance_of_fewer_images_than_features():
    """The eigenvalues of C1^½ C2 C1^½ need no square root of the singular C2."""
    rng = np.random.default_rng(0)
    first, second = gaussian(rng, 12), m.fit_gaussian(rng.normal(size=(5, 12)))
    values, vectors = np.linalg.eigh(covariance(first))
    root = vectors * np.sqrt(values) @ vectors.T
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariance(second) @ root), 0)).sum()
    traces = np.trace(covariance(first)) + np.trace(covariance(second))
    expected = np.sum((first.mean - second.mean) ** 2) + traces - 2 * overlap
    assert m.frechet_distance(first, second) == pytest.approx(expected, rel=1e-7)


@given(st.integers(1, 9), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_frechet_distance_of_diagonal_gaussians(dimension, seed):
    """Σ (m1 - m2)² + (σ1 - σ2)²."""
    rng = np.random.default_rng(seed)
    (m1, m2), (s1, s2) = rng.normal(size=(2, dimension)), rng.uniform(0, 3, size=(2, dimension))
    first = m.GaussianFit(mean=m1, factor=np.diag(s1), count=10)
    second = m.GaussianFit(mean=m2, factor=np.diag(s2), count=10)
    expected = np.sum((m1 - m2) ** 2) + np.sum((s1 - s2) ** 2)
    assert m.frechet_distance(first, second) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_frechet_distance_is_a_distance_that_ignores_rotation():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(50, 6)), rng.normal(size=(70, 6)) * 2 + 1
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    distance = m.frechet_distance(m.fit_gaussian(a), m.fit_gaussian(b))
    assert m.frechet_distance(m.fit_gaussian(a), m.fit_gaussian(a)) == pytest.approx(0, abs=1e-10)
    assert m.frechet_distance(m.fit_gaussian(b), m.fit_gaussian(a)) == pytest.approx(distance)
    assert m.frechet_distance(m.fit_gaussian(a @ turn), m.fit_gaussian(b @ turn)) == pytest.approx(distance)
    assert m.frechet_distance(m.fit_gaussian(3 * a), m.fit_gaussian(3 * b)) == pytest.approx(9 * distance)


def test_frechet_distance_is_precise_for_float32_features_far_from_zero():
    rng = np.random.default_rng(2)
    features = (rng.normal(size=(400, 5)) + 1000).astype(np.float32)
    moved = features + np.float32(1)
    assert m.frechet_distance(m.fit_gaussian(features), m.fit_gaussian(moved)) == pytest.approx(5, rel=1e-6)


@pytest.mark.parametrize("count", [3, 6, 50])
def test_fitted_covariance_is_numpys(count):
    features = np.random.default_rng(3).normal(size=(count, 6))
    np.testing.assert_allclose(covariance(m.fit_gaussian(features)), np.cov(features.T), atol=1e-12)


def test_bad_gaussians_are_refused():
    with pytest.raises(ValueError, match="at least 2"):
        m.fit_gaussian(np.ones((1, 4)))


def test_clip_score_of_known_angles():
    image = np.array([[2.0, 0], [0, 3], [1, 0], [-1, 0]])
    text = np.array([[5.0, 0], [1, 0], [1, np.sqrt(3)], [1, 0]])
    np.testing.assert_allclose(m.clip_score(image, text), [100, 0, 50, 0], atol=1e-12)


def test_zero_features_are_refused():
    with pytest.raises(ValueError, match=r"\[1\]"):
        m.normalize(np.array([[1.0, 0], [0, 0]]))


def test_feature_diversity_is_the_mean_pairwise_cosine_distance():
    rng = np.random.default_rng(4)
    features, prompts = rng.normal(size=(11, 8)), np.array([0] * 4 + [2] * 2 + [5] * 5)
    expected = [pdist(features[prompts == p], "cosine").mean() for p in (0, 2, 5)]
    np.testing.assert_allclose(m.feature_diversity(features, prompts), expected)


def test_pixel_diversity_is_half_the_mean_squared_distance_of_pairs():
    images = np.random.default_rng(5).uniform(size=(4, 6, 5, 3)).astype(np.float32)
    pairs = pdist(images.reshape(4, -1).astype(np.float64), "sqeuclidean") / images[0].size
    assert m.pixel_diversity(images) == pytest.approx(np.sqrt(pairs.mean() / 2), rel=1e-6)


def test_diversity_of_one_seed_is_refused():
    with pytest.raises(ValueError, match="2 seeds"):
        m.pixel_diversity(np.zeros((1, 4, 4, 3)))
    with pytest.raises(ValueError, match="2 seeds"):
        m.feature_diversity(np.ones((2, 3)), np.array([0, 1]))


def test_hsv_saturation_is_that_of_colorsys():
    images = np.random.default_rng(6).uniform(size=(3, 4, 5, 3))
    images[0, :2] = 0
    expected = [
        np.mean([colorsys.rgb_to_hsv(*pixel)[1] for pixel in image.reshape(-1, 3)]) for image in images
    ]
    np.testing.assert_allclose(m.hsv_saturation(images), expected)


def test_clipped_fraction_counts_channel_values():
    image = np.full((1, 10, 10, 3), 0.5)
    image[0, 0, :, 0], image[0, 1, :5, 2] = 1.0, 0.005
    np.testing.assert_allclose(m.clipped_fraction(image), [15 / 300])
