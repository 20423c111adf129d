"""Samplers: one file a family, and the loop that runs them all (``base.sample``)."""

from difflax.diffusion.samplers.base import initial_noise, sample
from difflax.diffusion.samplers.ddim import DDIM, EulerAncestral
from difflax.diffusion.samplers.ddpm import DDPM
from difflax.diffusion.samplers.dpm_solver import (
    DPMSolver2M,
    DPMSolver2MSDE,
    DPMSolver2S,
    DPMSolver3M,
    DPMSolver3MSDE,
    DPMSolverSDE,
)
from difflax.diffusion.samplers.edm import Euler, Heun
from difflax.diffusion.samplers.lcm import LCM
from difflax.diffusion.samplers.multistep import DEIS, LMS, PLMS, PNDM
from difflax.diffusion.samplers.ode import DPM2, RK4, Adaptive, DPM2Ancestral
from difflax.diffusion.samplers.sa_solver import SASolver
from difflax.diffusion.samplers.singlestep import DPMSolverSinglestep
from difflax.diffusion.samplers.tcd import TCD
from difflax.diffusion.samplers.unipc import UniPC

SAMPLERS = {
    "ddpm": DDPM,
    "ddim": DDIM,
    "euler": Euler,
    "euler_ancestral": EulerAncestral,
    "heun": Heun,
    "dpm2": DPM2,
    "dpm2_ancestral": DPM2Ancestral,
    "dpmpp_2s": DPMSolver2S,
    "dpmpp_2m": DPMSolver2M,
    "dpmpp_3m": DPMSolver3M,
    "dpmpp_singlestep": DPMSolverSinglestep,
    "dpmpp_sde": DPMSolverSDE,
    "dpmpp_2m_sde": DPMSolver2MSDE,
    "dpmpp_3m_sde": DPMSolver3MSDE,
    "unipc": UniPC,
    "deis": DEIS,
    "lms": LMS,
    "plms": PLMS,
    "pndm": PNDM,
    "rk4": RK4,
    "adaptive": Adaptive,
    "lcm": LCM,
    "tcd": TCD,
    "sa_solver": SASolver,
}

__all__ = [
    "DDIM",
    "DDPM",
    "DEIS",
    "DPM2",
    "LCM",
    "LMS",
    "PLMS",
    "PNDM",
    "RK4",
    "SAMPLERS",
    "TCD",
    "Adaptive",
    "DPM2Ancestral",
    "DPMSolver2M",
    "DPMSolver2MSDE",
    "DPMSolver2S",
    "DPMSolver3M",
    "DPMSolver3MSDE",
    "DPMSolverSDE",
    "DPMSolverSinglestep",
    "Euler",
    "EulerAncestral",
    "Heun",
    "SASolver",
    "UniPC",
    "initial_noise",
    "sample",
]
