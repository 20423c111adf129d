"""The validation loss: of test images, at fixed times and under fixed noise, the same in every run.

The training loss of a step says little of a diffusion model: the times that were drawn move it more than a
thousand steps of training do. At times that are given, under noise that belongs to each example, it falls
smoothly and tells two models apart (Esser et al. 2024, arXiv:2403.03206). MLPerf Training's FLUX.1 benchmark
is decided by it (github.com/mlcommons/training, text_to_image, "Quality metric"):

    loss = mean over times t of ( mean over the examples at t of |out - target|^2 ),   t = 0, 1/8, …, 7/8,

each example at one time, dealt in turn; ``every_time`` gives each to all of them instead.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PyTree

from difflax.core import streams
from difflax.core.bounds import Range, Share
from difflax.core.types import Params, UserError
from difflax.diffusion.denoisers import NetworkInput, network_inputs
from difflax.diffusion.loss.losses import weighted_penalty
from difflax.diffusion.loss.weightings import Constant
from difflax.diffusion.predictions import PredictionType
from difflax.diffusion.schedules.base import NoiseSchedule, noise_level
from difflax.training.objectives.base import Validated

EIGHTHS = tuple(i / 8 for i in range(8))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation:
    """``config.validation``: the loss of the test split while a model trains, by its averaged parameters.

    Attributes:
        every: steps from one measurement to the next; the last step has one too. 0 measures nothing.
        times: at which it is measured, from 0 (the data) to 1 (noise) of the model's own schedule; MLPerf's
            eighths by default.
        every_time: whether each example is measured at every time, which costs so many times as much and is
            less uncertain, and not at one of them, dealt in turn as in MLPerf.
        examples: the first so many of the split; 0 for all.
        loss_space: the prediction type whose squared error it is, so that models which predict different
            things can be compared; ``None`` for the network's own.
        seed: of the noise, and not the run's, so that runs can be compared.
    """

    every: Annotated[int, Range(0)] = 0
    times: tuple[Share, ...] = EIGHTHS
    every_time: bool = False
    examples: Annotated[int, Range(0, 10**8)] = 0
    loss_space: str | None = None
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0

    def __post_init__(self):
        if not self.times or len(set(self.times)) < len(self.times):
            raise ValueError(f"times = {self.times}: give at least one, and each once")
        Constant(loss_space=self.loss_space)

    def check(
        self, schedule: NoiseSchedule, prediction_type: PredictionType, network_input: NetworkInput
    ) -> None:
        """Refuses times at which a model has no finite loss.

        Raises:
            UserError: with the times.
        """
        level = noise_level(schedule, np.asarray(self.times, np.float32))
        shown = network_inputs(jnp.ones((len(self.times), 1)), level, network_input)
        target = prediction_type.coefficients(level)
        weighting = Constant(loss_space=self.loss_space)
        error = weighted_penalty(jnp.ones((len(self.times), 1)), prediction_type, level, weighting=weighting)
        numbers = np.stack([np.broadcast_to(np.ravel(n), len(self.times)) for n in (*shown, *target, error)])
        bad = [t for t, column in zip(self.times, numbers.T, strict=True) if not np.isfinite(column).all()]
        if bad:
            raise UserError(
                f"config.validation.times: at {bad} this schedule, prediction or network_input is infinite:"
                " give times between 0 and 1"
            )

    def losses(self, objective: Validated, mesh: Mesh) -> Callable[..., Float[Array, "times b"]]:
        """``(params, batch, rows, frozen) -> losses`` as one compiled program on ``mesh``: of every example
        at every time, or of each at its own.

        ``rows`` are the examples' places in the split, on which alone noise and times depend; ``frozen`` are
        the arrays that the objective reads, see `Objective.reading`.
        """
        times = jnp.asarray(self.times, jnp.float32)
        weighting = Constant(loss_space=self.loss_space)

        def at(
            reader: Validated, params: Params, batch: PyTree, rows: Int[Array, " b"], place: Int[Array, " b"]
        ) -> Float[Array, " b"]:
            keys = streams.sample_keys(streams.stream(self.seed, "validation"), rows)
            keys = jax.vmap(jax.random.fold_in)(keys, place)
            return reader.losses_at(params, batch, keys, times[place], weighting)

        @functools.partial(jax.jit, out_shardings=NamedSharding(mesh, PartitionSpec()))
        def program(params: Params, batch: PyTree, rows: Int[Array, " b"], frozen: PyTree) -> Array:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                reader = objective if frozen is None else objective.reading(frozen)
                if not self.every_time:
                    return at(reader, params, batch, rows, rows % len(self.times))[None]
                places = jnp.arange(len(self.times))
                return jax.lax.map(
                    lambda place: at(reader, params, batch, rows, jnp.full_like(rows, place)), places
                )

        return program

    def means(
        self, losses: Iterable[tuple[Float[np.ndarray, "times b"], Int[np.ndarray, " b"]]]
    ) -> dict[str, float | None]:
        """The ``validation_loss`` and ``validation_loss_at_T`` of every time, of the losses of all examples
        and their places; ``None`` where it is not finite.
        """
        sums, counts = np.zeros(len(self.times)), np.zeros(len(self.times), int)
        for values, rows in losses:
            # In double precision and one after the other, so that batches of any size have the same sum.
            each = np.asarray(values, np.float64)
            if self.every_time:
                sums, counts = sums + each.sum(1), counts + len(rows)
            else:
                np.add.at(sums, rows % len(self.times), each[0])
                np.add.at(counts, rows % len(self.times), 1)
        at = sums / counts
        named = {f"validation_loss_at_{t:g}": value for t, value in zip(self.times, at, strict=True)}
        found = {"validation_loss": at.mean(), **named}
        return {name: float(value) if math.isfinite(value) else None for name, value in found.items()}
