"""A guidance interval: its units, its ends, and what is not evaluated outside."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import Conditioning
from difflax.diffusion.denoisers import WithWeak
from difflax.diffusion.guidance import (
    Bounds,
    ClassifierFreeGuidance,
    GuidancePlan,
    Guided,
    PerturbationGuidance,
    interval,
)
from difflax.diffusion.predictions import Prediction
from difflax.diffusion.samplers import DDIM, Heun, sample
from difflax.diffusion.schedules import SCHEDULES, noise_level
from difflax.diffusion.time_grids import Even, sampling_levels

STEPS = 8
LEVELS = sampling_levels(SCHEDULES["cosine"](), Even(t_max=0.95), STEPS)
X = jax.random.normal(jax.random.key(0), (2, 3))
BOTH = Guided(Conditioning(pooled=jnp.ones((2, 3))), Conditioning(pooled=-jnp.ones((2, 3))))
GUIDANCE = ClassifierFreeGuidance(5.0)


def run(guidance, sampler=DDIM(), levels=LEVELS):
    """The estimates of x0 (9 under guidance 5, 1 without) and the rows that every evaluation had."""
    rows = []

    def denoise(x, level, conditioning):
        jax.debug.callback(lambda _: rows.append(x.shape[0]), x)
        x0 = conditioning.pooled
        return Prediction(x0, (x - level.alpha * x0) / level.sigma)

    keys = jax.random.split(jax.random.key(0), 2)
    _, estimates = sample(
        guidance.wrap(denoise), sampler, levels, X, keys, conditioning=BOTH, return_trajectory=True
    )
    jax.effects_barrier()
    return np.asarray(estimates)[:, 0, 0], rows


def test_outside_the_unconditional_rows_are_not_evaluated_and_it_switches_on_and_off_again():
    estimates, rows = run(interval(GUIDANCE, 3, 5, "step", levels=LEVELS))
    np.testing.assert_allclose(estimates, [1, 1, 1, 9, 9, 9, 1, 1], rtol=1e-6)
    assert rows == [2, 2, 2, 4, 4, 4, 2, 2]


def test_every_evaluation_of_a_step_looks_at_its_own_level():
    """Heun's second evaluation is at the next level: the interval of steps 3 to 5 begins in step 2."""
    _, rows = run(interval(GUIDANCE, 3, 5, "step", levels=LEVELS), Heun())
    assert rows == [2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4, 2, 2, 2, 2]


def test_a_perturbation_acts_in_its_part_of_the_run_and_the_other_guidance_in_all_of_it():
    """Estimates 9 under guidance 5; the perturbed model's is 0.5, so that a scale of 2 adds 1."""
    perturbation = PerturbationGuidance(5.0, 2.0, within=Bounds(low=1, high=3, unit="step"))
    guidance = GuidancePlan(perturbation).resolve(SCHEDULES["cosine"](), LEVELS)
    evaluated = []

    def denoise(share, x, level, conditioning):
        jax.debug.callback(lambda _: evaluated.append(share), x)
        x0 = share * conditioning.pooled
        return Prediction(x0, (x - level.alpha * x0) / level.sigma)

    wrapped = guidance.wrap(WithWeak(functools.partial(denoise, 1.0), functools.partial(denoise, 0.5)))
    keys = jax.random.split(jax.random.key(0), 2)
    _, estimates = sample(wrapped, DDIM(), LEVELS, X, keys, conditioning=BOTH, return_trajectory=True)
    jax.effects_barrier()
    np.testing.assert_allclose(estimates[:, 0, 0], [9, 10, 10, 10, 9, 9, 9, 9], rtol=1e-6)
    assert evaluated.count(0.5) == 3
    with pytest.raises(ValueError, match="resolve"):
        perturbation.wrap(WithWeak(functools.partial(denoise, 1.0), functools.partial(denoise, 0.5)))(
            X, LEVELS[0], BOTH
        )


@pytest.mark.parametrize("unit", ["sigma", "log_snr", "t"])
def test_units_are_converted(unit):
    """The bounds at the levels of steps 2 and 6, in each unit: both ends are inside."""
    high, low = LEVELS[2], LEVELS[6]
    value = {
        "sigma": lambda level: float(level.sigma / level.alpha),
        "log_snr": lambda level: float(level.log_snr),
        "t": lambda level: float(level.t),
    }[unit]
    bounds = sorted((value(high), value(low)))
    made = interval(GUIDANCE, *bounds, unit, schedule=SCHEDULES["cosine"]())
    np.testing.assert_allclose(run(made)[0], [1, 1, 9, 9, 9, 9, 9, 1], rtol=1e-6)


def test_an_interval_in_sigma_does_not_move_with_the_schedule():
    """The same noise-to-signal ratios are inside, whatever path leads through them."""
    made = interval(GUIDANCE, 0.5, 4.0, "sigma")
    for name in ("cosine", "rectified_flow", "linear"):
        levels = sampling_levels(SCHEDULES[name](), Even(t_max=0.95), 20)
        ratio = np.asarray(levels.sigma / levels.alpha)[:-1]
        inside = (ratio >= 0.5) & (ratio <= 4.0)
        np.testing.assert_allclose(run(made, levels=levels)[0], np.where(inside, 9, 1), rtol=1e-6)


def test_the_whole_line_and_an_empty_interval():
    everywhere = interval(GUIDANCE, 0, STEPS - 1, "step", levels=LEVELS)
    assert run(everywhere)[1] == [4] * STEPS
    nowhere = interval(GUIDANCE, 1e6, 2e6, "sigma")
    assert run(nowhere)[1] == [2] * STEPS


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((2.0, 1.0, "sigma"), "must not exceed"),
        ((float("nan"), 1.0, "sigma"), "must not exceed"),
        ((0.0, 1.0, "snr"), "unit must be one of|Literal"),
        ((0.0, 1.0, "t"), "needs the schedule"),
        ((0, 1, "step"), "needs the run's levels"),
    ],
)
def test_bad_bounds_are_refused(arguments, says):
    with pytest.raises(Exception, match=says):
        interval(GUIDANCE, *arguments)


def test_a_level_for_each_example_is_refused():
    """In sampling one level holds for the whole batch; otherwise nothing could be skipped."""
    made = interval(GUIDANCE, 0.5, 4.0, "sigma")
    with pytest.raises(ValueError, match="one noise level"):
        made.wrap(lambda *_: None)(X, noise_level(SCHEDULES["cosine"](), jnp.array([0.5, 0.6])), BOTH)
