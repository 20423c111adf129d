"""From a request to what a compiled program is called with, batch by batch."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from difflax.core.several import several
from difflax.core.types import UserError
from difflax.diffusion.guidance import Guidance
from difflax.diffusion.schedules import NoiseLevel
from difflax.diffusion.time_grids import pad_levels
from difflax.generation.conditions import Encoders, Told
from difflax.generation.devices import Devices
from difflax.generation.model import Model
from difflax.generation.program import Each, Program, Shared, decode, length_on_path
from difflax.generation.request import Defaults, Request
from difflax.generation.rows import Rows
from difflax.generation.settings import part_of, run_guidance, run_levels, run_sampler, started_late
from difflax.models.autoencoder import encode_images as encode_batch
from difflax.parallel.sharding import fetch

STEPS_COMPILED = 50
"""Runs are compiled for whole multiples of this many steps, so that other step counts compile nothing."""


UNCONDITIONAL = (
    "guidance_scale=0 is unconditional: the prompt has no part in the image. Where diffusers or the card of a"
    " turbo model says 0.0, which is off there, give guidance_scale=1"
)


class UnconditionalWarning(UserWarning):
    """A guidance scale of 0, which other software takes for no guidance."""


def padded_length(levels: NoiseLevel) -> int:
    """How many levels a run is compiled for."""
    return -(-(levels.t.shape[0] - 1) // STEPS_COMPILED) * STEPS_COMPILED + 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A request on its way: one program, its arrays, and what is done with its latents.

    Attributes:
        each: of all images; whole on the host or one device.
        finish: latents to what is returned.
        log_snr: of the level that each step starts from.
    """

    program: Program
    shared: Shared
    each: Each
    count: int
    devices: Devices
    finish: Callable[[Array], Array]
    log_snr: Float[np.ndarray, " steps"]

    @classmethod
    def make(cls, request: Request, model: Model, defaults: Defaults, devices: Devices) -> "Run":
        """The run of a request.

        Args:
            model, devices: the model on the devices' mesh.

        Raises:
            UserError: the request cannot be met; nothing has been computed but the encodings.
        """
        rows = request.rows(model, defaults)
        if 0 in several(request.guidance_scale):
            warnings.warn(UNCONDITIONAL, UnconditionalWarning, stacklevel=4)
        num_steps = defaults.num_steps if request.num_steps is None else request.num_steps
        levels = run_levels(model, defaults, num_steps, rows.shape[:2])
        sampler = run_sampler(request.sampler, defaults.sampler)
        levels = started_late(levels, rows, defaults, sampler)
        levels = part_of(levels, model, defaults, rows.start, rows.end)
        if rows.mask is not None and not any(kind.takes_mask for kind in model.conditions):
            levels = defaults.options.repainting(levels)
        guidance = run_guidance(defaults.guidance, request.guidance_scale, model, rows, levels)
        if rows.source is not None and not levels.alpha[0] > 0:
            raise UserError(
                "invert: nothing of the picture is left at the run's first noise level: give a strength below"
                " 1"
            )
        padded = levels if request.trajectory else pad_levels(levels, padded_length(levels))
        weak = model.weak
        program = Program(
            network=model.network,
            weak_network=None if weak is None else weak.network or model.network,
            perturbation=None if weak is None else weak.perturbation,
            schedule=model.schedule,
            prediction_type=model.prediction_type,
            network_input=model.network_input,
            sampler=sampler,
            shape=rows.shape,
            unit_start=model.unit_start,
            begins=rows.begins,
            trajectory=request.trajectory,
            known_noise=defaults.options.known_noise,
            mesh=devices.mesh,
        )
        return cls(
            program=program,
            shared=Shared(
                model.params,
                model.weak_params,
                *(devices.put_everywhere(part) for part in (padded, guidance)),
            ),
            each=encode_rows(rows, model, devices, defaults.guidance),
            count=len(rows.prompts),
            devices=devices,
            finish=(
                functools.partial(decode, model.autoencoder, model.autoencoder_params)
                if rows.end is None
                else functools.partial(jnp.multiply, np.asarray(length_on_path(model.schedule, levels[-1])))
            ),
            log_snr=np.asarray(levels.log_snr[:-1]),
        )

    def batches(self) -> Iterator[tuple[Each, int]]:
        """The arrays of every batch, and how many of its images count."""
        for rows, count in self.devices.batches(self.count):
            chosen = jax.tree.map(lambda a, rows=rows: jnp.asarray(a)[rows], self.each)
            yield self.devices.put_rows(chosen), count

    def finished(self, latents: Array, count: int) -> np.ndarray:
        """What is returned of a batch's latents [..., b, lh, lw, lc], on the host."""
        return fetch(self.finish(latents))[..., :count, :, :, :]


def encode_rows(rows: Rows, model: Model, devices: Devices, guidance: Guidance) -> Each:
    """The arrays of all images of a run.

    Raises:
        UserError: the guidance reads other conditions than the request or the model has.
    """
    encoders = Encoders(
        text=model.text_encoder,
        null=model.null,
        null_is_zero=model.null_is_zero,
        autoencoder=model.autoencoder,
        encode_images=functools.partial(encode_images, model, devices),
    )
    told = _told(rows, model, encoders)
    try:
        conditioning = guidance.arrange(told.positives, told.negative)
    except ValueError as error:
        raise UserError(str(error)) from error
    takes_image = any(condition.takes_image for condition in model.conditions)
    takes_mask = any(condition.takes_mask for condition in model.conditions)
    known = mask = source = None
    if rows.image is not None and (rows.begins != "noise" or not takes_image):
        known = encoders.encode_images(rows.image)
    if rows.mask is not None and not takes_mask:
        mask = rows.latent_mask
    if rows.source is not None:
        [source] = _told(rows.of_source(), model, encoders).positives
    return Each(rows.seeds, conditioning, source, rows.latents, known, mask, rows.scales)


def _told(rows: Rows, model: Model, encoders: Encoders) -> Told:
    """What every kind of condition tells the network."""
    told = Told((), model.null)
    for condition in model.conditions:
        told = condition.encode(told, rows, encoders)
    return told


def encode_images(
    model: Model, devices: Devices, images: Float[np.ndarray, "b h w c"]
) -> Float[Array, "b lh lw lc"]:
    """Latents of any number of images in [-1, 1], batch by batch."""
    parts = []
    for rows, count in devices.batches(len(images)):
        latents = encode_batch(model.autoencoder, model.autoencoder_params, devices.put_rows(images[rows]))
        parts.append(fetch(latents)[:count])
    return jnp.asarray(np.concatenate(parts))
