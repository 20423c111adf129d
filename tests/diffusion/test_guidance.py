"""Guidance: affine, composable, traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.diffusion.denoisers import make_denoiser
from difflax.diffusion.guidance import ClassifierFreeGuidance, Guided, NoGuidance
from difflax.diffusion.predictions import PREDICTIONS
from difflax.diffusion.schedules import SCHEDULES, noise_level
from difflax.evaluation.oracles import Gaussian
from difflax.types import Conditioning

from tests.diffusion.networks import as_network

X = jax.random.normal(jax.random.key(0), (4, 3))
COND = Conditioning(pooled=jnp.full((4, 3), 0.7))
NULL = Conditioning(pooled=jnp.full((4, 3), -0.2))
BOTH = Guided(COND, NULL)


class Conditioned(Gaussian):
    """A Gaussian whose mean is the condition."""

    def network(self, schedule, kind):
        def network(params, x, time, conditioning):
            return as_network(Gaussian(mean=conditioning.pooled), schedule, kind)(
                params, x, time, conditioning
            )

        return network


def denoiser(kind="v", schedule="cosine"):
    kind, schedule = PREDICTIONS[kind](), SCHEDULES[schedule]()
    return make_denoiser(Conditioned().network(schedule, kind), {}, schedule, kind), noise_level(
        schedule, 0.6
    )


def test_scale_one_is_the_conditional_and_zero_the_unconditional():
    denoise, level = denoiser()
    at = lambda scale: ClassifierFreeGuidance(scale).wrap(denoise)(X, level, BOTH)  # noqa: E731
    np.testing.assert_allclose(at(1.0).x0, denoise(X, level, COND).x0, atol=1e-6)
    np.testing.assert_allclose(at(0.0).eps, denoise(X, level, NULL).eps, atol=1e-6)
    np.testing.assert_allclose(at(1.0).x0, NoGuidance().wrap(denoise)(X, level, BOTH).x0, atol=1e-6)
    middle = (denoise(X, level, COND).x0 + denoise(X, level, NULL).x0) / 2
    np.testing.assert_allclose(at(0.5).x0, middle, atol=1e-6)


def test_the_result_does_not_depend_on_the_prediction_type(x64):
    results = []
    for kind in PREDICTIONS:
        denoise, level = denoiser(kind)
        results.append(ClassifierFreeGuidance(4.0).wrap(denoise)(X.astype(float), level, BOTH).x0)
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=1e-9)


def test_a_new_scale_does_not_compile_again():
    denoise, level = denoiser()
    traces = []

    @jax.jit
    def evaluate(guidance):
        traces.append(1)
        return guidance.wrap(denoise)(X, level, BOTH).x0

    for scale in (0.0, 1.0, 7.5, -2.0):
        evaluate(ClassifierFreeGuidance(scale))
    assert len(traces) == 1


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_that_is_no_number_is_refused(scale):
    with pytest.raises(ValueError, match="finite"):
        ClassifierFreeGuidance(scale)
