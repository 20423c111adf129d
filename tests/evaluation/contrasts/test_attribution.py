"""Shares of a gap in games whose Shapley value is known."""

import itertools
import math

import numpy as np
import pytest
from difflax.evaluation.contrasts import attribution

CLUSTERS = np.repeat(np.arange(10), 2)


def game(value, causes):
    """``value(mixture)`` measured on 20 images that differ in level, not in effect."""
    level = np.random.default_rng(0).normal(size=20)
    return {mixture: level + value(mixture) for mixture in attribution.mixtures(causes)}


def by_all_orders(value, causes):
    """The definition: what a cause adds when it comes, averaged over the orders of coming."""
    found = np.zeros(causes)
    for order in itertools.permutations(range(causes)):
        for place, cause in enumerate(order):
            before = frozenset(order[:place])
            found[cause] += value(before | {cause}) - value(before)
    return found / math.factorial(causes)


@pytest.mark.parametrize("causes", [0, 1, 2, 3, 4])
def test_shares_are_the_mean_over_all_orders(causes):
    table = np.random.default_rng(causes).normal(size=2**causes)

    def value(mixture):
        return table[sum(2**cause for cause in mixture)]

    found = attribution.attribute(game(value, causes), CLUSTERS, causes)
    np.testing.assert_allclose([share.value for share in found.shares], by_all_orders(value, causes))
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
