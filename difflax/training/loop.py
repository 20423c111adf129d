"""The training loop: resume, step, log, save. The same for every objective, mesh and number of devices."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import optax
from etils import epath
from jax.sharding import Mesh
from jaxtyping import PyTree

from difflax.core.chips import chip
from difflax.core.events import Events
from difflax.core.types import Interrupted
from difflax.parallel.processes import lost_processes_named
from difflax.parallel.sharding import TENSOR_RULES, Rule, put_local_batch
from difflax.training.ema import EMA
from difflax.training.objectives.base import Objective
from difflax.training.runtime.checkpoints import Checkpoints
from difflax.training.runtime.compiled import CompiledStep
from difflax.training.runtime.interruption import StopRequest
from difflax.training.runtime.logs import Logger, Order, mean_metrics
from difflax.training.runtime.recovery import Recovery
from difflax.training.runtime.retention import Retention
from difflax.training.runtime.snapshots import Snapshots
from difflax.training.runtime.throughput import Throughput
from difflax.training.runtime.trace import Profile
from difflax.training.runtime.watchdog import Watchdog
from difflax.training.state import TrainState
from difflax.training.step import abstract_state, init_sharded, make_train_step


@runtime_checkable
class ResumableBatches(Iterator, Protocol):
    """Batches whose position can be stored and taken up again."""

    def get_state(self) -> Any: ...

    def set_state(self, state: Any) -> None: ...

    def new_faults(self) -> Sequence[str]:
        """Examples that could not be used since the last call, each with its key and what is wrong."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Attributes:
    steps: of the whole run; the learning rate's decay ends there.
    batch_size: examples a step, over all devices.
    accumulate: parts that each batch is taken in, see `make_train_step`.
    log_every: steps from one line of metrics to the next.
    checkpoint_every: steps from one checkpoint to the next.
    sample_every: steps from one sheet of pictures to the next; 0 draws none.
    keep_checkpoints: how many of the newest stay.
    keep_every: those at multiples of so many steps stay as well; 0: none.
    keep_best: so many of the best stay as well.
    best_metric: which number of the log says how good one is.
    best_is: its ``"lowest"`` or ``"highest"`` value.
    max_failed_saves: so many saves in a row may fail before the run does.
    max_skipped_in_a_row: so many steps without a finite loss and gradient, and the run goes back to its last
        good checkpoint and on with other data; looked at with every log line.
    max_roll_backs: how often it may go back; then it stops.
    max_bad_examples: the share of the data that may be unreadable or without a caption.
    profile_steps: the first and the last step that a profile records, in ``workdir/profile``; empty: none.
    record_order: write down the rows of every batch, see `Order`.
    sample_prompts: what the pictures show; empty for the first captions of the data.
    evaluate_every: steps from one small measurement to the next, by the judge of ``config.evaluation`` at the
        run's own guidance; its numbers stand in that step's line of metrics. 0 measures nothing.
    evaluate_prompts: how many prompts of the judge's first group that takes; each as often as its ``seeds``.
    """

    steps: int = 1000
    batch_size: int = 64
    accumulate: int = 1
    log_every: int = 50
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    keep_every: int = 0
    keep_best: int = 0
    best_metric: str = "loss"
    best_is: Literal["lowest", "highest"] = "lowest"
    max_failed_saves: int = 3
    max_skipped_in_a_row: int = 20
    max_roll_backs: int = 3
    max_bad_examples: float = 0.01
    profile_steps: tuple[int, ...] = ()
    record_order: bool = False
    sample_every: int = 0
    sample_prompts: tuple[str, ...] = ()
    evaluate_every: int = 0
    evaluate_prompts: int = 8

    def __post_init__(self):
        positive = ("steps", "batch_size", "log_every", "checkpoint_every", "keep_checkpoints")
        for name in (*positive, "accumulate", "max_skipped_in_a_row", "evaluate_prompts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate = {self.accumulate} must divide batch_size = {self.batch_size}")
        not_negative = ("sample_every", "evaluate_every", "keep_every", "keep_best")
        for name in (*not_negative, "max_failed_saves", "max_roll_backs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.max_bad_examples < 1:
            raise ValueError(f"max_bad_examples must lie in [0, 1), got {self.max_bad_examples}")
        if self.profile_steps and not (
            len(self.profile_steps) == 2 and 1 <= self.profile_steps[0] <= self.profile_steps[1]
        ):
            raise ValueError(f"profile_steps must be (first, last) step, got {self.profile_steps}")

    @property
    def retention(self) -> Retention:
        """Which checkpoints stay."""
        return Retention(
            newest=self.keep_checkpoints,
            every=self.keep_every,
            best=self.keep_best,
            metric=self.best_metric,
            best_is=self.best_is,
        )


@dataclasses.dataclass(frozen=True)
class Periodic:
    """Something done with the state every so many steps and after the last."""

    every: int
    action: Callable[..., Any]

    def due(self, step: int, last: int) -> bool:
        """Whether it is done after this step."""
        return self.every > 0 and (step % self.every == 0 or step == last)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained, and on what: all that a kind of run gives to the common loop.

    Attributes:
        prepare: a batch of the loader, on the host, to the arrays of the objective's batch.
        constants: stored with every checkpoint, see `Checkpoints.save`.
        periodic: ``action(step, state, logger)`` of each, pictures mostly.
        start: makes the parameters of a new run, whose arrays are used up, so that it is asked again after a
            roll-back to before the first checkpoint; ``None``, or what gives ``None``, for fresh ones.
        measured: ``action(step, state)`` gives numbers for that step's line of metrics.
        validation: the same, of test images and not of pictures that are made.
        frozen: arrays on the mesh that the objective reads and does not train; they are in no checkpoint.
        finish: what is left to do with the state after the last step of the whole run.
    """

    objective: Objective
    loader: ResumableBatches
    prepare: Callable[[dict[str, Any]], PyTree]
    constants: dict[str, Any] = dataclasses.field(default_factory=dict)
    periodic: Sequence[Periodic] = ()
    measured: Periodic | None = None
    validation: Periodic | None = None
    start: Callable[[], PyTree] | None = None
    frozen: PyTree = None
    finish: Callable[[TrainState], None] | None = None


def fit(
    workdir: epath.PathLike,
    config: dict[str, Any],
    task: Task,
    *,
    optimizer: optax.GradientTransformation,
    ema: EMA,
    mesh: Mesh,
    rules: tuple[Rule, ...] = TENSOR_RULES,
    seed: int,
    options: TrainingOptions,
    label: str = "train",
    stop_at: int | None = None,
    learning_rates: optax.Schedule | None = None,
) -> TrainState:
    """Trains until step ``options.steps`` (or ``stop_at``), from the newest checkpoint of ``workdir`` if any.

    Args:
        config: the resolved config, stored with every checkpoint.
        rules: how the state is split over ``mesh``, see `shardings`.
        stop_at: end early, with a checkpoint, as if the job's time were over; the next call goes on.
        learning_rates: of each step, counted from 0, for the log.

    Returns:
        the state after the last step, on ``mesh``.

    Raises:
        Interrupted: after SIGTERM or Ctrl-C, with a checkpoint.
        UserError: the run cannot go on: damaged checkpoints, failing saves, a loss that stays not finite.
    """
    workdir, objective, loader = epath.Path(workdir), task.objective, task.loader
    events = Events(workdir)
    checkpoints = Checkpoints(
        workdir / "checkpoints",
        retention=options.retention,
        max_failed_saves=options.max_failed_saves,
        report=lambda message: events("checkpoint", message),
    )
    snapshots = Snapshots(
        workdir,
        ema,
        max_failed_saves=options.max_failed_saves,
        report=lambda message: events("snapshot", message),
    )
    abstract = abstract_state(objective, optimizer, mesh, rules, profiles=len(ema.profiles))
    recovery = Recovery(
        checkpoints=checkpoints,
        abstract=abstract,
        init=lambda: init_sharded(objective, optimizer, seed, abstract, task.start and task.start()),
        loader=loader,
        events=events,
        max_roll_backs=options.max_roll_backs,
    )
    state = recovery.start()
    step = int(state.step)
    snapshots.rewind(step)
    last = options.steps if stop_at is None else min(stop_at, options.steps)
    stepping = make_train_step(objective, optimizer, ema, seed, accumulate=options.accumulate)
    train_step = CompiledStep(stepping, abstract, mesh, task.frozen)
    logger = Logger(workdir, start=step, total=options.steps, label=label)
    speed = Throughput(options.batch_size, mesh.size, chip(mesh.devices.flat[0].device_kind))
    speed.reset(step)
    profile = Profile(workdir, options.profile_steps)
    history: list[dict[str, jax.Array]] = []
    numbers: dict[str, float | None] = {}
    order = Order(workdir)
    stop, watchdog = StopRequest(), Watchdog()
    try:
        with stop.listening(), lost_processes_named(), watchdog.watching():
            while step < last:
                watchdog.at(step + 1, "reading its batch")
                with speed.waiting():
                    examples = next(loader)
                    batch = put_local_batch(task.prepare(examples), mesh)
                if not train_step.ready(batch):
                    watchdog.at(step + 1, "compiling", patient=True)
                    with speed.away():
                        facts = train_step.compile(batch)
                    speed.knows_flops(facts.flops)
                    events("compiled", facts.line(), step=step)
                step += 1
                if options.record_order:
                    order(step, examples["index"])
                watchdog.at(step, "the step")
                profile.before(step)
                state, metrics = train_step(state, batch)
                profile.after(step, metrics)
                history.append(metrics)
                logger.advance()
                measured: dict[str, float | None] = {}
                for what, periodic in (("pictures", task.measured), ("test images", task.validation)):
                    if periodic is not None and periodic.due(step, options.steps):
                        watchdog.at(step, f"measuring {what}")
                        with speed.away():
                            measured |= periodic.action(step, state)
                if step % options.log_every == 0 or step == last or measured:
                    numbers, in_a_row = mean_metrics(history)
                    numbers |= measured
                    history.clear()
                    if learning_rates is not None:
                        numbers["learning_rate"] = float(learning_rates(step - 1))
                    logger.scalars(step, {**numbers, **speed.line(step)})
                    checkpoints.poll()
                    for fault in loader.new_faults():
                        events("data", fault, step=step)
                    if in_a_row:
                        events("skipped", f"{numbers['skipped_steps']} steps were skipped", step=step)
                    if in_a_row >= options.max_skipped_in_a_row:
                        state = recovery.roll_back(state, step, in_a_row)
                        step = int(state.step)
                        logger.rewind(step)
                        snapshots.rewind(step)
                        speed.reset(step)
                        continue
                snapshots.save(step, state, options.steps, config)
                ends = stop.reached(step) or step == last
                if ends or step % options.checkpoint_every == 0:
                    good = int(metrics["skipped_in_a_row"]) == 0
                    if good or ends:
                        watchdog.at(step, "saving")
                        snapshots.wait()
                        position = recovery.position()
                        checkpoints.save(
                            step, state, position, config, task.constants, metrics=numbers, good=good
                        )
                for periodic in task.periodic:
                    if periodic.due(step, options.steps):
                        watchdog.at(step, "drawing pictures")
                        with speed.away():
                            periodic.action(step, state, logger)
                if ends and step < last:
                    checkpoints.finish()
                    events("interrupted", f"stopped after step {step}, as {stop.who} asked for", step=step)
                    raise Interrupted(f"stopped after step {step}; the same command goes on", stop.status)
        checkpoints.finish()
    finally:
        profile.close()
        logger.close()
        checkpoints.close()
        snapshots.close()
    if step == options.steps and task.finish is not None:
        task.finish(state)
    return state
