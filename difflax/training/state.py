"""What a training run consists of between two steps: arrays and nothing else."""

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from difflax.types import Params


@flax.struct.dataclass
class TrainState:
    """Attributes:
    step: optimizer steps taken, int32 scalar (like all fields, its shape or sharding in a tree of those).
    params: float32 parameters.
    opt_state: the optimizer's, of optax.
    ema_params: their exponential moving average, what sampling uses.
    memory: what the objective remembers from step to step, see `Objective.begin`.
    """

    step: PyTree
    params: Params
    opt_state: PyTree
    ema_params: Params
    memory: PyTree = ()


def init_state(params: Params, optimizer: optax.GradientTransformation, memory: PyTree = ()) -> TrainState:
    """The state before the first step; the average starts as a copy of the parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema_params=jax.tree.map(jnp.copy, params),
        memory=memory,
    )
