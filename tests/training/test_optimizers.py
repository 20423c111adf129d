"""Learning rates: the rise, the plateau and the decay, by their definitions."""

import numpy as np
import pytest
from difflax.training.optimizers import AdamW


@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_a_constant_rate_is_reached_after_the_warm_up_and_kept(warmup):
    rates = AdamW(learning_rate=3e-4, warmup_steps=warmup, schedule="constant").learning_rates(100)
    given = [float(rates(step)) for step in range(100)]
    np.testing.assert_allclose(given[:warmup], 3e-4 * np.arange(warmup) / max(warmup, 1), rtol=1e-6)
    np.testing.assert_allclose(given[warmup:], 3e-4, rtol=1e-6)


@pytest.mark.parametrize("warmup", [0, 10])
def test_a_cosine_falls_to_its_final_fraction(warmup):
    rates = AdamW(learning_rate=3e-4, warmup_steps=warmup, final_fraction=0.1).learning_rates(110)
    share = np.arange(110 - warmup) / (110 - warmup)
    expected = 3e-4 * (0.1 + 0.9 * (1 + np.cos(np.pi * share)) / 2)
    np.testing.assert_allclose([float(rates(step)) for step in range(warmup, 110)], expected, rtol=1e-5)
