"""What a training run consists of between two steps: arrays and nothing else."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from difflax.core.types import Params


@flax.struct.dataclass
class TrainState:
    """Attributes:
    step: steps taken, int32 scalar (like all fields, its shape or sharding in a tree of those).
    params: float32 parameters.
    opt_state: the optimizer's, of optax.
    ema_params: their exponential moving average, what sampling uses.
    memory: what the objective remembers from step to step, see `Objective.begin`.
    skipped: steps that changed nothing else, as their loss or gradient was not finite: ``total``, and how
        many ``in_a_row`` up to now; int32 scalars.
    profiles: power-function averages of the parameters, one for each length of ``config.ema.profiles``.
    """

    step: PyTree
    params: Params
    opt_state: PyTree
    ema_params: Params
    memory: PyTree = ()
    skipped: PyTree = dataclasses.field(default_factory=dict)
    profiles: tuple[Params, ...] = ()


def init_state(
    params: Params, optimizer: optax.GradientTransformation, memory: PyTree = (), profiles: int = 0
) -> TrainState:
    """The state before the first step; the averages start as copies of the parameters.

    Args:
        profiles: how many power-function averages there are.
    """
    copied = lambda: jax.tree.map(jnp.copy, params)  # noqa: E731
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema_params=copied(),
        memory=memory,
        skipped={"total": jnp.zeros((), jnp.int32), "in_a_row": jnp.zeros((), jnp.int32)},
        profiles=tuple(copied() for _ in range(profiles)),
    )
