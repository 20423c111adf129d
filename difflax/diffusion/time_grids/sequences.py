"""What can be done with the levels of a run: other coordinates, jumps back, a late start."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from difflax.diffusion.checks import require
from difflax.diffusion.schedules.base import NoiseLevel


def variance_exploding(levels: NoiseLevel) -> NoiseLevel:
    """The same noise-to-signal ratios and times with ``alpha = 1``: the coordinates of EDM and k-diffusion.

    The denoiser answers on either path; solvers that step along straight segments (Heun, DPM-2, RK4) differ.
    An image enters and leaves a run divided by its alpha.
    """
    require(bool(np.all(np.asarray(levels.alpha) > 0)), "a level without signal has no finite sigma / alpha")
    one, nothing = jnp.ones_like(levels.alpha), jnp.full_like(levels.alpha, jnp.nan)
    plan = levels.plan
    if plan is not None:
        passed = (plan.landing, plan.via)
        landing, via = (None if level is None else variance_exploding(level) for level in passed)
        plan = plan.replace(landing=landing, via=via)
    return NoiseLevel(levels.t, one, levels.sigma / levels.alpha, nothing, nothing, plan)


def without_times(levels: NoiseLevel) -> NoiseLevel:
    """The same levels for a network trained under another schedule: it finds its own times from the
    log-SNR.
    """
    nothing = jnp.full_like(levels.t, jnp.nan)
    return NoiseLevel(nothing, levels.alpha, levels.sigma, nothing, nothing)


def restart_levels(levels: NoiseLevel, low: int, high: int, repeats: int) -> NoiseLevel:
    """Restart sampling (Xu et al., arXiv:2306.14878, algorithm 1): ``repeats`` times back up from step
    ``high`` to ``low``.

    ``levels[low]`` is the noisier end of the restart interval and ``levels[high]`` the cleaner one, ``low <
    high``; the steps between are the run's own. ``sample`` makes the jump by the exact forward process.
    """
    count = levels.t.shape[0]
    require(0 <= low < high < count, f"restart needs 0 <= low < high < {count}, got {low} and {high}")
    require(repeats >= 0, f"restart repeats must not be negative, got {repeats}")
    loop = list(range(low, high + 1))
    order = [*range(high + 1), *(loop * repeats), *range(high + 1, count)]
    return levels[np.array(order)]


def repaint_levels(levels: NoiseLevel, jump: int = 10, repeats: int = 10) -> NoiseLevel:
    """RePaint's order of levels (Lugmayr et al., arXiv:2201.09865, algorithm 1 and appendix B).

    After every ``jump`` steps the run goes ``jump`` levels back up and down again, ``repeats - 1`` times, so
    that the inpainted part comes to fit the known one. Not from the data itself.
    """
    require(
        jump >= 1 and repeats >= 1, f"repaint needs jump and repeats of at least 1, got {jump}, {repeats}"
    )
    count = levels.t.shape[0]
    order = [0]
    for end in range(jump, count - 1, jump):
        order += range(end - jump + 1, end + 1)
        order += list(range(end - jump, end + 1)) * (repeats - 1)
    order += range(order[-1] + 1, count)
    return levels[np.array(order)]


PARTS = {"down": lambda n, share: int(n * share), "up": lambda n, share: n - int(n - n * share)}
"""How many of n steps a share of them is, where it is no whole number."""


def last_steps(levels: NoiseLevel, taken: int) -> NoiseLevel:
    """The last ``taken`` steps of a run."""
    return levels[levels.t.shape[0] - 1 - taken :]


def levels_from(
    levels: NoiseLevel,
    strength: float,
    rounds: Literal["down", "up"] = "down",
    late: Callable[[NoiseLevel, int], NoiseLevel] = last_steps,
) -> NoiseLevel:
    """The last part of a run, for image-to-image (SDEdit, Meng et al., arXiv:2108.01073).

    Start with ``add_noise(image, noise, levels[0])``.

    Args:
        strength: the share of the steps that is taken, in (0, 1].
        rounds: to whole steps, as `PARTS` has it.
        late: which levels a run of that many last steps has, where a sampler has a way of its own.

    Raises:
        ValueError: in one line, for another share, or one of less than a step.
    """
    require(0 < strength <= 1, f"strength must lie in (0, 1], got {strength}")
    steps = levels.t.shape[0] - 1
    taken = min(PARTS[rounds](steps, strength), steps)
    require(
        taken > 0, f"strength = {strength} of {steps} steps is no step: give a greater one, or more steps"
    )
    return late(levels, taken)


def levels_between(
    levels: NoiseLevel, times: Float[np.ndarray, " n"], start: float | None, end: float | None
) -> NoiseLevel:
    """The steps of a run that start below the time ``start`` and not below ``end``; ``None``: from the
    first, to the last.

    Two models that share a boundary share a run (the ensemble of denoisers of Balaji et al.,
    arXiv:2211.01324): the first one's last step lands where the second one's first step starts.

    Args:
        times: of ``levels``.
    """
    first, last = 0, levels.t.shape[0] - 1
    if start is not None:
        first = int(np.sum(times[:-1] >= start))
    if end is not None:
        last = int(np.sum(times[:-1] >= end))
    require(first < last, f"no step of the run of {levels.t.shape[0] - 1} lies in the part that is asked for")
    return levels[first : last + 1]
