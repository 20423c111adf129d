"""Runs that are ended many times from one noisy picture: what `difflax.evaluation.decisions` measures."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from difflax.config.embedded import find_workdir
from difflax.config.files import read_workdir
from difflax.core.events import with_progress
from difflax.core.types import UserError
from difflax.data.sources import Source
from difflax.diffusion.denoisers import time_shown
from difflax.evaluation.protocols import FactorReader
from difflax.generation.pipeline import Pipeline
from difflax.generation.settings import part_of, run_levels

ROUNDING = 1e-4
"""By which equal pictures in different rows of a batch may differ."""


@dataclasses.dataclass(frozen=True)
class Restarts:
    """The ends of many runs from each of some noisy pictures.

    Attributes:
        step: how many steps have led to the noisy pictures; 0: none, the runs have nothing in common.
        log_snr: of the noisy pictures.
        images: in [0, 1], k of each noisy picture.
    """

    step: int
    log_snr: float
    images: Float[np.ndarray, "g k h w c"]


def factor_reader(workdir: epath.PathLike) -> tuple[FactorReader, Source]:
    """What reads the factors of a run's pictures, and what the run is trained on.

    Raises:
        UserError: no workdir, or its judge does not read them.
    """
    experiment = read_workdir(find_workdir(workdir))
    protocol = getattr(experiment, "evaluation", None)
    if not hasattr(protocol, "differences"):
        raise UserError(f"{workdir}: its config.evaluation has no judge that reads factors: 'shapes' has one")
    return protocol, experiment.data


def restarts(
    pipeline: Pipeline, prompts: Sequence[str], *, seeds: int, number: int, points: int, **call: Any
) -> Iterator[Restarts]:
    """Runs of each prompt and seed, restarted at some of the steps with fresh noise; first those that share
    nothing, then from the noisiest pictures on.

    The first part of a run and every end of it are runs of the same levels, sampler and guidance; a guidance
    with a memory (APG's momentum) starts anew in every end.

    Args:
        seeds: runs of each prompt.
        number: ends of each run at each step, at least 2.
        points: noise levels, pure noise among them, evenly spread over the steps.
        call: the other arguments of ``pipeline(…)``, ``num_steps`` among them.

    Raises:
        UserError: see ``pipeline(…)``; or the sampler adds no noise, so that all ends are one.
    """
    groups = [prompt for prompt in prompts for _ in range(seeds)]
    count = len(groups)
    # Seeds of their own for all: bands take prompts for independent, and an end of a seed that a first part
    # had would repeat its noise.
    first = {"prompt": groups, "seed": list(range(count))}
    ends = {
        "prompt": [prompt for prompt in groups for _ in range(number)],
        "seed": list(range(count, count + count * number)),
    }
    levels = restart_points(pipeline, call["num_steps"], points)
    for step, share, log_snr in with_progress(levels, "decisions", "level"):
        begun = {}
        if share is not None:
            latents = pipeline(**first, **call, denoising_end=share)
            begun = {"latents": np.repeat(latents, number, 0), "denoising_start": share}
        made = pipeline(**ends, **call, **begun)
        images = made.reshape(count, number, *made.shape[1:])
        # The last step lands on the data and adds none.
        if share is not None and step < call["num_steps"] - 1 and np.ptp(images, 1).max() < ROUNDING:
            raise UserError(
                f"sampler {call.get('sampler')}: it adds no noise, so a run has one end: choose ddpm, or"
                " another that does"
            )
        yield Restarts(step, log_snr, images)


def restart_points(pipeline: Pipeline, num_steps: int, points: int) -> list[tuple[int, float | None, float]]:
    """Steps to go on from, the shares of the run before them (``None``: nothing), and their log-SNR.

    Args:
        points: how many, pure noise among them, evenly spread over the steps; a model that counts its time in
            whole steps may have fewer.
    """
    model, defaults = pipeline.model, pipeline.defaults
    levels = run_levels(model, defaults, num_steps)
    times = np.asarray(time_shown(model.schedule, levels))
    steps = levels.t.shape[0] - 1
    found: dict[int, tuple[float | None, float]] = {0: (None, float(levels.log_snr[0]))}
    for step in np.unique(np.linspace(0, steps - 1, points).round().astype(int))[1:]:
        share = 1 - float(times[step - 1] + times[step]) / 2
        part = part_of(levels, model, defaults, share, None)
        # A model that counts its time in whole steps may find another one than was meant.
        at = steps - (part.t.shape[0] - 1)
        if at > 0:
            found.setdefault(at, (share, float(part.log_snr[0])))
    return [(step, *found[step]) for step in sorted(found)]
