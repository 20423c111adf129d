"""Every sampler converges with the order that the literature gives it."""

import pytest
from difflax.diffusion.samplers import SAMPLERS
from difflax.diffusion.verification.orders import CLAIMS, TOLERANCE

LONG = (
    *("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_2m (integrated)", "dpmpp_singlestep (order 2)"),
    *("unipc (order 1)", "unipc (order 2, bh1)", "unipc (order 2, no corrector)", "deis (order 2)"),
    *("lms (order 2)", "lms (order 3)", "ddpm (large)", "tcd (gamma 0)", "sa_solver (tau 0, predictor 1)"),
)
"""The slow ones, and the lower orders and other forms of those that stay."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in CLAIMS]
)
def test_the_fitted_slope_is_the_order(x64, name):
    """Log-log slope of the error against exact solutions; of mean and covariance for stochastic samplers."""
    claim = CLAIMS[name]
    assert claim.measured == pytest.approx(claim.order, abs=TOLERANCE)
    assert (claim.errors[1:] < claim.errors[:-1]).all()


def test_every_sampler_with_an_order_has_a_claim():
    """LCM takes no path to the flow's end, and the adaptive pair chooses its own steps."""
    covered = {type(claim.sampler) for claim in CLAIMS.values()}
    assert set(SAMPLERS.values()) - covered == {SAMPLERS["lcm"], SAMPLERS["adaptive"]}
