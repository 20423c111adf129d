"""Prompts in, images out: the one place that joins text encoder, denoiser, guidance, sampler and decoder."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from difflax import streams
from difflax.diffusion.denoisers import NetworkInput, make_denoiser
from difflax.diffusion.guidance import Guidance, Guided, Prompts
from difflax.diffusion.predictions import PredictionType
from difflax.diffusion.run_options import RunOptions
from difflax.diffusion.samplers.base import Sampler, initial_noise, sample
from difflax.diffusion.schedules import NoiseLevel, NoiseSchedule
from difflax.diffusion.time_grids import TimeGrid, pad_levels
from difflax.models.autoencoder import Codec
from difflax.models.functional import Functional, conditional_network
from difflax.models.perturbation import Perturbation
from difflax.text.encoders import TextEncoder
from difflax.types import Conditioning, Params, UserError

STEPS_COMPILED = 50
"""Runs are compiled for whole multiples of this many steps, so that other step counts compile nothing."""


@dataclasses.dataclass(frozen=True)
class Denoised:
    """Images with the estimates that led to them.

    Attributes:
        images: float32 [b, h, w, c] in [0, 1].
        estimates: the decoded estimate of x0 that every step made, [steps, b, h, w, c] in [0, 1].
        log_snr: of the level that each step started from, [steps].
    """

    images: Float[np.ndarray, "b h w c"]
    estimates: Float[np.ndarray, "steps b h w c"]
    log_snr: Float[np.ndarray, " steps"]


@dataclasses.dataclass(frozen=True)
class WeakModel:
    """The worse model of autoguidance and perturbation guidance.

    Attributes:
        model: another network, ``None`` for the pipeline's own with its own parameters.
        perturbation: of that network.
    """

    model: Functional | None = None
    perturbation: Perturbation | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A trained model with all that it takes to make images of prompts.

    Attributes:
        params: of ``model``.
        text_encoder: prompts to ``Conditioning``.
        null: the condition that training put in place of dropped captions, one row: the negative where no
            negative prompt is given.
        sampler, time_grid, num_steps, guidance: the defaults of a call. ``guidance`` has a ``scale`` field.
        options: what a run does with its time grid.
        weak, weak_params: the worse model for guidances that need one, and its parameters.
        height, width: of the images, in pixels, unless a call says otherwise.
        batch_size: the most images in one call of the network's program; smaller requests are filled up to a
            power of two, so that few programs are ever compiled.
        step: of training that the parameters come from.
    """

    model: Functional
    params: Params
    codec: Codec
    schedule: NoiseSchedule
    prediction_type: PredictionType
    network_input: NetworkInput
    text_encoder: TextEncoder
    null: Conditioning
    samplers: dict[str, Sampler]
    sampler: Sampler
    time_grid: TimeGrid
    num_steps: int
    guidance: Guidance
    options: RunOptions = dataclasses.field(default_factory=RunOptions)
    weak: WeakModel | None = None
    weak_params: Params | None = None
    height: int
    width: int
    batch_size: int = 64
    step: int = 0

    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        guidance_scale: float | int | None = None,
        num_steps: int | None = None,
        sampler: str | Sampler | None = None,
        seed: int | Sequence[int] = 0,
        latents: Float[Array | np.ndarray, "b lh lw lc"] | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> Float[np.ndarray, "b h w c"]:
        """Images of ``b`` prompts, float32 [b, height, width, channels] in [0, 1].

        An image depends on its own prompt, negative prompt and seed alone.

        Args:
            negative_prompt: one for all, or one each; ``None``: the condition of dropped captions.
            guidance_scale: ``uncond + s (cond - uncond)``: 1 is off, 0 unconditional; any real number.
            num_steps: of the sampler.
            sampler: a name or a sampler.
            seed: one for all, or one each.
            latents: the noise to start from, unit variance, instead of the seed's.

        Raises:
            UserError: for an empty list of prompts, lists of different lengths, or a value out of range.
        """
        return self._generate(
            prompt,
            negative_prompt,
            guidance_scale,
            num_steps,
            sampler,
            seed,
            latents,
            height,
            width,
            trajectory=False,
        )[0]

    def trajectory(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        guidance_scale: float | int | None = None,
        num_steps: int | None = None,
        sampler: str | Sampler | None = None,
        seed: int | Sequence[int] = 0,
    ) -> Denoised:
        """The images of a call with every step's estimate of them; arguments as there."""
        images, estimates = self._generate(
            prompt,
            negative_prompt,
            guidance_scale,
            num_steps,
            sampler,
            seed,
            None,
            None,
            None,
            trajectory=True,
        )
        levels = self.levels(self.num_steps if num_steps is None else num_steps)
        return Denoised(images, estimates, np.asarray(levels.log_snr[:-1]))

    def levels(self, num_steps: int) -> NoiseLevel:
        """The noise levels of a run.

        Raises:
            UserError: for a number of steps that the time grid cannot make.
        """
        try:
            return self.options.levels(self.schedule, self.time_grid, num_steps, self.prediction_type)
        except ValueError as error:
            raise UserError(f"num_steps={num_steps}: {error}") from error

    def with_guidance_scale(self, scale: float | int | None) -> Guidance:
        """The default guidance, at ``scale`` if one is given."""
        if scale is None:
            return self.guidance
        if not np.isfinite(scale):
            raise UserError(f"guidance_scale={scale}: give a finite number")
        try:
            return self.guidance.with_scale(float(scale))
        except ValueError as error:
            raise UserError(f"guidance_scale={scale}: {error}") from error

    def guidance_of_run(self, scale: float | None, levels: NoiseLevel) -> Guidance:
        """The guidance of a run over ``levels``, its strengths as arrays.

        Raises:
            UserError: for a scale that is no number, or a guidance that does not fit the run's steps.
        """
        try:
            guidance = self.with_guidance_scale(scale).resolve(self.schedule, levels)
        except ValueError as error:
            raise UserError(f"guidance: {error}") from error
        return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), guidance)

    def _sampler(self, sampler: str | Sampler | None) -> Sampler:
        if sampler is None:
            return self.sampler
        if isinstance(sampler, str):
            if sampler not in self.samplers:
                raise UserError(f"sampler={sampler!r}: choose from {', '.join(sorted(self.samplers))}")
            return self.samplers[sampler]
        return sampler

    def _condition(self, prompts: Sequence[str]) -> Conditioning:
        """What the network is told of each prompt, in the fields that it was trained with; equal prompts are
        encoded once.
        """
        unique = list(dict.fromkeys(prompts))
        rows = np.asarray([unique.index(prompt) for prompt in prompts])
        # Filled up to whole batches, as the encoder would: another number of prompts compiles nothing.
        filling = [""] * (-len(unique) % self.text_encoder.batch_size)
        encoded = self.text_encoder.encode(unique + filling)
        if self.null.pooled is None:
            encoded = dataclasses.replace(encoded, pooled=None)
        return jax.tree.map(lambda a: a[rows], encoded)

    def _conditioning(self, prompts: Sequence[str], negative: Conditioning) -> Guided | Prompts:
        """What a guidance goes towards and away from; a composition's prompts are joined by "AND"."""
        needed = self.guidance.prompts
        if needed == 1:
            return Guided(positive=self._condition(prompts), negative=negative)
        parts = [prompt.split(" AND ") for prompt in prompts]
        for prompt, found in zip(prompts, parts, strict=True):
            if len(found) != needed:
                raise UserError(
                    f"prompt {prompt!r}: {needed} prompts joined by ' AND ' are needed, one for each weight"
                    " of the guidance"
                )
        return Prompts(tuple(self._condition(column) for column in zip(*parts, strict=True)), negative)

    def _generate(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None,
        guidance_scale: float | int | None,
        num_steps: int | None,
        sampler: str | Sampler | None,
        seed: int | Sequence[int],
        latents: Any,
        height: int | None,
        width: int | None,
        *,
        trajectory: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise UserError("prompt: the list of prompts is empty, give at least one")
        count = len(prompts)
        seeds = np.asarray(_each(seed, count, "seed"), np.uint32)
        levels = self.levels(self.num_steps if num_steps is None else num_steps)
        steps = levels.t.shape[0] - 1
        padded = (
            levels if trajectory else pad_levels(levels, -(-steps // STEPS_COMPILED) * STEPS_COMPILED + 1)
        )
        shape = self.codec.latent_shape(height or self.height, width or self.width)
        if latents is not None and tuple(latents.shape) != (count, *shape):
            raise UserError(f"latents have shape {tuple(latents.shape)}, {(count, *shape)} is needed")
        negative = (
            jax.tree.map(lambda a: jnp.broadcast_to(a, (count, *a.shape[1:])), self.null)
            if negative_prompt is None
            else self._condition(_each(negative_prompt, count, "negative_prompt"))
        )
        conditioning = self._conditioning(prompts, negative)
        run = functools.partial(
            _sample_batch,
            self.model,
            self.codec,
            self.schedule,
            self.prediction_type,
            self.network_input,
            self._sampler(sampler),
            shape,
            trajectory,
            self.params,
            padded,
            self.guidance_of_run(guidance_scale, levels),
            self.weak,
            self.params if self.weak is not None and self.weak_params is None else self.weak_params,
        )
        images, estimates = [], []
        for start in range(0, count, self.batch_size):
            stop = min(start + self.batch_size, count)
            size = min(self.batch_size, 1 << (stop - start - 1).bit_length())
            rows = np.minimum(np.arange(start, start + size), stop - 1)
            keys = jax.vmap(lambda s: streams.stream(s, "sample"))(jnp.asarray(seeds[rows]))
            noise = None if latents is None else jnp.asarray(latents, jnp.float32)[rows]
            made, steps_made = run(keys, jax.tree.map(lambda a, rows=rows: a[rows], conditioning), noise)
            images.append(np.asarray(made)[: stop - start])
            if trajectory:
                estimates.append(np.asarray(steps_made)[:, : stop - start])
        return np.concatenate(images), np.concatenate(estimates, axis=1) if trajectory else np.zeros(0)


def _each(value: Any, count: int, name: str) -> list:
    """One value for all, or a list with one for each."""
    if isinstance(value, str | int | np.integer):
        return [value] * count
    values = list(value)
    if len(values) != count:
        raise UserError(f"{name}: {len(values)} given for {count} prompts")
    return values


@functools.partial(jax.jit, static_argnums=(*range(8), 11))
def _sample_batch(
    model: Functional,
    codec: Codec,
    schedule: NoiseSchedule,
    prediction_type: PredictionType,
    network_input: NetworkInput,
    sampler: Sampler,
    shape: tuple[int, int, int],
    trajectory: bool,
    params: Params,
    levels: NoiseLevel,
    guidance: Guidance,
    weak: WeakModel | None,
    weak_params: Params | None,
    keys: Key[Array, " b"],
    conditioning: Guided | Prompts,
    noise: Float[Array, "b lh lw lc"] | None,
) -> tuple[Array, Array | None]:
    """One batch; scale, prompts, seeds and the number of steps are traced or padded, and compile nothing."""
    denoise = make_denoiser(
        conditional_network(model), params, schedule, prediction_type, network_input=network_input
    )
    worse = None
    if weak is not None:
        network = conditional_network(weak.model or model, weak.perturbation)
        worse = make_denoiser(network, weak_params, schedule, prediction_type, network_input=network_input)
    if noise is None:
        x_init = initial_noise(streams.substream(keys, "init"), shape, levels)
    else:
        x_init = levels.sigma[0] * noise
    made = sample(
        guidance.wrap(denoise, worse),
        sampler,
        levels,
        x_init,
        streams.substream(keys, "steps"),
        conditioning=conditioning,
        return_trajectory=trajectory,
    )
    latents, estimates = made if trajectory else (made, None)

    def to_image(x: Array) -> Array:
        return jnp.clip(codec.decode({}, x) / 2 + 0.5, 0, 1)

    return to_image(latents), None if estimates is None else jax.vmap(to_image)(estimates)
