"""Shares of resamples against closed forms of normal means."""

import numpy as np
import pytest
from difflax.evaluation.contrasts import ranking
from scipy.stats import norm

CLUSTERS = np.repeat(np.arange(60), 2)


def test_two_arms_share_the_lead_as_their_difference_says():
    """The bootstrap mean of the difference is normal: P(best) = Φ(d / se)."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=60)
    gain = 0.1 + rng.normal(size=60) * 0.5
    values = np.repeat(np.stack([first, first + gain]), 2, axis=1)
    expected = norm.cdf(gain.mean() / (gain.std() / np.sqrt(60)))
    np.testing.assert_allclose(ranking.best_shares(values, CLUSTERS, 1), [1 - expected, expected], atol=0.02)
    np.testing.assert_allclose(ranking.best_shares(values, CLUSTERS, -1), [expected, 1 - expected], atol=0.02)


def test_arms_that_tie_share_the_lead():
    values = np.repeat(np.random.default_rng(1).normal(size=(1, 120)), 4, axis=0)
    np.testing.assert_allclose(ranking.best_shares(values, CLUSTERS, 1), np.full(4, 0.25))


def test_an_arm_without_values_leads_never():
    values = np.random.default_rng(2).normal(size=(2, 120))
    values[1] = np.nan
    np.testing.assert_allclose(ranking.best_shares(values, CLUSTERS, 1), [1, 0])


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([[1, 1], [2, 2]], [False, True]),
        ([[1, 2], [2, 1], [1, 1]], [True, True, False]),
        ([[1, 1], [1, 1]], [True, True]),
        ([[1, 1], [1, 2]], [False, True]),
        ([[np.nan, 9], [1, 1]], [False, True]),
    ],
)
def test_the_front_by_hand(points, front):
    assert ranking.pareto_front(np.array(points, float)).tolist() == front


def test_the_front_against_all_comparisons_by_loop():
    points = np.random.default_rng(3).integers(0, 4, size=(30, 3)).astype(float)
    expected = [
        not any((other >= point).all() and (other > point).any() for other in points) for point in points
    ]
    assert ranking.pareto_front(points).tolist() == expected


def test_two_objectives_are_lost_together_as_often_as_their_product():
    """Arm 0 leaves the front where arm 1 leads in both, independent, measures."""
    rng = np.random.default_rng(4)
    gains = 0.05 + 0.4 * rng.normal(size=(2, 60))
    # Measures that are independent of each other over the drawn prompts.
    gains[1] -= np.cov(gains[0], gains[1])[0, 1] / gains[0].var(ddof=1) * (gains[0] - gains[0].mean())
    leads = norm.cdf(gains.mean(1) / (gains.std(1) / np.sqrt(60)))
    objectives = [(np.stack([np.zeros(60), gain]), np.arange(60)) for gain in gains]
    front, shares = ranking.front_shares(objectives)
    np.testing.assert_allclose(shares, [1 - leads.prod(), 1 - (1 - leads).prod()], atol=0.02)
    assert front.tolist() == ranking.pareto_front(gains.mean(1)[None] * [[0], [1]]).tolist()


def test_one_value_an_image_and_one_a_prompt_go_together():
    """Alignment is read off images, coverage off all images of a prompt: the same prompts are drawn."""
    rng = np.random.default_rng(5)
    by_prompt = rng.normal(size=(2, 60))
    images = np.repeat(by_prompt, 2, axis=1)
    means = [
        ranking.resampled_means(each, np.arange(60))
        for each in ((by_prompt, np.arange(60)), (images, CLUSTERS))
    ]
    np.testing.assert_allclose(*means)
