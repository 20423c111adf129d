"""Shares of a gap in games whose Shapley value is known."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from difflax.evaluation.contrasts import attribution

CLUSTERS = np.repeat(np.arange(10), 2)


def game(value, causes):
    """``value(mixture)`` measured on 20 images that differ in level, not in effect."""
    level = np.random.default_rng(0).normal(size=20)
    return {mixture: level + value(mixture) for mixture in attribution.mixtures(causes)}


def by_coalitions(value, causes):
    """The value by Shapley's own formula (1953), a sum over the sets of the other causes."""
    found = np.zeros(causes)
    for cause in range(causes):
        others = [other for other in range(causes) if other != cause]
        for size in range(causes):
            weight = math.factorial(size) * math.factorial(causes - size - 1) / math.factorial(causes)
            for chosen in map(frozenset, itertools.combinations(others, size)):
                found[cause] += weight * (value(chosen | {cause}) - value(chosen))
    return found


@pytest.mark.parametrize("causes", [0, 1, 2, 3, 4])
def test_shares_are_the_mean_over_all_orders(causes):
    table = np.random.default_rng(causes).normal(size=2**causes)

    def value(mixture):
        return table[sum(2**cause for cause in mixture)]

    found = attribution.attribute(game(value, causes), CLUSTERS, causes)
    np.testing.assert_allclose([share.value for share in found.shares], by_coalitions(value, causes))
    total = sum(share.value for share in found.shares)
    assert found.gap.value == pytest.approx(total) and found.together.value == 0
    assert found.gap.high - found.gap.low < 1e-9  # paired: the level of an image is in no band


def test_the_glove_game():
    """One left glove and two right ones make one pair: shares 2/3, 1/6, 1/6 (Shapley 1953)."""
    found = attribution.attribute(game(lambda s: float(0 in s and len(s) > 1), 3), CLUSTERS, 3)
    np.testing.assert_allclose([share.value for share in found.shares], [2 / 3, 1 / 6, 1 / 6])


def test_many_causes_are_swapped_first_and_last():
    effects = np.array([0.5, -0.2, 0.0, 1.0, 0.3, 0.1])

    def value(mixture):
        return sum(effects[cause] for cause in mixture) + 0.4 * ({0, 3, 4} <= mixture)

    measured = game(value, 6)
    assert len(measured) == 2 * 6 + 2
    found = attribution.attribute(measured, CLUSTERS, 6)
    shared = np.array([0.2, 0, 0, 0.2, 0.2, 0])
    np.testing.assert_allclose([share.value for share in found.shares], effects + shared, atol=1e-12)
    assert found.together.value == pytest.approx(0.4 - shared.sum())
    assert found.gap.value == pytest.approx(effects.sum() + 0.4)


def test_images_that_a_mixture_lacks_are_left_out():
    measured = game(lambda s: float(len(s)), 2)
    measured[frozenset({0})][:6] = np.nan
    found = attribution.attribute(measured, CLUSTERS, 2)
    assert found.gap.count == 14 and found.gap.clusters == 7


def test_a_mixture_that_cannot_be_leaves_out_its_orders():
    """Cause 1 only after cause 0, as when the first result has too few images: of the six orders of three
    causes, the three in which 0 comes before 1.
    """
    effects = {0: 0.5, 1: 0.2, 2: -0.1}

    def value(mixture):
        return sum(effects[cause] for cause in mixture) + 0.3 * ({0, 2} <= mixture)

    def possible(mixture):
        return 0 in mixture or 1 not in mixture

    asked = attribution.mixtures(3, possible)
    assert frozenset({1}) not in asked and frozenset({1, 2}) not in asked and len(asked) == 6
    measured = {mixture: np.full(20, value(mixture)) for mixture in asked}
    found = attribution.attribute(measured, CLUSTERS, 3)
    # 0 comes second, with 2, in one of the three orders 0 1 2, 0 2 1, 2 0 1.
    np.testing.assert_allclose([share.value for share in found.shares], [0.6, 0.2, 0.1])
    assert "3 orders that can be" in found.orders


@pytest.mark.parametrize("causes", [3, 6])
def test_whole_sets_have_the_jackknifes_bands(causes):
    """Of a mean the jackknife over single images is the classical standard error."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=12)
    effects = rng.normal(size=(causes, 12))

    def left_out(column):
        return np.array([column.mean(), *(np.delete(column, i).mean() for i in range(12))])

    values = {
        mixture: left_out(images + sum((effects[cause] for cause in mixture), np.zeros(12)))
        for mixture in attribution.mixtures(causes)
    }
    found = attribution.attribute_sets(values, causes, count=12, clusters=12)
    np.testing.assert_allclose([share.value for share in found.shares], effects.mean(1))
    half = scipy.stats.t.ppf(0.975, 11) * scipy.stats.sem(effects, axis=1)
    np.testing.assert_allclose([share.high - share.value for share in found.shares], half)
    assert found.gap.value == pytest.approx(effects.mean(1).sum())
    alone = {mixture: column[:1] for mixture, column in values.items()}
    assert np.isnan(attribution.attribute_sets(alone, causes, count=12, clusters=12).gap.low)
