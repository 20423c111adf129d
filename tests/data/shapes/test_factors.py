"""The prior of scenes."""

import numpy as np
import pytest
from difflax.data.shapes import factors
from difflax.data.shapes.splits import COMBINATIONS
from scipy.stats import chisquare, kstest

SCENES = 20_000


@pytest.fixture(scope="module")
def scenes():
    return factors.draw_scenes(np.random.default_rng(0), SCENES, COMBINATIONS["train"])


def agrees(values, probabilities):
    """Whether frequencies are those that were stated, at a level that chance misses once in 100,000 times."""
    counts = np.bincount(values, minlength=len(probabilities))
    return chisquare(counts, np.asarray(probabilities) * len(values)).pvalue > 1e-5


def test_discrete_factors_have_the_stated_prior(scenes):
    present = scenes.present
    uniform = lambda table: np.full(len(table), 1 / len(table))  # noqa: E731
    assert agrees(scenes.count - 1, factors.COUNT_PRIOR)
    assert agrees(scenes.background, uniform(factors.BACKGROUNDS))
    assert agrees(scenes.gradient, uniform(factors.GRADIENTS))
    assert agrees(scenes.light, uniform(factors.LIGHTS))
    # Also among crowded scenes: layouts that do not fit are drawn again without their discrete factors.
    crowded = scenes[scenes.count == 3]
    assert agrees(crowded.size.ravel(), uniform(factors.SIZES))
    sizes = (len(factors.SHAPES), len(factors.COLOURS), len(factors.TEXTURES))
    joint = np.zeros(sizes)
    joint[tuple(COMBINATIONS["train"].T)] = factors.combination_prior(COMBINATIONS["train"])
    drawn = np.ravel_multi_index(
        (scenes.shape[present], scenes.colour[present], scenes.texture[present]), sizes
    )
    possible = np.flatnonzero(joint)
    assert set(drawn) <= set(possible)
    assert agrees(np.searchsorted(possible, drawn), joint.ravel()[possible])


def test_continuous_factors_have_the_stated_distribution(scenes):
    alone = scenes[scenes.count == 1]
    assert kstest(alone.direction / (2 * np.pi), "uniform").pvalue > 1e-5
    low, high = factors.RADII[alone.size[:, 0]].T
    assert kstest((alone.radius[:, 0] - low) / (high - low), "uniform").pvalue > 1e-5
    for axis in (alone.x[:, 0], alone.y[:, 0]):
        nearest = abs(axis[:, None] - factors.ANCHORS).argmin(-1)
        assert agrees(nearest, np.full(3, 1 / 3))
        off = (axis - factors.ANCHORS[nearest]) / factors.JITTER
        assert kstest(off, "uniform", (-1, 2)).pvalue > 1e-5
    turning = factors.ROTATION_PERIODS[alone.shape[:, 0]] > 0
    turned = alone.rotation[turning, 0] / factors.MOST_TURNED
    assert kstest(turned, "uniform", (-1, 2)).pvalue > 1e-5
    assert not alone.rotation[~turning, 0].any()


def test_every_object_can_be_read(scenes):
    present = scenes.present
    edge = scenes.radius - 1e-6
    for axis in (scenes.x, scenes.y):
        assert (((axis >= edge) & (axis <= 1 - edge)) | ~present).all()
    for i, j in ((0, 1), (0, 2), (1, 2)):
        both = present[:, i] & present[:, j]
        distance = np.hypot(scenes.x[:, i] - scenes.x[:, j], scenes.y[:, i] - scenes.y[:, j])[both]
        radii = np.sort([scenes.radius[both, i], scenes.radius[both, j]], 0)
        assert (distance >= radii[1] + factors.OVERLAP * radii[0] - 1e-6).all()
        same = (scenes.colour[:, i] == scenes.colour[:, j])[both]
        assert (distance >= radii.sum(0) + factors.CLEARANCE - 1e-6)[same].all()
        # A disc hides at most a quarter of another: the area of the lens between two circles.
        r, big, d = *radii, distance
        near = d < r + big
        r, big, d = r[near], big[near], d[near]
        cut = (d**2 + r**2 - big**2) / (2 * d), (d**2 + big**2 - r**2) / (2 * d)
        lens = sum(
            a**2 * np.arccos(c / a) - c * np.sqrt(a**2 - c**2) for a, c in zip((r, big), cut, strict=True)
        )
        assert lens.max() < 0.26 * np.pi * (r**2)[lens.argmax()]


def test_two_objects_alone_never_stand_along_a_diagonal(scenes):
    pairs = scenes[scenes.count == 2]
    across, down = (abs(axis[:, 0] - axis[:, 1]) for axis in (pairs.x, pairs.y))
    assert (abs(across - down) >= factors.CLEAR - 1e-6).all()


def test_places_divide_the_picture():
    x, y = np.meshgrid([0.1, 0.5, 0.9], [0.1, 0.5, 0.9])
    named = np.array(factors.PLACES)[factors.place(x, y)]
    assert named.tolist() == np.array(factors.PLACES).reshape(3, 3).tolist()
