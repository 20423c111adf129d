"""Scales that change with the noise level: the formulas of their papers, and what they must be equal to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import Conditioning
from difflax.diffusion.guidance import (
    SCALE_SCHEDULES,
    AdaptiveProjectedGuidance,
    BandScale,
    Bounds,
    ClassifierFreeGuidance,
    ConstantScale,
    CosineScale,
    FrequencyDecoupledGuidance,
    GuidancePlan,
    Guided,
    LinearScale,
    PowerCosineScale,
    Rescale,
    ScaleShape,
    TableScale,
    TwoConditionGuidance,
)
from difflax.diffusion.predictions import Prediction
from difflax.diffusion.samplers import DDIM, Heun, sample
from difflax.diffusion.schedules import SCHEDULES, noise_level
from difflax.diffusion.time_grids import Even, sampling_levels

STEPS = 9
COSINE = SCHEDULES["cosine"]()
LEVELS = sampling_levels(COSINE, Even(), STEPS)
LOG_SNR = np.asarray(LEVELS.log_snr, float)[:-1]
X = jax.random.normal(jax.random.key(0), (2, 3))
BOTH = Guided(Conditioning(pooled=jnp.full((2, 3), 0.7)), Conditioning(pooled=-jnp.ones((2, 3))))
EXAMPLES = {
    "constant": ConstantScale(),
    "linear": LinearScale(),
    "cosine": CosineScale(falling=True, floor=0.5),
    "power_cosine": PowerCosineScale(power=2.0),
    "table": TableScale(log_snr=(-3.0, 1.0, 4.0), scales=(1.0, 6.0, 2.0)),
    "bands": BandScale(edges=(-2.0, 2.0), scales=(1.0, 5.0, 2.0)),
}


def scales(schedule, scale=4.0, levels=LEVELS):
    """The scale at every step of a run."""
    plan = GuidancePlan(ClassifierFreeGuidance(scale), schedule=schedule).resolve(COSINE, levels)
    return np.asarray(plan.scale_at(levels[:-1]))


def denoise(x, level, conditioning):
    """A denoiser that is no linear map of the picture."""
    x0 = jnp.tanh(x) * 0.5 + conditioning.pooled
    return Prediction(x0, (x - level.alpha * x0) / level.sigma)


def run(plan, sampler=DDIM(), levels=LEVELS):
    """The estimates of a run."""
    keys = jax.random.split(jax.random.key(0), 2)
    wrapped = plan.resolve(COSINE, levels).wrap(denoise)
    _, estimates = sample(wrapped, sampler, levels, X, keys, conditioning=BOTH, return_trajectory=True)
    return np.asarray(estimates)


def test_every_schedule_is_here():
    assert {name: type(example) for name, example in EXAMPLES.items()} == SCALE_SCHEDULES


@pytest.mark.parametrize("scale", [0.3, 1.1, 7.7])
def test_a_constant_schedule_is_the_plain_scale_bit_for_bit(scale):
    """Every evaluation, at the levels of the run and between them; a compiler that fuses them rounds on its
    own account.
    """
    plain, same = (
        GuidancePlan(ClassifierFreeGuidance(scale), schedule=schedule).resolve(COSINE, LEVELS)
        for schedule in (None, ConstantScale())
    )
    for level in (LEVELS[0], LEVELS[4], noise_level(COSINE, 0.33), LEVELS[8]):
        assert same.scale_at(level) == jnp.float32(scale)
        one, other = (each.wrap(denoise)(X, level, BOTH) for each in (plain, same))
        np.testing.assert_array_equal(one.x0, other.x0)
        np.testing.assert_array_equal(one.eps, other.eps)


@pytest.mark.parametrize("sampler", [DDIM(), Heun()])
def test_a_run_by_a_constant_schedule_is_the_plain_run(sampler):
    plain = GuidancePlan(ClassifierFreeGuidance(1.1))
    same = GuidancePlan(ClassifierFreeGuidance(1.1), schedule=ConstantScale())
    np.testing.assert_allclose(run(same, sampler), run(plain, sampler), atol=1e-6)


@pytest.mark.parametrize("edges", [(-2.0, 2.0), (float(LOG_SNR[3]) - 1e-3, float(LOG_SNR[6]) + 1e-3)])
def test_an_interval_as_a_step_table_is_the_guidance_interval(edges):
    """Scale 1 is the conditional model alone, as outside of an interval."""
    within = Bounds(low=edges[0], high=edges[1], unit="log_snr")
    limited = GuidancePlan(ClassifierFreeGuidance(5.0), bounds=within)
    stepped = GuidancePlan(ClassifierFreeGuidance(), schedule=BandScale(edges=edges, scales=(1.0, 5.0, 1.0)))
    np.testing.assert_allclose(run(stepped), run(limited), atol=2e-5)
    inside = np.digitize(LOG_SNR, edges) == 1
    assert 0 < inside.sum() < STEPS
    np.testing.assert_allclose(
        scales(BandScale(edges=edges, scales=(1.0, 5.0, 1.0))), np.where(inside, 5, 1), rtol=1e-5
    )


@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_ramps_are_the_formulas_of_the_paper(scale):
    """Wang et al., arXiv:2404.13040: w 2 (1 - t / T), w (cos(pi t / T) + 1), falling ones mirrored, and
    max(c, .) of them, for s = 1 + w, at noise shares t / T of 1, 3/4, 1/2, 1/4 and 0.
    """
    w = scale - 1
    places = slice(None, None, 2)
    expected = {
        LinearScale(): w * np.array([0, 0.5, 1, 1.5, 2]),
        LinearScale(falling=True): w * np.array([2, 1.5, 1, 0.5, 0]),
        CosineScale(): w * np.array([0, 1 - 0.5**0.5, 1, 1 + 0.5**0.5, 2]),
        LinearScale(floor=2.0): np.maximum(2, w * np.array([0, 0.5, 1, 1.5, 2])),
    }
    for schedule, excess in expected.items():
        np.testing.assert_allclose(scales(schedule, scale)[places], 1 + excess, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 6, STEPS])
def test_ramps_guide_as_much_in_all_as_a_constant(steps):
    levels = sampling_levels(COSINE, Even(), steps)
    for shape in (LinearScale, CosineScale):
        for falling in (False, True):
            found = scales(shape(falling=falling), 4.0, levels)
            assert found.shape == (steps,) and found.mean() == pytest.approx(4.0, rel=1e-5)


def test_power_cosine_is_the_formula_of_the_paper():
    """Gao et al., arXiv:2303.14389: w_t = (1 - cos pi (1 - t / T)^s) / 2 w; with s = 1 half of w at t / T =
    1/2, and with s = 4 its own cosine at 1/16 there.
    """
    one, four = (scales(PowerCosineScale(power=power), 5.0) for power in (1.0, 4.0))
    np.testing.assert_allclose(one[[0, 4, 8]], [1, 3, 5], rtol=1e-5)
    np.testing.assert_allclose(four[[0, 4, 8]], [1, 1 + 2 * (1 - np.cos(np.pi / 16)), 5], rtol=1e-5)


def test_a_ramp_is_also_a_shape_from_one_scale_to_another():
    """``scale`` has the same shapes between two ends: those of a linear ramp at s are 1 and 2 s - 1."""
    shape = GuidancePlan(
        ClassifierFreeGuidance(), scale_over_run=ScaleShape(shape="linear", start=1.0, end=7.0)
    )
    ramp = GuidancePlan(ClassifierFreeGuidance(4.0), schedule=LinearScale())
    np.testing.assert_allclose(run(ramp), run(shape), atol=1e-5)


def test_a_table_is_straight_between_its_places_and_level_beyond_them():
    table = TableScale(log_snr=(-2.0, 0.0, 3.0), scales=(1.0, 4.0, 2.0))
    expected = np.interp(LOG_SNR, [-2, 0, 3], [1, 4, 2])
    np.testing.assert_allclose(scales(table, 9.0), expected, rtol=1e-5)
    assert expected[0] == 1 and expected[-1] == 2 and len(set(expected)) > 4


def test_a_level_has_the_scale_of_its_band_whatever_schedule_and_steps_lead_through_it():
    bands = BandScale(edges=(-1.5, 1.0), scales=(2.0, 5.0, 3.0))
    for name in ("cosine", "rectified_flow", "linear"):
        levels = sampling_levels(SCHEDULES[name](), Even(t_max=0.95), 20)
        log_snr = np.asarray(levels.log_snr)[:-1]
        expected = np.select([log_snr < -1.5, log_snr < 1.0], [2, 5], 3)
        assert set(expected) == {2, 5, 3}
        np.testing.assert_allclose(scales(bands, levels=levels), expected, rtol=1e-4)


def test_where_a_run_goes_back_up_a_level_has_its_scale_again():
    again = jax.tree.map(lambda a: jnp.concatenate([a[:5], a[2:]]), LEVELS)
    found = scales(LinearScale(), 4.0, again)
    np.testing.assert_allclose(
        found, np.concatenate([scales(LinearScale())[:5], scales(LinearScale())[2:]]), rtol=1e-5
    )


def test_each_example_keeps_its_own_scale():
    plan = GuidancePlan(ClassifierFreeGuidance(), schedule=LinearScale()).resolve(COSINE, LEVELS)
    each = plan.with_scale(jnp.array([2.0, 6.0]))
    for step in (0, 3, 8):
        found = each.scale_at(LEVELS[step])
        np.testing.assert_allclose(found, [scales(LinearScale(), s)[step] for s in (2.0, 6.0)], rtol=1e-5)


def test_other_schedules_and_numbers_of_steps_have_one_structure():
    structures = set()
    for schedule in EXAMPLES.values():
        for steps in (4, STEPS):
            plan = GuidancePlan(ClassifierFreeGuidance(), schedule=schedule)
            levels = sampling_levels(COSINE, Even(), steps)
            leaves, tree = jax.tree.flatten(plan.resolve(COSINE, levels))
            structures.add((tree, tuple(jnp.shape(leaf) for leaf in leaves)))
    assert len(structures) == 1


def test_it_stands_inside_corrections_and_bounds_and_keeps_the_memory():
    """Within an interval and rescaled, of a guidance with a memory: a constant schedule changes nothing."""
    inside = {"corrections": (Rescale(0.5),), "bounds": Bounds(low=2, high=6, unit="step")}
    guidance = AdaptiveProjectedGuidance(5.0, momentum=-0.5)
    plain = run(GuidancePlan(guidance, **inside))
    constant = run(GuidancePlan(guidance, schedule=ConstantScale(), **inside))
    np.testing.assert_allclose(constant, plain, atol=1e-6)
    ramped = run(GuidancePlan(guidance, schedule=LinearScale(), **inside))
    np.testing.assert_allclose(ramped[:2], plain[:2], atol=1e-6)
    assert np.abs(ramped[3] - plain[3]).max() > 1e-3


def test_what_has_a_scale_of_its_own_takes_no_other_and_a_guidance_without_one_takes_none():
    table = GuidancePlan(ClassifierFreeGuidance(), schedule=EXAMPLES["table"])
    with pytest.raises(ValueError, match="has the scale of every noise level"):
        table.with_scale(2.0)
    assert GuidancePlan(ClassifierFreeGuidance(), schedule=LinearScale()).with_scale(2.0).scale == 2.0
    with pytest.raises(ValueError, match="has no scale"):
        GuidancePlan(FrequencyDecoupledGuidance(), schedule=LinearScale()).resolve(COSINE, LEVELS)
    both = GuidancePlan(TwoConditionGuidance(3.0), schedule=ConstantScale()).resolve(COSINE, LEVELS)
    assert float(both.scale_at(LEVELS[4])) == 3.0
