"""Learning rates by their definitions; the optimizers by their published updates, in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from difflax.training.optimizers import OPTIMIZERS, Adafactor, AdamW, Lion, Muon, at_step


@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_a_constant_rate_is_reached_after_the_warm_up_and_kept(warmup):
    rates = AdamW(learning_rate=3e-4, warmup_steps=warmup, schedule="constant").learning_rates(100)
    given = [float(rates(step)) for step in range(100)]
    np.testing.assert_allclose(given[:warmup], 3e-4 * np.arange(warmup) / max(warmup, 1), rtol=1e-6)
    np.testing.assert_allclose(given[warmup:], 3e-4, rtol=1e-6)


@pytest.mark.parametrize("warmup", [0, 10])
@pytest.mark.parametrize(
    ("schedule", "curve"),
    [
        ("cosine", lambda share: 0.1 + 0.9 * (1 + np.cos(np.pi * share)) / 2),
        ("linear", lambda share: 1 - 0.9 * share),
        ("exponential", lambda share: 0.1**share),
    ],
)
def test_a_schedule_falls_to_its_final_fraction(schedule, curve, warmup):
    settings = AdamW(learning_rate=3e-4, warmup_steps=warmup, schedule=schedule, final_fraction=0.1)
    rates = settings.learning_rates(110)
    share = np.arange(110 - warmup) / (110 - warmup)
    given = [float(rates(step)) for step in range(warmup, 110)]
    np.testing.assert_allclose(given, 3e-4 * curve(share), rtol=1e-5)


W = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
B = np.random.default_rng(1).normal(size=4).astype(np.float32)
GRADIENTS = [
    {"w": rng.normal(size=(6, 4)).astype(np.float32), "b": rng.normal(size=4).astype(np.float32)}
    for rng in map(np.random.default_rng, (2, 3, 4))
]
PLAIN = {"learning_rate": 0.1, "warmup_steps": 0, "schedule": "constant", "clip_norm": None}


def after(optimizer):
    """The parameters after the three gradients."""
    transformation = optimizer.build(10)
    params = {"w": jnp.asarray(W), "b": jnp.asarray(B)}
    state = transformation.init(params)
    for gradient in GRADIENTS:
        updates, state = transformation.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_lion():
    """Chen et al. 2023, program 1."""
    w, m = W.copy(), np.zeros_like(W)
    for gradient in GRADIENTS:
        c = 0.9 * m + 0.1 * gradient["w"]
        w = w - 0.1 * (np.sign(c) + 0.3 * w)
        m = 0.99 * m + 0.01 * gradient["w"]
    params, _ = after(Lion(weight_decay=0.3, **PLAIN))
    np.testing.assert_allclose(params["w"], w, rtol=1e-5)


def test_adafactor():
    """Shazeer & Stern 2018, algorithm 4 without the relative step: factored second moments, clipping of the
    update's root mean square; weight decay decoupled.
    """
    w, rows, columns = W.copy(), np.zeros(6), np.zeros(4)
    for t, gradient in enumerate(GRADIENTS, 1):
        decay = 1 - t**-0.8
        square = gradient["w"].astype(np.float64) ** 2 + 1e-30
        rows = decay * rows + (1 - decay) * square.mean(1)
        columns = decay * columns + (1 - decay) * square.mean(0)
        update = gradient["w"] / np.sqrt(np.outer(rows, columns) / rows.mean())
        update /= max(1, np.sqrt((update**2).mean()))
        w = w - 0.1 * (update + 0.3 * w)
    params, _ = after(Adafactor(weight_decay=0.3, factored_from=2, **PLAIN))
    np.testing.assert_allclose(params["w"], w, rtol=1e-5)


def test_muon_moves_matrices_along_orthogonal_directions():
    """The polar factor of the momentum, from a singular value decomposition, to what five Newton-Schulz steps
    leave: singular values between 0.7 and 1.2 (Jordan et al. 2024).
    """
    transformation = Muon(weight_decay=0.0, **PLAIN).build(10)
    params = {"w": jnp.asarray(W), "b": jnp.asarray(B)}
    updates, _ = transformation.update(GRADIENTS[0], transformation.init(params), params)
    u, _, vt = np.linalg.svd(GRADIENTS[0]["w"], full_matrices=False)
    scale = 0.1 * 0.2 * np.sqrt(6)  # a semi-orthogonal 6 × 4 has a root mean square of 1/sqrt(6)
    values = np.diag(u.T @ -np.asarray(updates["w"]) @ vt.T) / scale
    assert (values > 0.65).all() and (values < 1.25).all()
    rest = u.T @ -np.asarray(updates["w"]) @ vt.T / scale - np.diag(values)
    np.testing.assert_allclose(rest, 0, atol=1e-3)
    # A bias has the first step of Adam with Nesterov's momentum (Dozat 2016, algorithm 2).
    step = 0.9 * 0.1 / (1 - 0.9**2) + 1
    np.testing.assert_allclose(updates["b"], -0.1 * step * np.sign(GRADIENTS[0]["b"]), rtol=1e-4)


@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_moments_in_bfloat16_take_half_the_bytes_and_change_little(name):
    full, state = after(OPTIMIZERS[name](**PLAIN))
    half, small = after(OPTIMIZERS[name](moments="bfloat16", **PLAIN))

    def count(tree):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))

    moment = W.nbytes + B.nbytes
    assert count(state) - count(small) == moment // 2
    if name != "lion":  # a sign may turn
        np.testing.assert_allclose(half["w"], full["w"], rtol=0.05, atol=0.02)


def test_adafactor_keeps_less_state_than_parameters():
    params = {"w": jnp.zeros((256, 512))}
    state = Adafactor().build(10).init(params)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) < 0.01 * 256 * 512


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_schedule_follows_the_step(name):
    """A state that is told its step takes the learning rate of that step, however often it was updated: the
    update is proportional to it.
    """
    made = OPTIMIZERS[name](schedule="linear", warmup_steps=2, clip_norm=None, weight_decay=0.0)
    optimizer, rates = made.build(12), made.learning_rates(12)
    params = {"a": jnp.ones((3, 2)), "b": jnp.ones(3)}
    grads = jax.tree.map(lambda p: p * jnp.arange(1.0, len(p) + 1).reshape(-1, *[1] * (p.ndim - 1)), params)
    state = optimizer.init(params)
    sizes = [
        optax.tree.norm(optimizer.update(grads, at_step(state, jnp.asarray(step)), params)[0])
        for step in (0, 1, 2, 7, 11)
    ]
    expected = np.array([rates(step) for step in (0, 1, 2, 7, 11)])
    assert expected[0] == 0 and expected[2] == made.learning_rate
    np.testing.assert_allclose(np.array(sizes) / sizes[2], expected / expected[2], rtol=1e-5)
    assert jax.tree.structure(at_step(state, jnp.asarray(3))) == jax.tree.structure(state)
