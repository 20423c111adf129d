"""Every part of a loss trains, and every sampler and guidance samples, under the tests' checks of types.

A signature that is narrower than the registry shows here: the checks refuse what does not fit it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from difflax.core.types import Conditioning
from difflax.diffusion.denoisers import NetworkInput, make_denoiser
from difflax.diffusion.guidance import GUIDANCES, WithWeak
from difflax.diffusion.loss.losses import PENALTIES, MeanSquared
from difflax.diffusion.loss.noises import NOISES
from difflax.diffusion.loss.time_samplers import TIME_SAMPLERS, Shifted, Uniform
from difflax.diffusion.loss.weightings import UNCERTAINTIES, WEIGHTINGS, Constant
from difflax.diffusion.predictions import PREDICTIONS, Epsilon
from difflax.diffusion.samplers import DDPM, SAMPLERS, sample
from difflax.diffusion.schedules import ContinuousCosine
from difflax.diffusion.time_grids import Even, sampling_levels
from difflax.diffusion.time_shift import TimeShift
from difflax.models.autoencoder import AUTOENCODERS
from difflax.models.functional import functional
from difflax.training.ema import EMA
from difflax.training.objectives.denoising import Denoising
from difflax.training.state import init_state
from difflax.training.step import make_train_step
from flax import nnx

ROWS, CONTEXT = 4, jnp.ones((4, 1, 2))
KINDS = {
    "penalty": PENALTIES,
    "weighting": WEIGHTINGS,
    "uncertainty": UNCERTAINTIES,
    "noise": NOISES,
    "prediction_type": PREDICTIONS,
    "time_sampler": TIME_SAMPLERS
    | {"shifted": lambda: Shifted(sampler=Uniform(), shift=TimeShift(shift=3.0))},
}
SCHEDULE = ContinuousCosine()


class Pixelwise(nnx.Module):
    """A linear layer over the channels: a network that compiles in a moment."""

    def __init__(self, outputs, rngs):
        self.proj = nnx.Linear(1, outputs, rngs=rngs)

    def __call__(self, x, time, *conditions, **more):
        return jnp.tanh(self.proj(x))


PLAIN, WITH_VARIANCE = (functional(lambda rngs, n=n: Pixelwise(n, rngs)) for n in (1, 2))


def objective(model=PLAIN, **options):
    settings = {
        "prediction_type": PREDICTIONS["v"](),
        "time_sampler": Uniform(),
        "weighting": Constant(),
        "penalty": MeanSquared(),
        **options,
    }
    return Denoising(
        model=model,
        autoencoder=AUTOENCODERS["identity"](channels=1),
        schedule=SCHEDULE,
        network_input=NetworkInput(),
        caption_dropout=0.1,
        null=Conditioning(context=CONTEXT[:1]),
        **settings,
    )


def trained(made, steps=3):
    """The losses of some steps, and the state after them."""
    images = np.random.default_rng(0).integers(0, 256, (ROWS, 4, 4, 1), np.uint8)
    batch = {"image": jnp.asarray(images), "conditioning": Conditioning(context=CONTEXT)}
    optimizer = optax.sgd(1e-3)
    state = init_state(made.init(jax.random.key(0)), optimizer, made.begin())
    step = jax.jit(make_train_step(made, optimizer, EMA(decay=0.9), seed=0))
    losses = []
    for _ in range(steps):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return losses, state


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, names in KINDS.items() for name in names])
def test_every_part_of_a_loss_trains(part, name):
    losses, state = trained(objective(**{part: KINDS[part][name]()}))
    assert np.all(np.isfinite(losses)) and int(state.skipped["total"]) == 0
    assert np.abs(state.params["proj"]["kernel"]).max() > 0


def test_a_variance_trains_by_the_bound_alone():
    """Its bias moves by the bound; without one, what the network says of its variance is not read."""
    moved = {}
    for weight in (0.0, 1e-3):
        made = objective(WITH_VARIANCE, prediction_type=Epsilon(), vlb_weight=weight)
        losses, state = trained(made)
        assert np.all(np.isfinite(losses))
        moved[weight] = float(jnp.abs(state.params["proj"]["bias"][1]))
    assert moved[0.0] == 0 < moved[1e-3]


def drawing(sampler, guidance, model):
    """A program that draws two images in a guided run of ten steps, and where it starts."""
    params = model.init(jax.random.key(0))
    denoise = make_denoiser(model.module(params), SCHEDULE, Epsilon())
    worse = model.module(jax.tree.map(lambda a: 0.5 * a, params))
    weak = make_denoiser(worse, SCHEDULE, Epsilon())
    levels = sampling_levels(SCHEDULE, Even(t_max=0.95), 10)
    condition = Conditioning(context=CONTEXT[:2], image=jnp.zeros((2, 4, 4, 1)))
    told = guidance.arrange([condition] * guidance.prompts, condition)
    keys = jax.random.split(jax.random.key(1), 2)
    start = jax.random.normal(jax.random.key(2), (2, 4, 4, 1))
    guidance = guidance.resolve(SCHEDULE, levels)

    def run(x):
        return sample(guidance.wrap(WithWeak(denoise, weak)), sampler, levels, x, keys, conditioning=told)

    return run, start


def drawn(sampler, guidance, model):
    """The two images."""
    run, start = drawing(sampler, guidance, model)
    return np.asarray(jax.jit(run)(start))


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_takes_a_network_that_predicts_a_variance(name):
    """Its types are checked as the program is traced; some are compiled too."""
    run, start = drawing(SAMPLERS[name](), GUIDANCES["cfg"](2.0), WITH_VARIANCE)
    assert jax.eval_shape(run, start).shape == start.shape
    if name in ("ddpm", "dpmpp_2m_sde", "unipc", "adaptive"):
        assert np.all(np.isfinite(jax.jit(run)(start)))


@pytest.mark.parametrize("name", GUIDANCES)
def test_every_guidance_passes_a_learned_variance_on(name):
    made = drawn(DDPM(variance="learned_range"), GUIDANCES[name](), WITH_VARIANCE)
    assert np.all(np.isfinite(made))
