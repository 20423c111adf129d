"""What few images do to a Fréchet distance, against Gaussians whose distance is known."""

import numpy as np
import pytest
from difflax.evaluation import metrics as m
from difflax.evaluation.ablation import frechet
from difflax.evaluation.measurement import Design, Measurement, PromptGroup
from difflax.evaluation.metrics.extrapolation import frechet_infinity

WIDTH = 6


def measurement(features):
    empty = np.zeros(0)
    return Measurement(
        columns={}, features=features, pixel_diversity=empty, samples=np.zeros((0, 1, 1, 3), np.uint8)
    )


def on_the_sphere(rng, prompts, seeds, spread):
    """Unit features: a place of each prompt around a common direction, and noise of each image."""
    places = np.repeat(rng.normal(size=(prompts, WIDTH)) * spread, seeds, axis=0)
    return np.eye(WIDTH)[0] * 3 + places + 0.2 * rng.normal(size=(prompts * seeds, WIDTH))


def design(prompts, seeds):
    group = PromptGroup(name="all", prompts=tuple(map(str, range(prompts))))
    return Design(groups=(group,), seeds=tuple(range(seeds)), grid_prompts=1)


def test_the_bias_is_what_few_prompts_add_on_average():
    """Many draws of the same few prompts and seeds against one of very many: the mean excess is the bias."""
    rng = np.random.default_rng(0)
    real = measurement(on_the_sphere(rng, 20_000, 1, 0.5))
    target = m.fit_gaussian(m.normalize(real.features))
    endless = m.normalize(on_the_sphere(rng, 20_000, 3, 0.7))
    exact = m.frechet_distance(m.fit_gaussian(endless), target)
    arms = [measurement(on_the_sphere(rng, 60, 3, 0.7)) for _ in range(25)]
    found = frechet.frechet_estimates(design(60, 3), 0, arms, real)
    excess = np.mean([e.value for e in found["frechet_distance"]]) - exact
    expected = np.mean([e.value for e in found["frechet_bias"]])
    assert excess > 0 and expected == pytest.approx(excess, rel=0.25)
    # 3 seeds of a prompt are not 3 independent images: as such they would have a third of the bias.
    assert found["frechet_distance"][0].count == 180 and found["frechet_distance"][0].clusters == 60


def test_the_extrapolation_is_beside_the_distance_where_images_are_enough():
    rng = np.random.default_rng(1)
    real = measurement(on_the_sphere(rng, 20_000, 1, 0.5))
    target = m.fit_gaussian(m.normalize(real.features))
    exact = m.frechet_distance(m.fit_gaussian(m.normalize(on_the_sphere(rng, 20_000, 2, 0.7))), target)
    arms = [measurement(on_the_sphere(rng, 40, 2, 0.7)) for _ in range(12)]
    found = frechet.frechet_estimates(design(40, 2), 0, arms, real)
    far, limit = ([e.value for e in found[name]] for name in ("frechet_distance", "frechet_infinity"))
    assert abs(np.mean(limit) - exact) < 0.4 * abs(np.mean(far) - exact)
    covered = [e.low <= exact <= e.high for e in found["frechet_infinity"]]
    assert np.mean(covered) > 0.7
    few = [measurement(arm.features[:28]) for arm in arms]
    assert 2 * m.smallest_part(WIDTH) > 28
    assert "frechet_infinity" not in frechet.frechet_estimates(design(14, 2), 0, few, real)


def test_parts_are_of_whole_prompts():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(400, WIDTH))
    target = m.fit_gaussian(rng.normal(size=(400, WIDTH)))
    clusters = np.repeat(np.arange(100), 4)
    found = frechet_infinity(features, target, seed=0, smallest=30, clusters=clusters)
    assert set(np.array(found.sizes) % 4) == {0} and found.sizes[0] == 32 and found.sizes[-1] == 400
    fit = np.polyfit(1 / np.array(found.sizes), found.distances, 1)
    np.testing.assert_allclose(fit, [found.slope, found.value])


def test_a_result_says_how_many_images_and_how_large_the_bias_is(result):
    note = result.method[frechet.BIAS_NOTE]
    biases = [e.value for e in result.of("seen", "frechet_bias").estimates]
    count = result.groups[0].count
    assert f"seen: {count} images an arm" in note and f"{max(biases):.2g}" in note
    assert "<unseen>" not in note  # has no real images
