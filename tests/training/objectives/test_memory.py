"""What a loss carries along from step to step: trained, remembered, and taken up again exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from difflax.core.types import Conditioning
from difflax.diffusion.denoisers import NetworkInput
from difflax.diffusion.loss.losses import MeanSquared
from difflax.diffusion.loss.noises import Offset, Paired
from difflax.diffusion.loss.time_samplers import LossAwareTimes, RunningLoss, Uniform
from difflax.diffusion.loss.weightings import Constant, LearnedUncertainty, NoUncertainty
from difflax.diffusion.predictions import V
from difflax.diffusion.schedules import ContinuousCosine
from difflax.models.autoencoder import AUTOENCODERS
from difflax.models.functional import functional
from difflax.models.unet import UNet2DConditionModel
from difflax.training.ema import EMA
from difflax.training.objectives.base import network_params
from difflax.training.objectives.denoising import LOSS_PARAMS, Denoising
from difflax.training.runtime.checkpoints import Checkpoints
from difflax.training.state import init_state
from difflax.training.step import make_train_step


def unet(**options):
    settings = {
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (4,),
        "down_block_types": ("DownBlock2D",),
        "mid_block_type": None,
        "up_block_types": ("UpBlock2D",),
        "layers_per_block": 1,
        "cross_attention_dim": 2,
        "norm_num_groups": 2,
    }
    return functional(lambda rngs: UNet2DConditionModel(**settings | options, rngs=rngs))


MODEL = unet()
ROWS = 8
CONTEXT = Conditioning(context=jnp.zeros((ROWS, 1, 2)))


def objective(**options):
    settings = {"model": MODEL, "time_sampler": Uniform(), "uncertainty": NoUncertainty(), **options}
    return Denoising(
        autoencoder=AUTOENCODERS["identity"](channels=1),
        schedule=ContinuousCosine(),
        prediction_type=V(),
        weighting=Constant(),
        penalty=MeanSquared(),
        network_input=NetworkInput(),
        caption_dropout=0.1,
        null=Conditioning(context=jnp.zeros((1, 1, 2))),
        **{"noise": Paired(), **settings},
    )


def batch(step):
    images = np.random.default_rng(step).integers(0, 256, (ROWS, 4, 4, 1), np.uint8)
    mask = np.zeros((ROWS, 4, 4, 1), np.uint8)
    mask[:, :, :2] = 255
    return {"image": jnp.asarray(images), "conditioning": CONTEXT, "mask": jnp.asarray(mask)}


PARTS = {
    "running loss": {"time_sampler": RunningLoss(bins=2)},
    "learned uncertainty": {"uncertainty": LearnedUncertainty(features=8), "masked": True},
    "dropout": {"model": unet(dropout=0.9)},
}
TOGETHER = {name: value for options in PARTS.values() for name, value in options.items()}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(TOGETHER, id="all together"),
        *(pytest.param(options, id=name, marks=pytest.mark.slow) for name, options in PARTS.items()),
    ],
)
def test_a_stopped_run_goes_on_bit_for_bit(options, tmp_path):
    made, optimizer = objective(**options), optax.adam(1e-2)
    step = jax.jit(make_train_step(made, optimizer, EMA(decay=0.9), seed=3))
    first = init_state(made.init(jax.random.key(0)), optimizer, made.begin())
    state = first
    for i in range(4):
        state, _ = step(state, batch(i))
        if i == 1:
            checkpoints = Checkpoints(tmp_path / "checkpoints")
            checkpoints.save(2, state, {}, {}, {})
            checkpoints.close()
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    resumed, _ = checkpoints.restore(jax.eval_shape(lambda: first))
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    plain = checkpoints.restore_params(MODEL.abstract())
    checkpoints.close()
    assert jax.tree.structure(plain) == jax.tree.structure(network_params(first.params))
    for i in (2, 3):
        resumed, _ = step(resumed, batch(i))
    jax.tree.map(np.testing.assert_array_equal, resumed, state)
    for leaf in jax.tree.leaves((state.memory, state.params.get(LOSS_PARAMS))):
        assert np.abs(leaf).max() > 0


def test_dropout_is_of_training_and_new_at_every_step():
    """Its share changes what is learned, a key is one mask, and without a key nothing is dropped."""
    optimizer, learned = optax.sgd(1e-2), {}
    for rate in (0.0, 0.9):
        made = objective(model=unet(dropout=rate))
        start = made.init(jax.random.key(0))
        # Away from the start, where every block is its shortcut.
        start = jax.tree.map(lambda a: a + 0.1, start)
        state = init_state(start, optimizer, made.begin())
        step = jax.jit(make_train_step(made, optimizer, EMA(decay=0.9), seed=3))
        for i in range(2):
            state, _ = step(state, batch(i))
        learned[rate] = state.params["conv_in"]["kernel"]
    assert np.abs(learned[0.9] - learned[0.0]).max() > 1e-6
    losses = [made.loss(start, batch(0), jax.random.key(k))[0] for k in (0, 0)]
    np.testing.assert_array_equal(*losses)
    x, t, conditioning = jnp.ones((ROWS, 4, 4, 1)), jnp.full(ROWS, 500.0), CONTEXT
    network = made.model.apply
    plain = network(start, x, t, conditioning)
    np.testing.assert_array_equal(plain, MODEL.apply(start, x, t, conditioning))
    one, other = (network(start, x, t, conditioning, dropout_key=jax.random.key(k)) for k in (0, 1))
    assert np.abs(one - other).max() > 1e-4


def test_importance_sampling_keeps_the_expectation_and_favours_the_loss():
    """Nichol & Dhariwal, section 3.3: bins in proportion to the root of the mean squared loss, the loss over
    the density; its mean is that of uniform t.
    """
    times = RunningLoss(bins=8, decay=0.0).begin()
    t = (jnp.arange(8) + 0.5) / 8
    loss = jnp.linspace(0.2, 3.0, 8)
    times = times.update(t, loss)
    share = np.asarray(loss) / np.asarray(loss).sum()
    np.testing.assert_allclose(times.density, 0.999 * share + 0.001 / 8, rtol=1e-5)
    u = (jnp.arange(20_000) + 0.5) / 20_000
    drawn = times.quantile(u, ContinuousCosine())
    counts = np.histogram(np.asarray(drawn), 8, (0, 1))[0] / 20_000
    np.testing.assert_allclose(counts, times.density, atol=2e-4)
    for f in (lambda t: t**2, lambda t: jnp.cos(5 * t)):
        expected = np.mean(f((np.arange(100_000) + 0.5) / 100_000))
        np.testing.assert_allclose((times.factor(drawn) * f(drawn)).mean(), expected, rtol=2e-3)


def test_running_means_are_those_of_each_bin():
    times = RunningLoss(bins=2, decay=0.5).begin()
    np.testing.assert_allclose(times.density, 0.5)
    times = times.update(jnp.asarray([0.1, 0.2]), jnp.asarray([1.0, 3.0]))
    np.testing.assert_allclose(times.density, 0.5)  # a bin was not seen yet
    times = times.update(jnp.asarray([0.3, 0.9]), jnp.asarray([1.0, 2.0]))
    np.testing.assert_allclose(times.squares, [0.5 * 5 + 0.5 * 1, 4.0])
    np.testing.assert_allclose(times.counts, [3, 1])


def test_the_objective_advances_with_the_losses_that_it_gave():
    """The memory sees the loss at the drawn times without the density's factor."""
    made = objective(time_sampler=RunningLoss(bins=4, decay=0.0))
    memory = LossAwareTimes(jnp.asarray([1.0, 4.0, 9.0, 16.0]), jnp.ones(4), decay=0.0)
    params, key = made.init(jax.random.key(0)), jax.random.key(5)
    losses, _ = made.loss(params, batch(0), key, memory)
    *_, t = made._times(key, ROWS, memory)
    raw = np.asarray(losses / memory.factor(t))
    after = made.advance(memory, losses, key)
    for i in range(4):
        inside = np.floor(np.asarray(t) * 4) == i
        if inside.any():
            np.testing.assert_allclose(after.squares[i], (raw[inside] ** 2).mean(), rtol=1e-5)


def test_what_the_mask_leaves_out_costs_nothing():
    """The gradient of the loss in the network's last bias is the mean error over the masked pixels alone."""
    whole, masked = objective(), objective(masked=True)
    params, key = whole.init(jax.random.key(0)), jax.random.key(5)
    data = batch(0)
    all_ones = {**data, "mask": jnp.full_like(data["mask"], 255)}
    plain = whole.loss(params, data, key)[0]
    np.testing.assert_allclose(masked.loss(params, all_ones, key)[0], plain, rtol=1e-5)
    left = masked.loss(params, data, key)[0]
    right = masked.loss(params, {**data, "mask": 255 - data["mask"]}, key)[0]
    np.testing.assert_allclose((left + right) / 2, plain, rtol=1e-5)
    assert np.abs(left - right).max() > 1e-3


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"noise": Offset()}, id="plain", marks=pytest.mark.slow),
        pytest.param(
            {
                "noise": Offset(),
                "time_sampler": Uniform(stratified=True),
                "uncertainty": LearnedUncertainty(),
            },
            id="stratified",
        ),
        pytest.param(
            {"noise": Offset(), "time_sampler": RunningLoss(bins=2, stratified=True)},
            id="memory",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_parts_of_a_batch_are_the_step_of_the_whole(options):
    """The same noise, times and dropped captions: after two steps all of the state is the same, to rounding;
    by plain SGD, so that nothing hides the size of a gradient.
    """
    made = objective(**options)
    images = np.random.default_rng(0).integers(0, 255, (ROWS, 4, 4, 1), np.uint8)
    told = jax.random.normal(jax.random.key(1), CONTEXT.context.shape)
    batch = {"image": images, "conditioning": Conditioning(context=told)}
    ends = []
    for parts in (1, 4):
        state = init_state(made.init(jax.random.key(0)), optax.sgd(0.1), made.begin())
        step = jax.jit(make_train_step(made, optax.sgd(0.1), EMA(), 0, accumulate=parts))
        for _ in range(2):
            state, metrics = step(state, batch)
        ends.append((state, metrics))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), *ends)
