"""The training loop: resume, step, log, save. The same for every objective, mesh and number of devices."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import optax
from etils import epath
from jax.sharding import Mesh
from jaxtyping import PyTree

from difflax.training.checkpoints import Checkpoints
from difflax.training.ema import EMA
from difflax.training.logs import Logger, mean_metrics
from difflax.training.objectives import Objective
from difflax.training.sharding import put_batch
from difflax.training.state import TrainState
from difflax.training.step import abstract_state, compile_step, init_sharded, make_train_step


@runtime_checkable
class Loader(Iterator, Protocol):
    """Batches whose position can be stored and taken up again."""

    def get_state(self) -> Any: ...

    def set_state(self, state: Any) -> None: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Attributes:
    steps: of the whole run; the learning rate's decay ends there.
    batch_size: examples a step, over all devices.
    log_every, checkpoint_every, sample_every: in steps; ``sample_every`` 0 draws no pictures.
    keep_checkpoints: how many of the newest stay.
    sample_prompts: what the pictures show; empty for the first captions of the data.
    """

    steps: int = 1000
    batch_size: int = 64
    log_every: int = 50
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    sample_every: int = 0
    sample_prompts: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("steps", "batch_size", "log_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.sample_every < 0:
            raise ValueError(f"sample_every must not be negative, got {self.sample_every}")


@dataclasses.dataclass(frozen=True)
class Periodic:
    """Something done every so many steps and after the last: ``action(step, state, logger)``."""

    every: int
    action: Callable[[int, TrainState, Logger], None]


def fit(
    workdir: epath.PathLike,
    config: dict[str, Any],
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    ema: EMA,
    mesh: Mesh,
    seed: int,
    options: TrainingOptions,
    loader: Loader,
    prepare: Callable[[dict[str, Any]], PyTree],
    constants: dict[str, Any],
    periodic: Sequence[Periodic] = (),
    label: str = "train",
    stop_at: int | None = None,
    start: PyTree = None,
    frozen: PyTree = None,
) -> TrainState:
    """Trains until step ``options.steps`` (or ``stop_at``), from the newest checkpoint of ``workdir`` if any.

    Args:
        config: the resolved config, stored with every checkpoint.
        prepare: a batch of the loader, on the host, to the arrays of the objective's batch.
        constants: stored with every checkpoint, see `Checkpoints.save`.
        stop_at: end early, with a checkpoint, as if the job's time were over; the next call goes on.
        start: the parameters of a new run, ``None`` for fresh ones; they are used up.
        frozen: arrays on ``mesh`` that the objective reads and does not train; they are in no checkpoint.

    Returns:
        the state after the last step, on ``mesh``.
    """
    workdir = epath.Path(workdir)
    checkpoints = Checkpoints(workdir / "checkpoints", keep=options.keep_checkpoints)
    abstract = abstract_state(objective, optimizer, mesh)
    if checkpoints.latest is None:
        state = init_sharded(objective, optimizer, seed, abstract, start)
    else:
        state, position = checkpoints.restore(abstract)
        loader.set_state(position)
    first = int(state.step)
    last = options.steps if stop_at is None else min(stop_at, options.steps)
    train_step = compile_step(make_train_step(objective, optimizer, ema, seed), abstract, mesh, frozen)
    given = () if frozen is None else (frozen,)
    logger = Logger(workdir, start=first, total=options.steps, label=label)
    history: list[dict[str, jax.Array]] = []
    try:
        for step in range(first + 1, last + 1):
            state, metrics = train_step(state, put_batch(prepare(next(loader)), mesh), *given)
            history.append(metrics)
            logger.advance()
            if step % options.log_every == 0 or step == last:
                logger.scalars(step, mean_metrics(history), examples_per_step=options.batch_size)
                history.clear()
            if step % options.checkpoint_every == 0 or step == last:
                checkpoints.save(step, state, loader.get_state(), config, constants)
            for task in periodic:
                if task.every and (step % task.every == 0 or step == options.steps):
                    task.action(step, state, logger)
    finally:
        logger.close()
        checkpoints.close()
    return state
