"""The compiled programs: noise to latents, and images to latents and back."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Integer

from difflax.core import streams
from difflax.core.types import Conditioning, Params
from difflax.diffusion.denoisers import Denoiser, NetworkInput, WithWeak, make_denoiser, time_of
from difflax.diffusion.guidance import Guidance
from difflax.diffusion.inversion import invert
from difflax.diffusion.predictions import PredictionType
from difflax.diffusion.samplers.base import Sampler, sample
from difflax.diffusion.samplers.inpaint import Inpaint, InpaintOneNoise
from difflax.diffusion.schedules import NoiseLevel, NoiseSchedule, add_noise, noise_level
from difflax.generation.rows import Begins
from difflax.models.autoencoder import Autoencoder
from difflax.models.functional import Functional
from difflax.models.perturbation import Perturbation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What the compiled program of a run depends on beside its arrays' shapes.

    Attributes:
        weak_network, perturbation: of the worse model that a guidance goes away from.
        shape: of one latent.
        begins, trajectory: see `Rows` and `Request`.
        known_noise: see `RunOptions`.
    """

    network: Functional
    weak_network: Functional | None
    perturbation: Perturbation | None
    schedule: NoiseSchedule
    prediction_type: PredictionType
    network_input: NetworkInput
    sampler: Sampler
    shape: tuple[int, int, int]
    unit_start: bool
    begins: Begins
    trajectory: bool
    known_noise: Literal["fresh", "start"]
    mesh: Mesh

    def denoiser(
        self, network: Functional, params: Params, perturbation: Perturbation | None = None
    ) -> Denoiser:
        """The denoiser of one of the networks."""
        module = network.module(params, perturbation)
        return make_denoiser(module, self.schedule, self.prediction_type, network_input=self.network_input)


@flax.struct.dataclass
class Shared:
    """Arrays that all images of a run share; ``levels`` are padded, the guidance's strengths are arrays."""

    params: Params
    weak_params: Params | None
    levels: NoiseLevel
    guidance: Guidance


@flax.struct.dataclass
class Each:
    """Arrays with one row an image.

    Attributes:
        conditioning: as the guidance reads it.
        source: what is told of the picture that is inverted.
        noise: instead of the seeds'.
        known, mask: the latents of the picture, and where the run makes them anew.
        scale: of the guidance, where each image has its own.
    """

    seeds: Integer[Array | np.ndarray, " b"]
    conditioning: Any
    source: Conditioning | None = None
    noise: Float[Array, "b lh lw lc"] | None = None
    known: Float[Array, "b lh lw lc"] | None = None
    mask: Float[Array | np.ndarray, "b lh lw 1"] | None = None
    scale: Float[Array | np.ndarray, " b"] | None = None


@functools.partial(jax.jit, static_argnums=0)
def sample_batch(program: Program, shared: Shared, each: Each) -> tuple[Array, Array | None]:
    """One batch of latents, and with ``trajectory`` the estimates of every step; scale, prompts, seeds and
    the number of steps are traced or padded, and compile nothing.
    """
    keys = jax.vmap(lambda seed: streams.stream(seed, "sample"))(each.seeds)
    denoise = plain = program.denoiser(program.network, shared.params)
    if program.weak_network is not None:
        weak = program.denoiser(program.weak_network, shared.weak_params, program.perturbation)
        denoise = WithWeak(denoise, weak)
    x_init = STARTS[program.begins](program, shared.levels, each, keys, plain)
    guidance = shared.guidance if each.scale is None else shared.guidance.with_scale(each.scale)
    sampler, finish = program.sampler, lambda latents: latents
    if each.mask is not None:
        sampler, finish = INPAINTING[program.known_noise](program, each, keys)
    with jax.sharding.use_abstract_mesh(program.mesh.abstract_mesh):
        made = sample(
            guidance.wrap(denoise),
            sampler,
            shared.levels,
            x_init.astype(jnp.float32),
            streams.substream(keys, "steps"),
            conditioning=each.conditioning,
            return_trajectory=program.trajectory,
        )
    latents, estimates = made if program.trajectory else (made, None)
    return finish(latents), estimates


def _fresh(program: Program, each: Each, keys: Array) -> tuple[Sampler, Callable[[Array], Array]]:
    return Inpaint(sampler=program.sampler, known=each.known, mask=1 - each.mask), lambda latents: latents


def _start(program: Program, each: Each, keys: Array) -> tuple[Sampler, Callable[[Array], Array]]:
    noise = _noise(program, each, keys)
    sampler = InpaintOneNoise(sampler=program.sampler, known=each.known, mask=1 - each.mask, noise=noise)
    return sampler, sampler.finished


INPAINTING = {"fresh": _fresh, "start": _start}
"""What steps where a part is kept, and what it makes of the last image, by ``known_noise``."""


def _from_noise(program: Program, levels: NoiseLevel, each: Each, keys: Array, denoise: Denoiser) -> Array:
    first = levels[0]
    length = jnp.hypot(first.alpha, first.sigma) if program.unit_start else first.sigma
    return length * _noise(program, each, keys)


def _from_image(program: Program, levels: NoiseLevel, each: Each, keys: Array, denoise: Denoiser) -> Array:
    return add_noise(each.known, _noise(program, each, keys), levels[0])


def _inverted(program: Program, levels: NoiseLevel, each: Each, keys: Array, denoise: Denoiser) -> Array:
    return invert(denoise, levels, each.known, conditioning=each.source)


def _handed_over(program: Program, levels: NoiseLevel, each: Each, keys: Array, denoise: Denoiser) -> Array:
    return each.noise / length_on_path(program.schedule, levels[0])


def _noise(program: Program, each: Each, keys: Array) -> Array:
    """That of a request, or that of its seeds."""
    if each.noise is not None:
        return each.noise
    return streams.normal(streams.substream(keys, "init"), program.shape)


STARTS: dict[Begins, Callable[..., Array]] = {
    "noise": _from_noise,
    "image": _from_image,
    "inversion": _inverted,
    "latents": _handed_over,
}
"""Where a run starts, at its first level, by what it begins with."""


def length_on_path(schedule: NoiseSchedule, level: NoiseLevel) -> Float[Array, ""]:
    """What turns latents at ``level`` into those of the schedule's own path."""
    own = noise_level(schedule, time_of(schedule, level))
    return jnp.hypot(own.alpha, own.sigma) / jnp.hypot(level.alpha, level.sigma)


@functools.partial(jax.jit, static_argnums=0)
def decode(
    autoencoder: Autoencoder, params: Params, latents: Float[Array, "*s b lh lw lc"]
) -> Float[Array, "*s b h w c"]:
    """Images in [0, 1] of latents; of several steps one after the other."""
    if latents.ndim > 4:
        return jax.vmap(functools.partial(decode, autoencoder, params))(latents)
    return jnp.clip(autoencoder.decode(params, latents) / 2 + 0.5, 0, 1)
