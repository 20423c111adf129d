"""One of each schedule: the members that laws are tested over."""

from difflax.diffusion.schedules import SCHEDULES, Linear, ScaledLinear

TABLES = {
    "betas": {"table": tuple(Linear().betas())},
    "alphas_cumprod": {"table": tuple(ScaledLinear().alphas_cumprod)},
}
ALL_SCHEDULES = {name: kind(**TABLES.get(name, {})) for name, kind in SCHEDULES.items()}
