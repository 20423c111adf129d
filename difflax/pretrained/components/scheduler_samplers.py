"""Updates that only diffusers' schedulers make: a checkpoint is sampled by them, nothing else is."""

import dataclasses

import jax.numpy as jnp

from difflax.diffusion.predictions import EDM
from difflax.diffusion.samplers import DPMSolver3M
from difflax.diffusion.samplers.dpm_solver import quadratic_weight


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
class NegativeEDM(EDM):
    """``-F`` of EDM: what diffusers calls v prediction under EDM's preconditioning."""

    def coefficients(self, level):
        a, b = super().coefficients(level)
        return -a, -b
