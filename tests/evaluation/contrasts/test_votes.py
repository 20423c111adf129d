"""Strengths of Bradley and Terry against logistic regression, and their bands in simulated votes."""

import numpy as np
import pytest
from difflax.evaluation.contrasts import votes
from sklearn.linear_model import LogisticRegression


def simulated(rng, strengths, number, prompts=20):
    arms = len(strengths)
    left = rng.integers(0, arms, number)
    right = (left + rng.integers(1, arms, number)) % arms
    chance = 1 / (1 + np.exp(strengths[right] - strengths[left]))
    won = np.where(rng.random(number) < chance, left, right)
    lost = np.where(won == left, right, left)
    return won, lost, np.zeros(number, int), rng.integers(0, prompts, number)


def logistic(won, lost, arms):
    """Log strengths by maximum likelihood, of mean 0."""
    rows = np.arange(len(won))
    design = np.zeros((len(won), arms))
    design[rows, won], design[rows, lost] = 1, -1
    both = np.concatenate([design, -design])
    label = np.repeat([1, 0], len(won))
    fit = LogisticRegression(C=1e9, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(both, label)
    return fit.coef_[0] - fit.coef_[0].mean()


def test_strengths_are_those_of_logistic_regression():
    won, lost, drawn, _ = simulated(np.random.default_rng(0), np.array([0.0, 0.5, 1.2, -0.7]), 400)
    found = votes.bradley_terry(votes.win_matrix(won, lost, drawn, 4), prior=0.0)
    np.testing.assert_allclose(found, logistic(won, lost, 4), atol=2e-3)


def test_the_imaginary_arm_is_one_more_in_the_regression():
    """Met by each arm twice, won once and lost once (prior 1)."""
    won, lost, drawn = np.array([0, 0, 0, 1]), np.array([1, 1, 2, 2]), np.zeros(4, int)
    found = votes.bradley_terry(votes.win_matrix(won, lost, drawn, 3), prior=1.0)
    arms = np.arange(3)
    extra = np.full(3, 3)
    expected = logistic(np.concatenate([won, arms, extra]), np.concatenate([lost, extra, arms]), 4)[:3]
    np.testing.assert_allclose(found, expected - expected.mean(), atol=2e-3)


def test_an_arm_that_won_everything_is_finite_and_first():
    wins = votes.win_matrix(np.zeros(5, int), np.array([1, 2, 1, 2, 1]), np.zeros(5, int), 3)
    found = votes.bradley_terry(wins)
    assert np.all(np.isfinite(found)) and found.argmax() == 0


def test_a_draw_is_half_a_win_for_both():
    drawn = votes.win_matrix(np.array([0, 1]), np.array([1, 0]), np.array([1, 1]), 2)
    np.testing.assert_allclose(drawn, [[0, 1], [1, 0]])
    np.testing.assert_allclose(votes.bradley_terry(drawn), 0, atol=1e-9)


def test_bands_hold_the_true_strengths():
    rng, truth, held = np.random.default_rng(1), np.array([0.4, -0.4]), 0
    for _ in range(60):
        found = votes.strengths(*simulated(rng, truth, 120), 2, resamples=300)
        held += found[0].low <= 0.4 <= found[0].high
    assert held / 60 >= 0.85
    assert found[0].count == 120 and found[0].clusters == 20


def test_without_a_vote_there_is_no_band():
    nothing = np.zeros(0, int)
    found = votes.strengths(nothing, nothing, nothing, nothing, 2)
    assert [each.value for each in found] == pytest.approx([0, 0]) and np.isnan(found[0].low)
