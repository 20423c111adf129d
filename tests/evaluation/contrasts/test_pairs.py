"""Bands of differences and the naming of winners, in simulated sweeps whose truth is known."""

import numpy as np
import pytest
import scipy.stats
from difflax.evaluation.contrasts import pairs

CLUSTERS = np.repeat(np.arange(24), 3)


def sweep(rng, means, spread=1.0, interaction=0.4, noise=0.6):
    """Values ``[a, n]`` of 24 prompts × 3 seeds: prompts differ, arms differ by prompt, seeds by chance."""
    prompt = rng.normal(size=24) * spread
    by_arm = rng.normal(size=(len(means), 24)) * interaction
    cells = np.array(means)[:, None] + prompt + by_arm
    return np.repeat(cells, 3, axis=1) + noise * rng.normal(size=(len(means), 72))


def test_the_band_of_a_difference_is_the_paired_t_interval_of_prompts():
    values = sweep(np.random.default_rng(0), [0.0, 0.5])
    found = pairs.differences_to(values, CLUSTERS, 0)[0]
    by_prompt = (values[1] - values[0]).reshape(24, 3).mean(1)
    expected = scipy.stats.ttest_1samp(by_prompt, 0).confidence_interval(0.95)
    assert (found.first, found.second, found.moved) == (0, 1, 24)
    np.testing.assert_allclose(found.estimate.value, by_prompt.mean())
    np.testing.assert_allclose([found.estimate.low, found.estimate.high], expected, atol=0.02)


def test_bands_hold_the_true_difference_as_often_as_they_say():
    rng, held = np.random.default_rng(1), 0
    for _ in range(200):
        found = pairs.differences_to(sweep(rng, [0.0, 0.3]), CLUSTERS, 0)[0].estimate
        held += found.low <= 0.3 <= found.high
    assert 0.91 <= held / 200 <= 0.985


def test_every_pair_is_compared_once():
    values = sweep(np.random.default_rng(2), [0.0, 1.0, 3.0])
    found = list(pairs.all_differences(values, CLUSTERS))
    assert [(pair.first, pair.second) for pair in found] == [(0, 1), (0, 2), (1, 2)]
    np.testing.assert_allclose(found[2].estimate.value, values[2].mean() - values[1].mean())


def test_no_winner_is_named_among_equals():
    """Of ten equal arms one leads by luck. Bands of their own would name it far too often."""
    rng, named, naive = np.random.default_rng(3), 0, 0
    for _ in range(40):
        values = sweep(rng, np.zeros(10))
        lead, sure = pairs.winner(values, CLUSTERS, 1)
        named += sure
        naive += any(pair.decided for pair in pairs.differences_to(values, CLUSTERS, lead))
    assert named / 40 <= 0.05
    assert naive / 40 > 0.15


def test_bands_of_all_pairs_hold_together():
    """The critical value is Tukey's where values are independent and normal."""
    rng = np.random.default_rng(4)
    values = rng.normal(size=(5, 400))
    expected = scipy.stats.studentized_range.ppf(0.95, 5, 399 * 4) / np.sqrt(2)
    assert pairs.critical_value(values, np.arange(400)) == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize(("sign", "expected"), [(1, 2), (-1, 0)])
def test_a_clear_winner_is_named(sign, expected):
    values = sweep(np.random.default_rng(5), [0.0, 1.0, 2.5])
    assert pairs.winner(values, CLUSTERS, sign) == (expected, True)


def test_copies_win_nothing():
    values = np.repeat(sweep(np.random.default_rng(6), [1.0]), 2, axis=0)
    assert pairs.winner(values, CLUSTERS, 1) == (0, False)


def test_few_prompts_that_move_decide_nothing():
    """Four of 64 prompts turn right: the bootstrap is sure, the sign test (p = 1/8) is not."""
    first = np.zeros(64)
    second = np.where(np.arange(64) < 4, 1.0, 0.0)
    found = pairs.differences_to(np.stack([first, second]), np.arange(64), 0)[0]
    assert found.moved == 4 and not found.decided
    assert scipy.stats.binomtest(4, 4).pvalue > 0.05 > scipy.stats.binomtest(6, 6).pvalue


def test_sparse_changes_are_declared_no_more_often_than_the_level():
    rng, wrong = np.random.default_rng(7), 0
    for _ in range(200):
        values = (rng.random((2, 64)) < 0.06).astype(float)
        wrong += pairs.differences_to(values, np.arange(64), 0)[0].decided
    assert wrong / 200 <= 0.06


def test_what_was_not_measured_is_no_difference():
    values = sweep(np.random.default_rng(8), [0.0, 2.0, 1.0])
    values[1, :36] = np.nan
    values[2] = np.nan
    first, second = pairs.differences_to(values, CLUSTERS, 0)
    assert first.estimate.count == 36 and first.estimate.clusters == 12
    np.testing.assert_allclose(first.estimate.value, (values[1] - values[0])[36:].mean())
    assert second.estimate.count == 0 and not second.decided
    assert pairs.winner(values, CLUSTERS, 1) == (1, True)
    assert pairs.winner(np.full((2, 72), np.nan), CLUSTERS, 1) is None
