"""Updates that only diffusers' schedulers make: a checkpoint is sampled by them, nothing else is."""

import dataclasses

import jax.numpy as jnp

from difflax.diffusion.predictions import EDM
from difflax.diffusion.samplers import TCD, DPMSolver3M
from difflax.diffusion.samplers.dpm_solver import quadratic_weight
from difflax.diffusion.schedules.base import NoiseSchedule, unscheduled_level


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
