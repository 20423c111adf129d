"""The train step: one pure function, one ``jax.jit`` over a named mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Key, PyTree

from difflax.core import streams
from difflax.core.types import Params, UserError
from difflax.parallel.sharding import TENSOR_RULES, Rule, batch_sharding, put, sharded_shapes
from difflax.training.ema import EMA
from difflax.training.objectives.base import BatchPart, Objective
from difflax.training.optimizers import at_step
from difflax.training.state import TrainState, init_state

Metrics = dict[str, Float[Array, ""]]

Moving = tuple[Params, PyTree, Params, PyTree]
"""Of a state what a step replaces: parameters, optimizer, their average, the objective's memory."""


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    ema: EMA,
    seed: int,
    *,
    accumulate: int = 1,
) -> Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]:
    """``(state, batch) -> (state, metrics)``; its randomness is a function of ``seed`` and the step alone.

    A step whose loss or gradient is not finite changes nothing but ``step`` and ``skipped``; that is decided
    on the device. (Power-function averages count it as a step on which the parameters stood still, for their
    weights are those of every step.) The learning rate is that of the step, however many were skipped. A
    third argument are the arrays that the objective reads and does not train, see `Objective.reading`.

    Args:
        accumulate: parts that the batch is taken in, one after the other; the step uses the mean of their
            gradients, and needs memory for the activations of one. Where each example has a loss of its own,
            that is the step of the whole batch, to rounding; a network's dropout alone is drawn anew.
    """

    def train_step(state: TrainState, batch: PyTree, frozen: PyTree = None) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(streams.stream(seed, "train"), state.step)
        here = objective if frozen is None else objective.reading(frozen)

        if accumulate == 1:
            grads, losses, metrics = gradient(here, state.params, batch, key, state.memory)
        else:
            grads, losses, metrics = accumulated(here, state, batch, key, accumulate)
        memory = here.advance(state.memory, losses, key)
        loss = metrics["loss"]
        step = state.step + 1
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        def moved(grads: Params, memory: PyTree, old: Moving) -> Moving:
            params, opt_state, ema_params, _ = old
            opt_state = at_step(opt_state, state.step)
            updates, opt_state = optimizer.update(grads, opt_state, params)
            params = optax.apply_updates(params, updates)
            return params, opt_state, ema.update(ema_params, params, step), memory

        # A branch, not a choice of each number: that would read the whole state once more.
        old = (state.params, state.opt_state, state.ema_params, state.memory)
        params, opt_state, ema_params, memory = jax.lax.cond(
            finite, moved, lambda grads, memory, old: old, grads, memory, old
        )
        skip = (~finite).astype(jnp.int32)
        skipped = {
            "total": state.skipped["total"] + skip,
            "in_a_row": (state.skipped["in_a_row"] + 1) * skip,
        }
        new = TrainState(
            step=step,
            params=params,
            opt_state=opt_state,
            ema_params=ema_params,
            memory=memory,
            skipped=skipped,
            profiles=ema.follow(state.profiles, params, step),
        )
        return new, {**metrics, "grad_norm": grad_norm, "skipped_in_a_row": skipped["in_a_row"]}

    return train_step


def gradient(
    objective: Objective, params: Params, batch: PyTree, *draws: Any
) -> tuple[Params, Float[Array, " b"], Metrics]:
    """The gradient of the mean loss, the losses, and metrics with the ``loss``.

    ``draws``: key, memory and perhaps the part, as `Objective.loss` takes them.
    """

    def mean_loss(params: Params) -> tuple[Float[Array, ""], tuple[Float[Array, " b"], Metrics]]:
        losses, metrics = objective.loss(params, batch, *draws)
        return jnp.mean(losses), (losses, metrics)

    (loss, (losses, metrics)), grads = jax.value_and_grad(mean_loss, has_aux=True)(params)
    return grads, losses, {"loss": loss, **metrics}


def accumulated(
    objective: Objective, state: TrainState, batch: PyTree, key: Key[Array, ""], parts: int
) -> tuple[Params, Float[Array, " b"], Metrics]:
    """As `gradient`, in ``parts`` of the batch. Part ``i`` has every ``parts``-th example from ``i`` on, so
    that each device takes its own share of every part; its examples draw what they draw in the whole batch.
    """

    def split(array: Array) -> Array:
        if array.shape[0] % parts:
            raise UserError(f"a batch of {array.shape[0]} is not divided by training.accumulate = {parts}")
        return array.reshape(-1, parts, *array.shape[1:]).swapaxes(0, 1)

    leaves, structure = jax.tree.flatten(batch)

    def add(total: Params, part: tuple[list, Array]) -> tuple[Params, tuple[Array, Metrics]]:
        examples, number = structure.unflatten(part[0]), part[1]
        grads, losses, metrics = gradient(
            objective, state.params, examples, key, state.memory, BatchPart(number, parts)
        )
        return jax.tree.map(jnp.add, total, grads), (losses, metrics)

    nothing = jax.tree.map(jnp.zeros_like, state.params)
    parts_of = ([split(leaf) for leaf in leaves], jnp.arange(parts))
    total, (losses, metrics) = jax.lax.scan(add, nothing, parts_of)
    mean = jax.tree.map(lambda values: jnp.mean(values, axis=0), metrics)
    return jax.tree.map(lambda g: g / parts, total), losses.swapaxes(0, 1).reshape(-1), mean


def abstract_state(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    rules: tuple[Rule, ...] = TENSOR_RULES,
    *,
    profiles: int = 0,
) -> TrainState:
    """The state's shapes with their shardings on ``mesh``, computing nothing; ``profiles``: how many
    power-function averages are kept.
    """
    shapes = jax.eval_shape(
        lambda: init_state(objective.init(jax.random.key(0)), optimizer, objective.begin(), profiles)
    )
    return sharded_shapes(shapes, mesh, rules)


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
    shardings = jax.tree.map(lambda s: s.sharding, abstract)

    def init(params: PyTree) -> TrainState:
        if params is None:
            params = objective.init(streams.stream(seed, "init"))
        return init_state(params, optimizer, objective.begin(), len(abstract.profiles))

    if start is not None:
        start = put(start, shardings.params)
    return jax.jit(init, out_shardings=shardings, donate_argnums=0)(start)


def compile_step(step: Callable, abstract: TrainState, mesh: Mesh, frozen: PyTree = None) -> Callable:
    """``step`` jitted with its state donated and its arguments placed on ``mesh``; with ``frozen`` arrays (or
    shapes with shardings) it takes those as a third.
    """
    state = jax.tree.map(lambda s: s.sharding, abstract)
    copied = NamedSharding(mesh, PartitionSpec())
    more = () if frozen is None else (jax.tree.map(lambda a: a.sharding, frozen),)

    def placed(state: TrainState, batch: PyTree, *frozen: PyTree) -> tuple[TrainState, Metrics]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return step(state, batch, *frozen)

    return jax.jit(
        placed,
        in_shardings=(state, batch_sharding(mesh), *more),
        out_shardings=(state, copied),
        donate_argnums=0,
    )
