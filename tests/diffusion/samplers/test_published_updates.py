"""Updates written out as their authors publish them, where no scheduler of diffusers has them right."""

import jax
import jax.numpy as jnp
import numpy as np
from difflax.diffusion.samplers import DPMSolver3MSDE, Heun, dpm_solver, edm, sample
from difflax.diffusion.schedules.base import unscheduled_level
from difflax.diffusion.verification.oracles import Mixture

DATA = Mixture()
SIGMAS = np.array([12.0, 6.0, 2.5, 1.1, 0.6, 0.3, 0.1])


def denoised(x, sigma):
    return np.asarray(DATA.denoise(jnp.asarray(x), unscheduled_level(1.0, sigma)).x0)


def run(sampler, x):
    """At alpha = 1, the coordinates of EDM and k-diffusion."""
    levels = jax.tree.map(lambda *a: jnp.stack(a), *(unscheduled_level(1.0, s) for s in (*SIGMAS, 0.0)))
    with jax.disable_jit():
        keys = jax.random.split(jax.random.key(0), len(x))
        return np.asarray(sample(DATA.denoise, sampler, levels, jnp.asarray(x), keys, conditioning=None))


def test_3m_sde_is_k_diffusions(x64, monkeypatch):
    """``sample_dpmpp_3m_sde`` of k-diffusion, eta 1."""
    rng = np.random.default_rng(0)
    x = start = SIGMAS[0] * rng.normal(size=(2, 3))
    noises = rng.normal(size=(len(SIGMAS), 2, 3))
    drawn = iter(noises)
    monkeypatch.setattr(dpm_solver, "step_noise", lambda *_: jnp.asarray(next(drawn)))
    ours = run(DPMSolver3MSDE(published=True), start)

    eta, past = 1.0, []
    for i, sigma in enumerate(SIGMAS):
        d = denoised(x, sigma)
        if i == len(SIGMAS) - 1:
            x = d
            break
        h = np.log(sigma / SIGMAS[i + 1])
        h_eta = h * (eta + 1)
        x = np.exp(-h_eta) * x - np.expm1(-h_eta) * d
        phi_2 = np.expm1(-h_eta) / h_eta + 1
        phi_3 = phi_2 / h_eta - 0.5
        if len(past) == 2:
            (h_1, d_1), (h_2, d_2) = past
            r0, r1 = h_1 / h, h_2 / h
            d1_0, d1_1 = (d - d_1) / r0, (d_1 - d_2) / r1
            d1 = d1_0 + (d1_0 - d1_1) * r0 / (r0 + r1)
            d2 = (d1_0 - d1_1) / (r0 + r1)
            x = x + phi_2 * d1 - phi_3 * d2
        elif past:
            h_1, d_1 = past[0]
            x = x + phi_2 * (d - d_1) / (h_1 / h)
        x = x + noises[i] * SIGMAS[i + 1] * np.sqrt(-np.expm1(-2 * h * eta))
        past = [(h, d), *past][:2]
    np.testing.assert_allclose(ours, x, rtol=1e-9)


def test_stochastic_heun_is_edms_algorithm_2(x64, monkeypatch):
    """Karras et al., algorithm 2: the network is evaluated after the noise is added."""
    rng = np.random.default_rng(1)
    x = start = SIGMAS[0] * rng.normal(size=(2, 3))
    noises = rng.normal(size=(len(SIGMAS), 2, 3))
    drawn = iter(noises)
    monkeypatch.setattr(edm, "normal", lambda *_: jnp.asarray(next(drawn)))
    gamma, low, high, s_noise = 0.2, 0.2, 4.0, 1.02
    ours = run(Heun(churn=gamma, churn_min=low, churn_max=high, churn_noise=s_noise), start)

    for i, sigma in enumerate(SIGMAS):
        following = SIGMAS[i + 1] if i + 1 < len(SIGMAS) else 0.0
        active = gamma if low <= sigma <= high else 0.0
        raised = sigma * (1 + active)
        x = x + np.sqrt(raised**2 - sigma**2) * s_noise * noises[i]
        slope = (x - denoised(x, raised)) / raised
        end = x + (following - raised) * slope
        if following > 0:
            second = (end - denoised(end, following)) / following
            end = x + (following - raised) * (slope + second) / 2
        x = end
    np.testing.assert_allclose(ours, x, rtol=1e-9)
