"""The samplers that the options of diffusers' scheduler classes ask for, and the orders of their steps.

Raises of all: `UserError`, for options that do not go together.
"""

from difflax.core.types import UserError
from difflax.diffusion.samplers import (
    DDPM,
    LCM,
    DPMSolver2M,
    DPMSolver3M,
    DPMSolverSinglestep,
    SASolver,
)
from difflax.diffusion.samplers.base import Sampler
from difflax.pretrained.components.scheduler_options import TO_DATA, Config
from difflax.pretrained.components.scheduler_plans import Orders, SingleOrders
from difflax.pretrained.components.scheduler_reading import read_schedule
from difflax.pretrained.components.scheduler_samplers import (
    CountedPLMS,
    CountedPNDM,
    Published3MSDE,
    TimestepTCD,
)

SOLVERS = {"midpoint": True, "heun": False, "logrho": True, "bh1": True, "bh2": True}  # fmt: skip
"""Whether the midpoint is meant: diffusers reads the names of other classes' solvers as the usual one."""
UNIPC_VARIANTS = {"bh1": "bh1", "bh2": "bh2", "midpoint": "bh2", "heun": "bh2", "logrho": "bh2"}
ALGORITHMS = {"dpmsolver++": 0.0, "deis": 0.0, "sde-dpmsolver++": 1.0}


def _check_deis(values: Config) -> None:
    if values["algorithm_type"] == "deis" and TO_DATA[values["final_sigmas_type"]]:
        raise UserError(
            "scheduler config: algorithm_type = 'deis' does not go with final_sigmas_type = 'zero': set"
            " algorithm_type to 'dpmsolver++' or final_sigmas_type to 'sigma_min'"
        )


def dpm_solver(values: Config) -> Sampler:
    _check_deis(values)
    eta, midpoint = ALGORITHMS[values["algorithm_type"]], SOLVERS[values["solver_type"]]
    if values["solver_order"] < 3:
        return DPMSolver2M(eta=eta, midpoint=midpoint)
    if eta:
        return Published3MSDE(midpoint=midpoint)
    return DPMSolver3M(midpoint=midpoint, published=True)


def short_orders(values: Config) -> Orders:
    return Orders(
        order=int(values["solver_order"]),
        rule="short",
        lower=values["lower_order_final"],
        first_at_last=bool(values.get("euler_at_final")) or TO_DATA[values.get("final_sigmas_type")],
        divides={"heun": 2}.get(values["solver_type"], 3) if "euler_at_final" in values else 4,
    )


def remaining_orders(values: Config) -> Orders:
    order = int(values["solver_order"])
    if values["solver_type"] == "bh1" and TO_DATA[values["final_sigmas_type"]]:
        raise UserError(
            "scheduler config: solver_type = 'bh1' with final_sigmas_type = 'zero' makes no image in"
            " UniPCMultistepScheduler of diffusers: set solver_type to 'bh2' or final_sigmas_type to"
            " 'sigma_min'"
        )
    if order > 1 and not values["lower_order_final"] and TO_DATA[values["final_sigmas_type"]]:
        raise UserError(
            "scheduler config: lower_order_final = False with final_sigmas_type = 'zero' makes no image in"
            " UniPCMultistepScheduler of diffusers: set lower_order_final to True or final_sigmas_type to"
            " 'sigma_min'"
        )
    return Orders(
        order=order,
        rule="remaining",
        lower=values["lower_order_final"],
        uncorrected=tuple(map(int, values["disable_corrector"])),
    )


DDPM_VARIANCES = {
    "fixed_small": "small",
    "fixed_small_log": "small",
    "fixed_large": "large",
    "learned_range": "learned_range",
}


def ddpm(values: Config) -> Sampler:
    variance = DDPM_VARIANCES[values["variance_type"]]
    spacing, offset = values["timestep_spacing"], values["steps_offset"]
    if variance != "small" and (spacing == "trailing" or (spacing == "leading" and offset)):
        raise UserError(
            f"scheduler config: variance_type = {values['variance_type']!r} is not supported with"
            f" timestep_spacing = {spacing!r} and steps_offset = {offset}, where diffusers ends on a noisy"
            " image: set timestep_spacing to 'linspace', or to 'leading' with steps_offset 0"
        )
    return DDPM(variance=variance)


def pndm(values: Config) -> Sampler:
    kind = CountedPLMS if values["skip_prk_steps"] else CountedPNDM
    extrapolated = {"epsilon": "eps", "v_prediction": "v"}
    return kind(extrapolates=extrapolated[values["prediction_type"]], reaches_data=True)


def lcm(values: Config) -> Sampler:
    return LCM(
        timestep_scaling=float(values["timestep_scaling"]), num_timesteps=int(values["num_train_timesteps"])
    )


def edm_dpm_solver(values: Config) -> Sampler:
    if ALGORITHMS[values["algorithm_type"]] and values["solver_order"] == 3:
        raise UserError(
            "scheduler config: algorithm_type = 'sde-dpmsolver++' with solver_order = 3 fails in"
            " EDMDPMSolverMultistepScheduler of diffusers: set solver_order to 2"
        )
    return dpm_solver(values)


def singlestep(values: Config) -> Sampler:
    eta, midpoint = ALGORITHMS[values["algorithm_type"]], SOLVERS[values["solver_type"]]
    order = int(values["solver_order"])
    _check_deis(values)
    if eta and order == 3 and not midpoint:
        raise UserError(
            "scheduler config: solver_type = 'heun' of order 3 with algorithm_type = 'sde-dpmsolver++' is not"
            " supported: set solver_type to 'midpoint' or solver_order to 2"
        )
    return DPMSolverSinglestep(order=order, midpoint=midpoint, eta=eta)


def single_orders(values: Config) -> SingleOrders:
    return SingleOrders(
        order=int(values["solver_order"]),
        lower=bool(values["lower_order_final"]),
        to_data=TO_DATA[values["final_sigmas_type"]],
    )


def sa_solver(values: Config) -> Sampler:
    return SASolver(
        predictor_order=int(values["predictor_order"]),
        corrector_order=int(values["corrector_order"]),
        published=True,
    )


def tcd(values: Config) -> Sampler:
    # What diffusers' pipelines give its eta by default.
    return TimestepTCD(
        gamma=0.0, schedule=read_schedule(values), num_timesteps=int(values["num_train_timesteps"])
    )
