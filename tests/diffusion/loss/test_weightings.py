"""Every weighting against its published formula, on x0 or eps as the paper states it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.diffusion.loss.losses import PENALTIES, check_weight, weighted_penalty
from difflax.diffusion.loss.time_samplers import Uniform
from difflax.diffusion.loss.weightings import (
    P2,
    WEIGHTINGS,
    EDMWeighting,
    FlowWeighting,
    LearnedUncertainty,
    MinSNR,
    SigmoidWeighting,
    SoftMinSNR,
    TruncatedSNR,
)
from difflax.diffusion.predictions import PREDICTIONS, target
from difflax.diffusion.schedules import SCHEDULES, noise_level

T = jnp.linspace(0.05, 0.95, 9)
COSINE, FLOW, EDM_PATH = (noise_level(SCHEDULES[n](), T) for n in ("cosine", "rectified_flow", "edm"))
SNR = np.exp(np.asarray(COSINE.log_snr, np.float64))
SIGMA = np.asarray(EDM_PATH.sigma, np.float64)

PUBLISHED_ON_X0 = {
    "min_snr": (MinSNR(gamma=5.0), COSINE, np.minimum(SNR, 5)),
    "soft_min_snr": (SoftMinSNR(gamma=5.0), COSINE, SNR * 5 / (SNR + 5)),
    "p2": (P2(gamma=0.7, k=1.0), COSINE, SNR / (1 + SNR) ** 0.7),
    "truncated_snr": (TruncatedSNR(), COSINE, np.maximum(SNR, 1)),
    "edm": (EDMWeighting(sigma_data=0.5), EDM_PATH, (SIGMA**2 + 0.25) / (SIGMA * 0.5) ** 2),
    "sigmoid": (SigmoidWeighting(bias=2.0, per="t"), COSINE, SNR / (1 + np.exp(np.log(SNR) - 2))),
}


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", PUBLISHED_ON_X0)
def test_weight_of_the_squared_error_of_x0(name, prediction):
    """Whatever the network predicts, one wrong denoiser costs the published weight times its error in x0."""
    weighting, level, published = PUBLISHED_ON_X0[name]
    kind = PREDICTIONS[prediction]()
    error_x0 = jax.random.normal(jax.random.key(0), (9, 7))
    error_eps = -error_x0 * (level.alpha / level.sigma)[:, None]
    out = target(kind, error_x0, error_eps, level)
    cost = weighted_penalty(out, kind, level, weighting=weighting)
    np.testing.assert_allclose(cost, published * np.mean(np.asarray(error_x0) ** 2, 1), rtol=2e-4)


def test_sd3_weights_on_the_velocity():
    """Esser et al., section 3.1: t^-2 and 2 / (pi (1 - 2 t + 2 t^2)) on the velocity of a flow."""
    t, kind = np.asarray(T), PREDICTIONS["flow_velocity"]()
    for scheme, published in (
        ("sigma_sqrt", t**-2.0),
        ("cosmap", 2 / (np.pi * (1 - 2 * t + 2 * t**2))),
    ):
        cost = weighted_penalty(jnp.ones((9, 2)), kind, FLOW, weighting=FlowWeighting(scheme=scheme))
        np.testing.assert_allclose(cost, published, rtol=1e-5)


def test_a_flow_is_trained_with_the_weight_that_sd3_derives_for_it():
    """Esser et al., eqs. 9 and 12: ``-1/2 w_t lambda'_t |error of eps|^2`` with ``w_t = t / (1 - t)``, where
    ``lambda = log((1 - t)^2 / t^2)``; the plain squared error of the velocity.
    """
    t, kind = np.asarray(T, np.float64), PREDICTIONS["flow_velocity"]()
    error_eps = jax.random.normal(jax.random.key(0), (9, 7))
    error_x0 = -error_eps * (FLOW.sigma / FLOW.alpha)[:, None]
    cost = weighted_penalty(target(kind, error_x0, error_eps, FLOW), kind, FLOW)
    slope = -2 / (1 - t) - 2 / t
    published = -0.5 * (t / (1 - t)) * slope * np.mean(np.asarray(error_eps, np.float64) ** 2, 1)
    np.testing.assert_allclose(cost, published, rtol=1e-5)


def test_the_sigmoid_loss_does_not_depend_on_the_schedule(x64):
    """VDM++, eq. 9: with uniform t and the weight per log-SNR, the integral of the loss over log-SNR."""
    totals = []
    for name in ("continuous_cosine", "vp_sde", "rectified_flow", "shifted_cosine"):
        schedule = SCHEDULES[name]()
        ends = [float(schedule.t_from_log_snr(jnp.asarray(v))) for v in (8.0, -8.0)]
        t = ends[0] + (ends[1] - ends[0]) * (np.arange(20_000) + 0.5) / 20_000
        level = noise_level(schedule, t)
        cost = weighted_penalty(
            jnp.ones((len(t), 1)), PREDICTIONS["epsilon"](), level, weighting=SigmoidWeighting()
        ) * jnp.exp(-(level.log_snr**2) / 8)
        totals.append(float(cost.mean() * (ends[1] - ends[0])))
    np.testing.assert_allclose(totals, totals[0], rtol=1e-5)


def test_learned_uncertainty_has_its_minimum_at_the_log_of_the_loss():
    """EDM2, eq. 21: ``loss / exp(u) + u``; without weights it is the loss, and training finds the minimum."""
    learned, level = LearnedUncertainty(features=32), COSINE
    loss = jnp.linspace(0.1, 4.0, 9)
    np.testing.assert_allclose(learned(learned.init(), loss, level), loss, rtol=1e-6)
    weights = jax.random.normal(jax.random.key(0), (32,))
    u = np.asarray(learned.log_variance(weights, level))
    np.testing.assert_allclose(learned(weights, loss, level), np.asarray(loss) / np.exp(u) + u, rtol=1e-5)
    # 9 levels and 64 smooth features: u can follow any loss, and so it does.
    learned = LearnedUncertainty(features=64)
    weights = learned.init()
    value = jax.jit(jax.value_and_grad(lambda w: learned(w, loss, level).sum()))
    for _ in range(4000):
        weights = weights - 0.3 * value(weights)[1]
    np.testing.assert_allclose(learned.log_variance(weights, level), np.log(loss), atol=0.15)


def test_penalties():
    """Huber (1964) times two, and Charbonnier's as Song & Dhariwal have it, both squared errors near 0."""
    error = jnp.linspace(-3, 3, 41)
    e = np.asarray(error, np.float64)
    published = {
        "mean_squared": e**2,
        "huber": np.where(np.abs(e) <= 1, e**2, 2 * np.abs(e) - 1),
        "pseudo_huber": 2 * 0.1 * (np.sqrt(e**2 + 0.01) - 0.1),
    }
    for name, values in published.items():
        np.testing.assert_allclose(PENALTIES[name]()(error), values, rtol=1e-5, atol=1e-7)


def test_a_mask_averages_over_its_part():
    kind, cost = PREDICTIONS["epsilon"](), jnp.arange(8.0).reshape(2, 2, 2, 1)
    mask = jnp.asarray([[[1, 0], [0, 0]], [[0, 1], [1, 0]]], jnp.float32)[..., None]
    level = jax.tree.map(lambda a: a[:2], COSINE)
    np.testing.assert_allclose(weighted_penalty(cost, kind, level, mask=mask), [0, (25 + 36) / 2], rtol=1e-5)


ZERO_SNR = {
    **{name: SCHEDULES[name](zero_terminal_snr=True) for name in ("linear", "scaled_linear", "cosine")},
    "rectified_flow": SCHEDULES["rectified_flow"](shift=3.0),
    "continuous_cosine": SCHEDULES["continuous_cosine"](),
}


def at_the_end(schedule):
    """``(slope, exponent)`` of ``alpha = slope (1 - t)^exponent`` near t = 1, in float64 arithmetic."""
    if hasattr(schedule, "alphas_cumprod"):  # the variance is linear in t within the last entry
        return np.sqrt(schedule.alphas_cumprod[-2] * schedule.num_timesteps), 0.5
    return {"RectifiedFlow": 1 / 3, "ContinuousCosine": np.pi / 2}[type(schedule).__name__], 1.0


def published_limit(weighting, prediction, schedule):
    """What the squared error of the output is worth as alpha goes to 0, sigma to 1: leading terms
    ``c alpha^n`` of the published weight on x0, and of the error in x0 that an output's error makes.
    """
    slope, exponent = at_the_end(schedule)
    # -d alpha / dt = exponent slope^(1/exponent) alpha^(1 - 1/exponent)
    fall, power = exponent * slope ** (1 / exponent), 1 - 1 / exponent
    x0_of = {
        "x0": (1, 0),
        "epsilon": (1, -1),
        "v": (1, 0),
        "score": (1, -1),
        "edm": (0.5, 0),
        "flow_velocity": (1 / fall, -power),
    }
    on_x0 = {
        "min_snr": (1, 2),
        "soft_min_snr": (1, 2),
        "p2": (1, 2),
        "truncated_snr": (1, 0),
        "edm": (1 / 0.25, 0),  # 1 / c_out^2
        "sigmoid": (fall, 2 + power - 1),
        "flow": (2 / np.pi * fall**2, 2 * power),
    }
    if weighting == "constant":
        return 1.0
    (c, n), (d, m) = on_x0[weighting], x0_of[prediction]
    order = n + 2 * m
    return c * d**2 if abs(order) < 1e-9 else 0.0 if order > 0 else np.inf


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_where_no_signal_is_left_a_weight_is_its_published_limit(name):
    for schedule in ZERO_SNR.values():
        level = noise_level(schedule, jnp.ones(1))
        for prediction, kind in PREDICTIONS.items():
            cost = weighted_penalty(jnp.ones((1, 2)), kind(), level, weighting=WEIGHTINGS[name]())
            expected = published_limit(name, prediction, schedule)
            np.testing.assert_allclose(cost, expected, rtol=1e-3, err_msg=f"{schedule} {prediction}")


def test_the_plain_error_of_every_space_has_its_limit_where_no_signal_is_left():
    """One output error is ``(x0_space / x0_output)^-1`` in another space; its square, or infinite."""
    powers = {"x0": 0, "v": 0, "edm": 0, "epsilon": 1, "score": 1}
    sizes = {"x0": 1.0, "v": 1.0, "edm": 2.0, "epsilon": 1.0, "score": 1.0}
    level = noise_level(ZERO_SNR["linear"], jnp.ones(1))
    for space in powers:
        for prediction in powers:
            kind, order = PREDICTIONS[prediction](), powers[space] - powers[prediction]
            weighting = WEIGHTINGS["constant"](loss_space=space)
            cost = weighted_penalty(jnp.ones((1, 2)), kind, level, weighting=weighting)
            ratio = (sizes[space] / sizes[prediction]) ** 2
            expected = ratio if order == 0 else 0.0 if order > 0 else np.inf
            np.testing.assert_allclose(cost, expected, rtol=1e-5, err_msg=f"{space} {prediction}")


def test_a_weight_without_bound_is_refused_where_its_time_is_drawn():
    schedule, epsilon, v = ZERO_SNR["scaled_linear"], PREDICTIONS["epsilon"](), PREDICTIONS["v"]()
    for sampler in (Uniform(), Uniform(timesteps=1000)):
        check_weight(MinSNR(), epsilon, schedule, sampler)
        check_weight(TruncatedSNR(), v, schedule, sampler)
    check_weight(TruncatedSNR(), epsilon, schedule, Uniform())
    with pytest.raises(UserError, match=r"TruncatedSNR.* infinite at t = 1.*choose the prediction v"):
        check_weight(TruncatedSNR(), epsilon, schedule, Uniform(timesteps=1000))
    check_weight(MinSNR(), v, schedule, Uniform(timesteps=1000), 0.001)
    with pytest.raises(UserError, match=r"vlb_weight = 0.001: at t = 1 .*says nothing of the image"):
        check_weight(MinSNR(), epsilon, schedule, Uniform(timesteps=1000), 0.001)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_finite_over_the_whole_of_training(name):
    """At the noise levels that a network is trained on, the end without signal included where v is
    predicted; the velocity of a flow, SD3's weights along with it, is a flow's.
    """
    schedule = (
        SCHEDULES["rectified_flow"]() if name == "flow" else SCHEDULES["linear"](zero_terminal_snr=True)
    )
    level = noise_level(schedule, jnp.linspace(0.001, 1, 500))
    weighting = WEIGHTINGS[name]()
    cost = weighted_penalty(jnp.ones((len(level.t), 2)), PREDICTIONS["v"](), level, weighting=weighting)
    assert np.isfinite(cost).all() and (cost >= 0).all()
