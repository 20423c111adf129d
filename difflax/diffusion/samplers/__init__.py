"""Samplers: one file a family, and the loop that runs them all (``base.sample``)."""

from difflax.diffusion.samplers.base import initial_noise, sample
from difflax.diffusion.samplers.ddim import DDIM
from difflax.diffusion.samplers.ddpm import DDPM
from difflax.diffusion.samplers.dpm_solver import DPMSolver2M
from difflax.diffusion.samplers.edm import Euler, Heun

SAMPLERS = {
    "ddpm": DDPM,
    "ddim": DDIM,
    "euler": Euler,
    "heun": Heun,
    "dpmpp_2m": DPMSolver2M,
}

__all__ = ["DDIM", "DDPM", "SAMPLERS", "DPMSolver2M", "Euler", "Heun", "initial_noise", "sample"]
