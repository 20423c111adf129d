"""Guidance: each member against its published formula, and the laws that hold over all of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
from difflax.core.types import Conditioning
from difflax.diffusion.denoisers import WithWeak, make_denoiser
from difflax.diffusion.guidance import (
    AdaptiveProjectedGuidance,
    Autoguidance,
    CFGPlusPlus,
    CFGZeroStar,
    ClassifierFreeGuidance,
    ComposedGuidance,
    Corrected,
    DynamicThreshold,
    FrequencyDecoupledGuidance,
    Guided,
    NoGuidance,
    PerturbationGuidance,
    Prompts,
    Rescale,
    StaticThreshold,
    TwoConditionGuidance,
    TwoConditions,
    scale_schedule,
    scale_table,
)
from difflax.diffusion.predictions import PREDICTIONS, Prediction
from difflax.diffusion.samplers import DDIM, sample
from difflax.diffusion.schedules import SCHEDULES, noise_level
from difflax.diffusion.time_grids import Even, sampling_levels
from difflax.diffusion.verification.oracles import Gaussian

from tests.diffusion.networks import as_network

SHAPE = (3, 6, 5, 2)
LEVEL = noise_level(SCHEDULES["cosine"](), 0.6)
FLOW = noise_level(SCHEDULES["rectified_flow"](), 0.6)
X, A0, B0, C0 = (np.asarray(jax.random.normal(k, SHAPE)) for k in jax.random.split(jax.random.key(0), 4))
COND, NULL, OTHER = (Conditioning(pooled=jnp.asarray(a.reshape(3, -1))) for a in (A0, B0, C0))
BOTH = Guided(COND, NULL)


def binomial(image):
    """kornia's ``filter2d`` with its 5 × 5 kernel, by scipy."""
    for axis in (1, 2):
        image = scipy.ndimage.correlate1d(image, np.array([1, 4, 6, 4, 1]) / 16, axis, mode="mirror")
    return image


def bilinear(image, size):
    """torch's ``interpolate`` (bilinear, ``align_corners=False``), by scipy's: at pixel centres, held at the
    borders.
    """
    rows, columns = (
        np.clip((np.arange(n) + 0.5) * old / n - 0.5, 0, old - 1)
        for n, old in zip(size, image.shape[1:3], strict=True)
    )
    places = np.stack(np.meshgrid(rows, columns, indexing="ij"))
    one = lambda plane: scipy.ndimage.map_coordinates(plane, places, order=1)  # noqa: E731
    return np.stack(
        [np.stack([one(row[..., c]) for c in range(image.shape[-1])], -1) for row in image.astype(float)]
    )


def laplacian(image):
    """A pyramid of two levels: the detail, and the image at half its size."""
    small = bilinear(binomial(image), [n // 2 for n in image.shape[1:3]])
    return image - binomial(bilinear(small, image.shape[1:3])), small


def collapse(detail, small):
    return detail + binomial(bilinear(small, detail.shape[1:3]))


def denoise(x, level, conditioning):
    """The estimate of x0 is the condition; the noise goes with it."""
    x0 = conditioning.pooled.reshape(x.shape)
    return Prediction(x0, (x - level.alpha * x0) / level.sigma)


def weak(x, level, conditioning):
    """A worse denoiser: shrunk."""
    x0 = 0.5 * conditioning.pooled.reshape(x.shape) + 0.1
    return Prediction(x0, (x - level.alpha * x0) / level.sigma)


def eps_of(x0, level=LEVEL):
    return (X - float(level.alpha) * x0) / float(level.sigma)


def guided(guidance, level=LEVEL, conditioning=BOTH):
    return guidance.wrap(WithWeak(denoise, weak))(jnp.asarray(X), level, conditioning)


def check(prediction, x0, level=LEVEL, tolerance=2e-5):
    """``x0`` and the noise that goes with it."""
    np.testing.assert_allclose(prediction.x0, x0, atol=tolerance)
    np.testing.assert_allclose(prediction.eps, eps_of(x0, level), atol=3 * tolerance)


def sums(a):
    return a.sum(axis=(1, 2, 3), keepdims=True)


@pytest.mark.parametrize("scale", [-2.0, 0.0, 0.5, 1.0, 7.5])
def test_cfg(scale):
    """Ho & Salimans, eq. 6."""
    check(guided(ClassifierFreeGuidance(scale)), B0 + scale * (A0 - B0))


def test_composition_adds_and_subtracts_prompts():
    """Liu et al., eq. 11 and 13: AND with positive, NOT with negative weights."""
    made = guided(ComposedGuidance((5.0, -2.0)), conditioning=Prompts((COND, OTHER), NULL))
    check(made, B0 + 5 * (A0 - B0) - 2 * (C0 - B0))
    with pytest.raises(ValueError, match="2 entries for 1 prompts"):
        guided(ComposedGuidance((5.0, -2.0)), conditioning=Prompts((COND,), NULL))


def test_two_conditions():
    """InstructPix2Pix, eq. 3."""
    conditions = TwoConditions(both=COND, image=OTHER, neither=NULL)
    made = guided(TwoConditionGuidance(7.5, 1.5), conditioning=conditions)
    check(made, B0 + 1.5 * (C0 - B0) + 7.5 * (A0 - C0), tolerance=1e-4)


def test_cfg_plus_plus_renoises_with_the_unconditional_noise():
    """Chung et al., algorithm 2, over one DDIM step."""
    made = guided(CFGPlusPlus(0.6))
    x0, eps = B0 + 0.6 * (A0 - B0), eps_of(B0)
    np.testing.assert_allclose(made.x0, x0, atol=1e-5)
    np.testing.assert_allclose(made.eps, eps, atol=1e-5)
    levels = jax.tree.map(lambda a, b: jnp.stack([a, b]), LEVEL, noise_level(SCHEDULES["cosine"](), 0.4))
    keys = jax.random.split(jax.random.key(0), 3)
    end = sample(CFGPlusPlus(0.6).wrap(denoise), DDIM(), levels, jnp.asarray(X), keys, conditioning=BOTH)
    expected = float(levels.alpha[1]) * x0 + float(levels.sigma[1]) * eps
    np.testing.assert_allclose(end, expected, atol=1e-5)


def apg_reference(difference, scale, threshold, parallel_weight):
    """Sadat et al., algorithm 1, without the momentum."""
    norm = np.sqrt(sums(difference**2))
    if threshold > 0:
        difference = difference * np.minimum(1, threshold / norm)
    direction = A0 / np.sqrt(sums(A0**2))
    parallel = sums(difference * direction) * direction
    return A0 + (scale - 1) * (difference - parallel + parallel_weight * parallel)


@pytest.mark.parametrize("threshold", [0.0, 4.0])
def test_apg(threshold):
    made = guided(AdaptiveProjectedGuidance(6.0, 0.0, threshold, 0.3))
    check(made, apg_reference(A0 - B0, 6.0, threshold, 0.3), tolerance=5e-5)


def test_apg_momentum_sums_over_the_steps_of_a_run():
    """The running difference of step n is ``difference + beta running``; it starts anew in every run."""
    guidance = AdaptiveProjectedGuidance(6.0, -0.5, 0.0, 0.0)
    levels = sampling_levels(SCHEDULES["cosine"](), Even(t_max=0.9), 4)
    keys = jax.random.split(jax.random.key(0), 3)
    wrapped = guidance.wrap(denoise)
    _, estimates = sample(
        wrapped, DDIM(), levels, jnp.asarray(X), keys, conditioning=BOTH, return_trajectory=True
    )
    running = np.zeros_like(A0)
    for estimate in estimates:
        running = A0 - B0 - 0.5 * running
        np.testing.assert_allclose(estimate, apg_reference(running, 6.0, 0.0, 0.0), atol=5e-5)


def test_cfg_zero_star():
    """Fan et al., algorithm 1, in the velocity eps - x0 of a rectified flow."""
    v_cond, v_uncond = eps_of(A0, FLOW) - A0, eps_of(B0, FLOW) - B0
    fit = sums(v_cond * v_uncond) / sums(v_uncond**2)
    velocity = fit * v_uncond + 4.0 * (v_cond - fit * v_uncond)
    check(guided(CFGZeroStar(4.0), FLOW), X - float(FLOW.sigma) * velocity, FLOW, 5e-5)
    silent = guided(CFGZeroStar(4.0, 0.5), FLOW)  # 0.6 is above 0.5
    np.testing.assert_allclose(silent.x0, X, atol=1e-5)
    np.testing.assert_allclose(silent.eps, X, atol=1e-5)


@pytest.mark.parametrize("zero_steps", [0, 1, 2])
def test_the_first_steps_of_a_run_under_cfg_zero_star_do_nothing(zero_steps):
    """Algorithm 1's zero-init, one step by default: Euler along the velocity, from the step after on."""
    made = CFGZeroStar(4.0) if zero_steps == 1 else CFGZeroStar(4.0, zero_steps=zero_steps)
    schedule = SCHEDULES["rectified_flow"]()
    levels = sampling_levels(schedule, Even(), 5)

    def constant(x, level, conditioning):  # v = the condition, wherever it is asked
        velocity = conditioning.pooled.reshape(x.shape)
        return Prediction(x - level.sigma * velocity, x + level.alpha * velocity)

    keys = jax.random.split(jax.random.key(0), 3)
    wrapped = made.resolve(schedule, levels).wrap(constant)
    end = sample(wrapped, DDIM(), levels, jnp.asarray(X), keys, conditioning=BOTH)
    fit = sums(A0 * B0) / sums(B0**2) * B0
    np.testing.assert_allclose(end, X - (1 - zero_steps / 5) * (fit + 4.0 * (A0 - fit)), atol=5e-5)


def test_zero_steps_leave_a_step():
    levels = sampling_levels(SCHEDULES["rectified_flow"](), Even(), 2)
    with pytest.raises(ValueError, match="zero_steps = 2 must be less than the run's 2 steps"):
        CFGZeroStar(4.0, zero_steps=2).resolve(SCHEDULES["rectified_flow"](), levels)


def test_frequency_decoupled_guidance_with_a_pyramid():
    """Sadat et al., algorithm 1: each level of the Laplacian pyramids has its own scale."""
    low_scale, high_scale = 2.0, 6.0
    (high, low), (high_null, low_null) = laplacian(A0), laplacian(B0)
    levels = [high + (high_scale - 1) * (high - high_null), low + (low_scale - 1) * (low - low_null)]
    check(guided(FrequencyDecoupledGuidance(low_scale, high_scale)), collapse(*levels), tolerance=5e-5)


def test_frequency_decoupled_guidance():
    """Sadat et al.: each band of the difference has its own scale. Mirrored, the blur is diagonal in
    scipy's cosine transform, with a Gaussian's own transform as its response.
    """
    blur, low_scale, high_scale = 1.5, 2.0, 6.0
    rows, columns = (np.exp(-((np.pi * np.arange(n) / n * blur) ** 2) / 2) for n in SHAPE[1:3])
    kept = scipy.fft.dctn(A0 - B0, axes=(1, 2)) * rows[:, None, None] * columns[None, :, None]
    low = scipy.fft.idctn(kept, axes=(1, 2))
    expected = A0 + (low_scale - 1) * low + (high_scale - 1) * (A0 - B0 - low)
    check(guided(FrequencyDecoupledGuidance(low_scale, high_scale, blur)), expected, tolerance=5e-5)


def test_autoguidance_and_perturbation():
    """Karras et al., eq. 3; Ahn et al., eq. 16, beside CFG."""
    worse = 0.5 * A0 + 0.1
    check(guided(Autoguidance(2.5)), worse + 2.5 * (A0 - worse))
    check(guided(PerturbationGuidance(5.0, 3.0)), B0 + 5 * (A0 - B0) + 3 * (A0 - worse), tolerance=5e-5)
    check(guided(PerturbationGuidance(5.0, 3.0, classifier_free=False)), A0 + 3 * (A0 - worse))
    for guidance in (Autoguidance(), PerturbationGuidance()):
        with pytest.raises(ValueError, match="wrap"):
            guidance.wrap(denoise)(jnp.asarray(X), LEVEL, BOTH)


def test_rescale_gives_the_conditional_spread():
    """Lin et al., eq. 15 and 16, in v."""
    made = guided(Corrected(ClassifierFreeGuidance(6.0), (Rescale(0.7, "v"),)))
    alpha, sigma = float(LEVEL.alpha), float(LEVEL.sigma)
    v = lambda x0: alpha * eps_of(x0) - sigma * x0  # noqa: E731
    out, reference = v(B0 + 6 * (A0 - B0)), v(A0)
    std = lambda a: a.std(axis=(1, 2, 3), keepdims=True)  # noqa: E731
    out = 0.7 * out * std(reference) / std(out) + 0.3 * out
    check(made, alpha * X - sigma * out, tolerance=1e-4)


def test_thresholds():
    """Imagen, section 2.3; each keeps the noise on the line through x_t."""
    x0 = B0 + 6 * (A0 - B0)
    cfg = ClassifierFreeGuidance(6.0)
    check(guided(Corrected(cfg, (StaticThreshold(1.0),))), np.clip(x0, -1, 1), tolerance=1e-4)
    bound = np.quantile(np.abs(x0).reshape(3, -1), 0.9, axis=1)[:, None, None, None]
    bound = np.maximum(bound, 1.0)
    made = guided(Corrected(cfg, (DynamicThreshold(0.9),)))
    check(made, np.clip(x0, -bound, bound) / bound, tolerance=1e-4)


def test_corrections_act_in_their_order():
    first = guided(Corrected(ClassifierFreeGuidance(6.0), (StaticThreshold(1.0), Rescale(1.0))))
    second = guided(Corrected(ClassifierFreeGuidance(6.0), (Rescale(1.0), StaticThreshold(1.0))))
    assert np.abs(second.x0).max() <= 1 and np.abs(first.x0 - second.x0).max() > 0.01


ONE_IS_OFF = {
    "cfg": ClassifierFreeGuidance,
    "cfg_zero_star": CFGZeroStar,
    "apg": functools.partial(AdaptiveProjectedGuidance, parallel_weight=1.0),
    "frequency_decoupled": lambda s: FrequencyDecoupledGuidance(s, s),
    "autoguidance": Autoguidance,
    "perturbation": lambda s: PerturbationGuidance(s, 0.0),
    "composed": lambda s: ComposedGuidance((s,)),
    "two_condition": lambda s: TwoConditionGuidance(s, s),
}


def conditions_of(name):
    special = {"composed": Prompts((COND,), NULL), "two_condition": TwoConditions(COND, OTHER, NULL)}
    return special.get(name, BOTH)


@pytest.mark.parametrize("name", ONE_IS_OFF)
def test_scale_one_is_the_conditional_model(name):
    made = guided(ONE_IS_OFF[name](1.0), FLOW, conditions_of(name))
    check(made, A0, FLOW, 5e-5)


@pytest.mark.parametrize("name", ["cfg", "apg", "frequency_decoupled", "composed", "two_condition"])
def test_scale_zero_is_the_unconditional_model(name):
    """0 is not taken for "off" (diffusers issue 9680)."""
    check(guided(ONE_IS_OFF[name](0.0), conditioning=conditions_of(name)), B0, tolerance=5e-5)


@pytest.mark.parametrize("name", ["cfg", "composed", "two_condition", "autoguidance", "perturbation"])
def test_affine_guidance_does_not_depend_on_the_prediction_type(x64, name):
    """Of two perfect networks, whatever they predict."""
    means = [jnp.full((3, 3), m) for m in (0.7, -0.2, 1.3)]
    cond, null, other = (Conditioning(pooled=m) for m in means)
    conditions = {
        "composed": Prompts((cond,), null),
        "two_condition": TwoConditions(cond, other, null),
    }.get(name, Guided(cond, null))
    x = jax.random.normal(jax.random.key(5), (3, 3))
    level = noise_level(SCHEDULES["cosine"](), LEVEL.t)  # in float64
    results = []
    for kind in PREDICTIONS.values():
        schedule = SCHEDULES["cosine"]()

        def network(x, time, c, strength, kind=kind, schedule=schedule):
            ideal = Gaussian(mean=c.pooled * strength)
            return as_network(ideal, schedule, kind())(x, time, c)

        pair = WithWeak(
            *(make_denoiser(functools.partial(network, strength=s), schedule, kind()) for s in (1.0, 0.8))
        )
        results.append(ONE_IS_OFF[name](4.0).wrap(pair)(x, level, conditions).x0)
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-8)


TRACED = {
    **{name: make(2.0) for name, make in ONE_IS_OFF.items()},
    "cfg_plus_plus": CFGPlusPlus(0.5),
    "corrected": Corrected(
        ClassifierFreeGuidance(2.0), (Rescale(0.5), DynamicThreshold(), StaticThreshold())
    ),
    "none": NoGuidance(),
}


@pytest.mark.parametrize("name", TRACED)
def test_no_strength_compiles_again(name):
    """Every number of a guidance is traced; and a batch permutation permutes the results."""
    traces = []

    @jax.jit
    def evaluate(guidance, x, conditioning):
        traces.append(1)
        return guidance.wrap(WithWeak(denoise, weak))(x, FLOW, conditioning).x0

    guidance, conditioning = TRACED[name], conditions_of(name)
    as_arrays = lambda f: jax.tree.map(lambda a: jnp.asarray(f(a), jnp.float32), guidance)  # noqa: E731
    plain = evaluate(as_arrays(lambda a: a), jnp.asarray(X), conditioning)
    order = np.array([2, 0, 1])
    permuted = jax.tree.map(lambda a: a[order], conditioning)
    again = evaluate(as_arrays(lambda a: a), jnp.asarray(X)[order], permuted)
    np.testing.assert_allclose(again, np.asarray(plain)[order], rtol=1e-6, atol=1e-6)
    other = evaluate(as_arrays(lambda a: 0.9 * a), jnp.asarray(X), conditioning)
    assert len(traces) == 1
    assert name == "none" or np.abs(other - plain).max() > 1e-4


def test_scale_schedules():
    """Wang et al., arXiv:2404.13040, section 3: constant, linear, cosine, triangle, or a table."""
    levels = sampling_levels(SCHEDULES["cosine"](), Even(), 5)
    progress = np.arange(5) / 4
    shapes = {
        "constant": np.full(5, 9.0),
        "linear": 1 + 8 * progress,
        "cosine": 1 + 8 * (1 - np.cos(np.pi * progress)) / 2,
        "triangle": 1 + 8 * np.array([0, 0.5, 1, 0.5, 0]),
    }
    for shape, expected in shapes.items():
        schedule = scale_schedule(shape, levels, 1.0, 9.0)
        np.testing.assert_allclose([schedule(levels[i]) for i in range(5)], expected, rtol=1e-5)
    table = scale_table(levels, [5, 1, 4, 2, 3])
    np.testing.assert_allclose([table(levels[i]) for i in range(5)], [5, 1, 4, 2, 3], rtol=1e-5)
    made = ClassifierFreeGuidance(table).wrap(denoise)(jnp.asarray(X), levels[2], BOTH)
    np.testing.assert_allclose(made.x0, B0 + 4 * (A0 - B0), atol=2e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "make",
    [
        ClassifierFreeGuidance,
        CFGPlusPlus,
        CFGZeroStar,
        Autoguidance,
        lambda s: ComposedGuidance((1.0, s)),
        lambda s: FrequencyDecoupledGuidance(1.0, s),
        lambda s: TwoConditionGuidance(1.0, s),
        lambda s: PerturbationGuidance(1.0, s),
        lambda s: AdaptiveProjectedGuidance(1.0, s),
        Rescale,
        StaticThreshold,
    ],
)
def test_a_strength_that_is_no_number_is_refused(make, bad):
    with pytest.raises(ValueError, match=r"guidance\..* must be a finite number"):
        make(bad)
