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
from difflax.training.sharding import TENSOR_RULES, Rule, batch_sharding, shardings
from difflax.training.state import TrainState, init_state

Metrics = dict[str, Float[Array, ""]]


def make_train_step(
    objective: Objective, optimizer: optax.GradientTransformation, ema: EMA, seed: int
) -> Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]:
    """``(state, batch) -> (state, metrics)``; its randomness is a function of ``seed`` and the step alone.

    A step whose loss or gradient is not finite changes nothing but ``step`` and ``skipped``; that is decided
    on the device.
    """

    def train_step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(streams.stream(seed, "train"), state.step)

        def mean_loss(params: PyTree) -> tuple[Float[Array, ""], tuple[Float[Array, " b"], Metrics]]:
            losses, metrics = objective.loss(params, batch, key, state.memory)
            return jnp.mean(losses), (losses, metrics)

        (loss, (losses, metrics)), grads = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step = state.step + 1
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        def unless_skipped(new: PyTree, old: PyTree) -> PyTree:
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        skip = (~finite).astype(jnp.int32)
        skipped = {
            "total": state.skipped["total"] + skip,
            "in_a_row": (state.skipped["in_a_row"] + 1) * skip,
        }
        new = TrainState(
            step=step,
            params=unless_skipped(params, state.params),
            opt_state=unless_skipped(opt_state, state.opt_state),
            ema_params=unless_skipped(ema.update(state.ema_params, params, step), state.ema_params),
            memory=unless_skipped(objective.advance(state.memory, losses, key), state.memory),
            skipped=skipped,
        )
        return new, {"loss": loss, "grad_norm": grad_norm, "skipped_in_a_row": skipped["in_a_row"], **metrics}

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
    objective: Objective, optimizer: optax.GradientTransformation, seed: int, abstract: TrainState
) -> TrainState:
    """The state before the first step, every array created where ``abstract`` places it."""

    def init() -> TrainState:
        return init_state(objective.init(streams.stream(seed, "init")), optimizer, objective.begin())

    return jax.jit(init, out_shardings=jax.tree.map(lambda s: s.sharding, abstract))()


def compile_step(step: Callable, abstract: TrainState, mesh: Mesh) -> Callable:
    """``step`` jitted with its state donated and both its arguments placed on ``mesh``."""
    state = jax.tree.map(lambda s: s.sharding, abstract)
    copied = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        step,
        in_shardings=(state, batch_sharding(mesh)),
        out_shardings=(state, copied),
        donate_argnums=0,
    )
