"""Variance components against analysis-of-variance tables, and power against the paired t test itself."""

import numpy as np
import pytest
import scipy.stats
from difflax.evaluation.contrasts import power


def two_way(values):
    """Mean squares of arm × prompt and of the residual, by hand: ``values [arm, prompt, seed]``."""
    arms, prompts, seeds = values.shape
    cells, grand = values.mean(2), values.mean()
    crossed = cells - cells.mean(0, keepdims=True) - cells.mean(1, keepdims=True) + grand
    interaction = seeds * np.sum(crossed**2) / ((arms - 1) * (prompts - 1))
    residual = np.sum((values - cells[..., None]) ** 2) / (arms * prompts * (seeds - 1))
    return interaction, residual


def test_components_are_those_of_the_two_way_table():
    """Expected mean squares: residual σ²; interaction σ² + S σ²_ap. A difference has twice of both."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 15, 1)) + rng.normal(size=(1, 15, 1)) * 3 + rng.normal(size=(2, 15, 4))
    interaction, residual = two_way(values)
    # Independent noise in both arms: the residual of the differences is not that of the table cell by cell,
    # so the seeds' part is compared on the differences themselves.
    differences = values[1] - values[0]
    parts = power.components(differences.ravel(), np.repeat(np.arange(15), 4))
    within = differences.var(axis=1, ddof=1).mean()
    assert parts.within == pytest.approx(within)
    assert parts.between == pytest.approx((2 * interaction - within) / 4)
    assert within == pytest.approx(2 * residual, rel=0.5)
    assert (parts.prompts, parts.seeds) == (15, 4)


def test_components_are_statsmodels_reml_where_balanced():
    """For balanced data with positive components the ANOVA estimator is REML (Searle et al. 1992)."""
    statsmodels = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    rng = np.random.default_rng(1)
    differences = np.repeat(rng.normal(size=40), 3) + rng.normal(size=120)
    clusters = np.repeat(np.arange(40), 3)
    fitted = statsmodels.MixedLM(differences, np.ones((120, 1)), groups=clusters).fit(reml=True)
    parts = power.components(differences, clusters)
    assert parts.between == pytest.approx(float(fitted.cov_re[0, 0]), rel=1e-3)
    assert parts.within == pytest.approx(float(fitted.scale), rel=1e-3)


def test_components_of_unequal_prompts_are_unbiased():
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(40), rng.integers(1, 6, size=40))
    found = []
    for _ in range(300):
        values = 1.5 * rng.normal(size=40)[clusters] + rng.normal(size=len(clusters))
        parts = power.components(values, clusters)
        found.append((parts.between, parts.within))
    np.testing.assert_allclose(np.mean(found, axis=0), [2.25, 1.0], rtol=0.06)


def test_the_standard_error_is_that_of_prompt_means():
    rng = np.random.default_rng(3)
    for scale in (0.0, 1.0):  # also where the component of prompts would be negative
        differences = np.repeat(scale * rng.normal(size=12), 4) + rng.normal(size=48)
        parts = power.components(differences, np.repeat(np.arange(12), 4))
        assert parts.standard_error() == pytest.approx(
            scipy.stats.sem(differences.reshape(12, 4).mean(1)), rel=1e-9
        )


def test_a_negative_component_is_nothing():
    differences = np.tile([-1.0, 1.0], 10)
    parts = power.components(differences, np.repeat(np.arange(10), 2))
    assert parts.between == 0 and parts.within == 0
    assert power.components(np.ones(3), np.zeros(3, int)) is None


@pytest.mark.parametrize(("difference", "prompts"), [(0.3, 20), (0.5, 40), (0.1, 12), (0.0, 8)])
def test_power_is_that_of_the_paired_t_test(difference, prompts):
    """The closed form with scipy's noncentral t, which another routine computes."""
    error = 1 / np.sqrt(prompts)
    reach = scipy.stats.t.ppf(0.975, prompts - 1)
    law = scipy.stats.nct(prompts - 1, difference / error)
    expected = law.sf(reach) + law.cdf(-reach)
    assert power.power(difference, error, prompts) == pytest.approx(expected, abs=1e-6)


def test_the_detectable_difference_is_found_four_times_in_five():
    rng = np.random.default_rng(4)
    parts = power.Components(between=0.6, within=1.2, prompts=16, seeds=3)
    size = power.detectable(parts)
    data = (
        size + np.sqrt(0.6) * rng.normal(size=(8000, 16, 1)) + np.sqrt(1.2) * rng.normal(size=(8000, 16, 3))
    )
    found = scipy.stats.ttest_1samp(data.mean(2), 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.015)


def test_what_is_needed_is_the_smallest_that_suffices():
    parts = power.Components(between=0.5, within=1.0, prompts=20, seeds=2)
    wanted = power.needed(parts, 0.35)
    assert power.detectable(parts, prompts=wanted.prompts) <= 0.35
    assert power.detectable(parts, prompts=wanted.prompts - 1) > 0.35
    assert power.detectable(parts, prompts=wanted.prompts + 1) < 0.35
    assert power.needed(parts, 0.45).seeds is None  # prompts differ too much for 20 of them
    wide = power.Components(between=0.1, within=1.0, prompts=20, seeds=2)
    seeds = power.needed(wide, 0.4).seeds
    assert power.detectable(wide, seeds=seeds) <= 0.4 < power.detectable(wide, seeds=seeds - 1)


def test_prompts_needed_are_those_of_statsmodels():
    solver = pytest.importorskip("statsmodels.stats.power").TTestPower()
    expected = solver.solve_power(effect_size=0.25, alpha=0.05, power=0.8)
    parts = power.Components(between=1.0, within=0.0, prompts=30, seeds=1)
    assert power.needed(parts, 0.25).prompts == int(np.ceil(expected))


def test_equal_arms_need_nothing_and_are_never_decided():
    parts = power.Components(between=0.0, within=0.0, prompts=9, seeds=2)
    assert power.detectable(parts) == 0
    noisy = power.Components(between=1.0, within=0.0, prompts=9, seeds=1)
    assert power.needed(noisy, 0.0) == power.Needed(prompts=None, seeds=None)
    assert power.detectable(power.Components(between=1.0, within=0.0, prompts=2, seeds=1)) > 10
