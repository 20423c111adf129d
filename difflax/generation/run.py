"""The programs that a pipeline compiles: noise to latents, and pictures to latents and back."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Integer

from difflax.core import streams
from difflax.core.types import Params
from difflax.diffusion.denoisers import NetworkInput, make_denoiser, time_of
from difflax.diffusion.guidance import Guidance, Guided, Prompts, TwoConditions
from difflax.diffusion.predictions import PredictionType
from difflax.diffusion.samplers.base import Sampler, sample
from difflax.diffusion.samplers.inpaint import Inpaint
from difflax.diffusion.schedules import NoiseLevel, NoiseSchedule, add_noise, noise_level
from difflax.generation.request import Begins
from difflax.models.autoencoder import Autoencoder
from difflax.models.functional import Functional, conditional_network
from difflax.models.perturbation import Perturbation


@dataclasses.dataclass(frozen=True)
class WeakModel:
    """The worse model of autoguidance and perturbation guidance.

    Attributes:
        model: another network, ``None`` for the pipeline's own with its own parameters.
        perturbation: of that network.
    """

    model: Functional | None = None
    perturbation: Perturbation | None = None


@functools.partial(jax.jit, static_argnums=(*range(9), 12, 14))
def sample_batch(
    model: Functional,
    schedule: NoiseSchedule,
    prediction_type: PredictionType,
    network_input: NetworkInput,
    sampler: Sampler,
    shape: tuple[int, int, int],
    unit_start: bool,
    begins: Begins,
    trajectory: bool,
    params: Params,
    levels: NoiseLevel,
    guidance: Guidance,
    weak: WeakModel | None,
    weak_params: Params | None,
    mesh: Mesh,
    seeds: Integer[Array, " b"],
    conditioning: Guided | Prompts | TwoConditions,
    noise: Float[Array, "b lh lw lc"] | None,
    known: Float[Array, "b lh lw lc"] | None,
    mask: Float[Array, "b lh lw 1"] | None,
) -> tuple[Array, Array | None]:
    """One batch of latents; scale, prompts, seeds and the number of steps are traced or padded, and compile
    nothing.
    """
    keys = jax.vmap(lambda seed: streams.stream(seed, "sample"))(seeds)
    denoise = make_denoiser(
        conditional_network(model), params, schedule, prediction_type, network_input=network_input
    )
    worse = None
    if weak is not None:
        network = conditional_network(weak.model or model, weak.perturbation)
        worse = make_denoiser(network, weak_params, schedule, prediction_type, network_input=network_input)
    if noise is None:
        noise = streams.normal(streams.substream(keys, "init"), shape)
    first = levels[0]
    if begins == "image":
        x_init = add_noise(known, noise, first)
    elif begins == "latents":
        x_init = noise / length_on_path(schedule, first)
    else:
        x_init = (jnp.hypot(first.alpha, first.sigma) if unit_start else first.sigma) * noise
    if mask is not None:
        sampler = Inpaint(sampler=sampler, known=known, mask=1 - mask)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        made = sample(
            guidance.wrap(denoise, worse),
            sampler,
            levels,
            x_init.astype(jnp.float32),
            streams.substream(keys, "steps"),
            conditioning=conditioning,
            return_trajectory=trajectory,
        )
    return made if trajectory else (made, None)


def length_on_path(schedule: NoiseSchedule, level: NoiseLevel) -> Float[Array, ""]:
    """What turns latents at ``level`` into those of the schedule's own path."""
    own = noise_level(schedule, time_of(schedule, level))
    return jnp.hypot(own.alpha, own.sigma) / jnp.hypot(level.alpha, level.sigma)


@functools.partial(jax.jit, static_argnums=0)
def decode(
    autoencoder: Autoencoder, params: Params, latents: Float[Array, "b lh lw lc"]
) -> Float[Array, "b h w c"]:
    return jnp.clip(autoencoder.decode(params, latents) / 2 + 0.5, 0, 1)
