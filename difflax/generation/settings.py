"""The settings of a run: its noise levels, guidance and sampler, from the defaults and what a call says."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from difflax.core.spelling import choose, shown
from difflax.core.types import UserError
from difflax.diffusion.denoisers import time_shown
from difflax.diffusion.guidance import Guidance
from difflax.diffusion.samplers import SAMPLERS
from difflax.diffusion.samplers.base import Sampler
from difflax.diffusion.schedules import NoiseLevel
from difflax.diffusion.time_grids.sequences import last_steps, levels_between, levels_from
from difflax.generation.model import Model
from difflax.generation.request import Defaults
from difflax.generation.rows import Rows, finite


def run_levels(
    model: Model, defaults: Defaults, num_steps: int, latent: tuple[int, int] | None = None
) -> NoiseLevel:
    """The noise levels of a run.

    Args:
        latent: height and width of the image's latent; ``None``: of the default size.

    Raises:
        UserError: for a number of steps that the time grid cannot make.
    """
    latent = latent or model.autoencoder.latent_shape(defaults.height, defaults.width)[:2]
    grid = defaults.time_grid.of_latent(latent)
    try:
        return defaults.options.levels(model.schedule, grid, num_steps, model.prediction_type)
    except ValueError as error:
        raise UserError(f"num_steps={num_steps}: {error}") from error


def started_late(levels: NoiseLevel, rows: Rows, defaults: Defaults, sampler: Sampler) -> NoiseLevel:
    """The share of a run that the strength of ``rows`` is, its last steps. Samplers of some checkpoints have
    a way of their own to start late (``started_late``), which an inversion, that goes up the levels, has not.

    Raises:
        UserError: that is no step.
    """
    late = getattr(sampler, "started_late", last_steps) if rows.begins != "inversion" else last_steps
    try:
        return levels_from(levels, rows.strength, defaults.strength_rounds, late)
    except ValueError as error:
        raise UserError(str(error)) from error


def part_of(
    levels: NoiseLevel, model: Model, defaults: Defaults, start: float | None, end: float | None
) -> NoiseLevel:
    """The steps of a run from its share ``start`` to its share ``end``, each in (0, 1) or ``None``.

    Raises:
        UserError: there is no step in it, or the run goes back up.
    """
    if start is None and end is None:
        return levels
    if defaults.options.restart is not None:
        raise UserError("a run that goes back up (restart) has no parts: give no denoising_start or _end")
    limits = [None if share is None else model.network_input.boundary(share) for share in (start, end)]
    try:
        return levels_between(levels, np.asarray(time_shown(model.schedule, levels)), *limits)
    except ValueError as error:
        raise UserError(f"denoising_start={start}, denoising_end={end}: {error}") from error


def run_guidance(
    guidance: Guidance,
    scale: float | int | Sequence[float] | None,
    model: Model,
    rows: Rows,
    levels: NoiseLevel,
) -> Guidance:
    """The guidance of a run over ``levels``, its strengths as arrays.

    Args:
        scale: ``None`` for the guidance's own. Where every image has its own (`Rows.scales`) they come with
            the images.

    Raises:
        UserError: for a scale that is no number, or that the guidance does not have, or a guidance that does
            not fit the run's steps.
    """
    given = "" if scale is None else f"guidance_scale={shown(scale)}: "
    try:
        if rows.scales is not None:
            guidance = guidance.with_scale(1.0)
        elif scale is not None:
            guidance = guidance.with_scale(finite(scale, "guidance_scale"))
        given = "guidance: "
        for condition in model.conditions:
            guidance = condition.guide(guidance, rows)
        guidance = guidance.resolve(model.schedule, levels)
    except ValueError as error:
        raise UserError(f"{given}{error}") from error
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), guidance)


def run_sampler(sampler: str | Sampler | None, usual: Sampler) -> Sampler:
    """The sampler of a call, by name or as it is.

    Raises:
        UserError: there is none of that name.
    """
    if sampler is None:
        return usual
    return choose(SAMPLERS, sampler, "sampler")() if isinstance(sampler, str) else sampler
