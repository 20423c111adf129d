"""Updates that only diffusers' schedulers make: a checkpoint is sampled by them, nothing else is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from difflax.diffusion.checks import require
from difflax.diffusion.predictions import EDM
from difflax.diffusion.samplers import PLMS, PNDM, TCD, DPMSolver3M
from difflax.diffusion.samplers.dpm_solver import quadratic_weight
from difflax.diffusion.schedules.base import NoiseLevel, NoiseSchedule, StepPlan, unscheduled_level


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published3MSDE(DPMSolver3M):
    """The SDE of 3M as diffusers has it: half the curvature's weight less its limit for long steps, where the
    derivation has plus (a sign).
    """

    eta: float = 1.0
    published: bool = True

    def curvature_weight(self, h):
        return quadratic_weight(h, self.eta) / 2 - jnp.where(h > 0, 1.0, 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimestepTCD(TCD):
    """TCD that counts its jumps in whole timesteps of a process.

    Attributes:
        schedule: of the process.
        num_timesteps: T.
    """

    schedule: NoiseSchedule
    num_timesteps: int = 1000
    gamma: float = 0.0

    def below(self, next):
        timestep = jnp.round(next.t * self.num_timesteps) - 1
        t = (jnp.floor((1 - self.gamma) * timestep) + 1) / self.num_timesteps
        return unscheduled_level(*self.schedule.alpha_sigma(t))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NegativeEDM(EDM):
    """``-F`` of EDM: what diffusers calls v prediction under EDM's preconditioning."""

    def coefficients(self, level):
        a, b = super().coefficients(level)
        return -a, -b


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountedPLMS(PLMS):
    """PLMS that counts its calls, whatever the times that it is called at."""

    def started_late(self, levels: NoiseLevel, taken: int) -> NoiseLevel:
        """The levels of an image-to-image run that takes the last ``taken`` of n steps.

        diffusers' list of times has the second one twice, ``t_0 t_1 t_1 t_2 …``, because the scheduler's
        second call corrects its first. An image-to-image run leaves out the first ``s = n - taken`` entries
        and the scheduler counts from 0 all the same. So the run begins at ``t_(s-1)`` (at ``t_1`` if s = 1,
        and corrects a step that leads there), and after its first step every image is taken for one a level
        further down than it is.
        """
        start = levels.t.shape[0] - 1 - taken
        if start == 0:
            return levels
        planned = _planned(levels)
        first = 1 if start == 1 else start - 1
        late = planned[np.array([first, start, *range(start + 1, levels.t.shape[0])])]
        plan = late.plan.replace(order=late.plan.order.at[2].set(0))
        if start > 1:
            return late.replace(plan=plan)
        # The step from t_1 to t_1: a time that is the least bit lower makes a step of it.
        landing = jax.tree.map(lambda a: a.at[1].set(a[2]), plan.landing)
        lower = np.nextafter(np.asarray(late.t[1]), np.zeros_like(late.t[1]))
        return late.replace(t=late.t.at[1].set(lower), plan=plan.replace(landing=landing))


@dataclasses.dataclass(frozen=True, kw_only=True)
class CountedPNDM(PNDM):
    """PNDM that counts its calls: a late start would take its Runge-Kutta steps at other times."""

    def started_late(self, levels: NoiseLevel, taken: int) -> NoiseLevel:
        require(
            taken == levels.t.shape[0] - 1,
            "PNDMScheduler with skip_prk_steps = false makes no image of a strength below 1: set"
            " skip_prk_steps to true, or give another sampler",
        )
        return levels


def _planned(levels: NoiseLevel) -> NoiseLevel:
    """The same levels with everything said that a plan of PLMS leaves to the sampler."""
    plan = levels.plan or StepPlan()
    bare = levels.replace(plan=None)
    before = bare[np.maximum(np.arange(levels.t.shape[0]) - 1, 0)]
    return levels.replace(
        plan=plan.replace(
            shown=levels.shown,
            order=jnp.broadcast_to(jnp.asarray(levels.max_order, levels.t.dtype), levels.t.shape),
            landing=bare if plan.landing is None else plan.landing,
            via=before if plan.via is None else plan.via,
        )
    )
