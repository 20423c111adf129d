"""Bands against scipy, and their coverage in simulated experiments of known truth."""

import numpy as np
import pytest
import scipy.stats
from difflax.evaluation import statistics as s


@pytest.mark.parametrize(("successes", "count"), [(0, 12), (12, 12), (1, 30), (17, 48), (90, 91)])
def test_wilson_interval_is_scipys(successes, count):
    expected = scipy.stats.binomtest(successes, count).proportion_ci(method="wilson")
    np.testing.assert_allclose(s.wilson_interval(successes / count, count), expected, atol=1e-12)


def test_design_effect_of_copies_and_of_independent_seeds():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(2000), 4)
    independent = (rng.random((1, 8000)) < 0.3).astype(float)
    copies = np.repeat((rng.random((1, 2000)) < 0.3).astype(float), 4, axis=1)
    assert s.design_effect(independent, clusters) == pytest.approx(1, abs=0.06)
    assert s.design_effect(copies, clusters) == pytest.approx(4, abs=0.01)


def test_design_effect_follows_the_correlation_in_a_cluster():
    """Kish 1965: 1 + (seeds - 1) ρ; a beta-binomial with a + b = 3 has ρ = 1/4."""
    rng = np.random.default_rng(1)
    shares = np.repeat(rng.beta(1.8, 1.2, size=(5, 4000)), 3, axis=1)
    values = (rng.random(shares.shape) < shares).astype(float)
    assert s.design_effect(values, np.repeat(np.arange(4000), 3)) == pytest.approx(1.5, abs=0.04)


def test_a_share_that_never_varies_counts_prompts_only():
    values, clusters = np.ones(48), np.repeat(np.arange(16), 3)
    estimate = s.proportion(values, clusters)
    assert estimate.value == 1 == estimate.high
    # Fewer trials than images, and the t quantile widens it beyond 16 binomial trials.
    assert 0.7 < estimate.low < scipy.stats.binomtest(16, 16).proportion_ci(method="wilson").low


@pytest.mark.parametrize("truth", [0.5, 0.93])
def test_coverage_of_clustered_shares(truth):
    """24 prompts × 3 correlated seeds: the band holds the truth 95% of the time, the plain one does not."""
    rng = np.random.default_rng(2)
    clusters, held, naive = np.repeat(np.arange(24), 3), 0, 0
    for _ in range(1500):
        shares = np.repeat(rng.beta(truth, 1 - truth, size=24), 3)
        values = (rng.random(72) < shares).astype(float)
        estimate = s.proportion(values, clusters)
        held += estimate.low <= truth <= estimate.high
        low, high = s.wilson_interval(float(values.mean()), 72)
        naive += low <= truth <= high
    assert 0.935 <= held / 1500 <= 0.99
    assert naive / 1500 < 0.90


def test_bootstrap_of_a_mean_matches_the_t_interval_of_prompt_means():
    """Expanded percentile bands are t bands for symmetric data (Hesterberg 2015)."""
    prompt_means = scipy.stats.norm.ppf((np.arange(12) + 0.5) / 12)
    values = (prompt_means[:, None] + np.array([-0.4, 0.0, 0.4])).ravel()
    estimate = s.mean(values, np.repeat(np.arange(12), 3), resamples=40_000)
    half = scipy.stats.t.ppf(0.975, 11) * prompt_means.std(ddof=1) / np.sqrt(12)
    np.testing.assert_allclose([estimate.low, estimate.high], [-half, half], rtol=0.05)


def test_bootstrap_is_scipys_where_prompts_are_many():
    rng = np.random.default_rng(3)
    values = rng.gamma(2.0, size=800)
    estimate = s.mean(values, np.arange(800))
    expected = scipy.stats.bootstrap((values,), np.mean, method="percentile", rng=4).confidence_interval
    np.testing.assert_allclose([estimate.low, estimate.high], expected, rtol=0.01)


def test_coverage_of_means_over_few_prompts():
    rng = np.random.default_rng(5)
    clusters, held = np.repeat(np.arange(8), 3), 0
    for _ in range(600):
        values = np.repeat(rng.normal(size=8), 3) + 0.5 * rng.normal(size=24)
        estimate = s.mean(values, clusters, resamples=1000)
        held += estimate.low <= 0 <= estimate.high
    assert 0.92 <= held / 600 <= 0.985


def test_pairs_see_what_separate_means_cannot():
    """A gain of 0.1 under prompt-to-prompt spread of 1: paired bands exclude zero, separate bands overlap."""
    rng = np.random.default_rng(6)
    clusters = np.repeat(np.arange(20), 3)
    first = np.repeat(rng.normal(size=20), 3)
    second = first + 0.1 + 0.05 * rng.normal(size=60)
    gain = s.paired_difference(first, second, clusters)
    assert 0 < gain.low < 0.1 < gain.high
    assert s.mean(first, clusters).high > s.mean(second, clusters).low


def test_one_prompt_has_no_band():
    estimate = s.mean(np.array([1.0, 2.0]), np.array([0, 0]))
    assert np.isnan(estimate.low) and np.isnan(estimate.high) and estimate.value == 1.5


def test_jackknife_of_a_mean_is_the_t_interval():
    values = np.random.default_rng(7).normal(size=15)
    left_out = np.array([np.delete(values, i).mean() for i in range(15)])
    estimate = s.jackknife(float(values.mean()), left_out, count=15, clusters=15)
    expected = scipy.stats.t.interval(0.95, 14, loc=values.mean(), scale=scipy.stats.sem(values))
    np.testing.assert_allclose([estimate.low, estimate.high], expected)


def test_jackknife_needs_two_groups():
    with pytest.raises(ValueError, match="2 groups"):
        s.jackknife(1.0, np.array([1.0]), count=3, clusters=1)


def test_is_proportion_looks_past_what_was_not_asked():
    assert s.is_proportion(np.array([0.0, 1.0, np.nan]))
    assert not s.is_proportion(np.array([0.0, 0.5]))
