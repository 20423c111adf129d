"""The train step: one pure function, one ``jax.jit`` over a named mesh."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree

from difflax import streams
from difflax.training.ema import EMA
from difflax.training.objectives import Objective
from difflax.training.sharding import TENSOR_RULES, Rule, batch_sharding, place, shardings
from difflax.training.state import TrainState, init_state

Metrics = dict[str, Float[Array, ""]]


def make_train_step(
    objective: Objective, optimizer: optax.GradientTransformation, ema: EMA, seed: int
) -> Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]:
    """``(state, batch) -> (state, metrics)``; its randomness is a function of ``seed`` and the step alone.

    A third argument are the arrays that the objective reads and does not train, see `Objective.reading`.
    """

    def train_step(state: TrainState, batch: PyTree, frozen: PyTree = None) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(streams.stream(seed, "train"), state.step)
        here = objective if frozen is None else objective.reading(frozen)

        def mean_loss(params: PyTree) -> tuple[Float[Array, ""], tuple[Float[Array, " b"], Metrics]]:
            losses, metrics = here.loss(params, batch, key, state.memory)
            return jnp.mean(losses), (losses, metrics)

        (loss, (losses, metrics)), grads = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step = state.step + 1
        new = TrainState(
            step=step,
            params=params,
            opt_state=opt_state,
            ema_params=ema.update(state.ema_params, params, step),
            memory=objective.advance(state.memory, losses, key),
        )
        return new, {"loss": loss, "grad_norm": optax.tree.norm(grads), **metrics}

    return train_step


def abstract_state(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    rules: tuple[Rule, ...] = TENSOR_RULES,
) -> TrainState:
    """The state's shapes with their shardings on ``mesh``, computing nothing."""
    shapes = jax.eval_shape(
        lambda: init_state(objective.init(jax.random.key(0)), optimizer, objective.begin())
    )
    return jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
        shapes,
        shardings(shapes, mesh, rules),
    )


def init_sharded(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    seed: int,
    abstract: TrainState,
    start: PyTree = None,
) -> TrainState:
    """The state before the first step, every array created where ``abstract`` places it.

    ``start``: parameters to begin with in place of the objective's own; their arrays become the state's.
    """
    places = jax.tree.map(lambda s: s.sharding, abstract)

    def init(params: PyTree) -> TrainState:
        if params is None:
            params = objective.init(streams.stream(seed, "init"))
        return init_state(params, optimizer, objective.begin())

    if start is not None:
        start = place(start, places.params)
    return jax.jit(init, out_shardings=places, donate_argnums=0)(start)


def compile_step(step: Callable, abstract: TrainState, mesh: Mesh, frozen: PyTree = None) -> Callable:
    """``step`` jitted with its state donated and its arguments placed on ``mesh``; with ``frozen`` arrays (or
    shapes with shardings) it takes those as a third.
    """
    state = jax.tree.map(lambda s: s.sharding, abstract)
    copied = NamedSharding(mesh, PartitionSpec())
    more = () if frozen is None else (jax.tree.map(lambda a: a.sharding, frozen),)
    return jax.jit(
        step,
        in_shardings=(state, batch_sharding(mesh), *more),
        out_shardings=(state, copied),
        donate_argnums=0,
    )
