"""Snapshots of a run's power-function averages, and averages of any length rebuilt from them afterwards.

They lie in ``workdir/snapshots``, one folder a step, written and checked as checkpoints are, and all stay.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float, PyTree

from difflax.core.events import announce
from difflax.core.types import UserError
from difflax.training.ema import EMA
from difflax.training.power_averages import EMA_LENGTHS, LARGEST_ERROR, snapshot_weights
from difflax.training.runtime.checkpoints import Checkpoints
from difflax.training.runtime.retention import Retention
from difflax.training.state import TrainState

SNAPSHOTS = "snapshots"


class Snapshots:
    """The snapshots of a run; it writes none where ``ema`` keeps no profiles.

    Args:
        workdir: of the run.
        ema: which averages it keeps.
        max_failed_saves, report: see `Checkpoints`.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        ema: EMA,
        *,
        max_failed_saves: int = 3,
        report: Callable[[str], None] = announce,
    ):
        self._workdir, self._ema = epath.Path(workdir), ema
        self._stored = Checkpoints(
            self._workdir / SNAPSHOTS,
            retention=Retention(newest=1, every=1),
            max_failed_saves=max_failed_saves,
            report=report,
        )

    @property
    def steps(self) -> list[int]:
        """The steps that have a snapshot, in order."""
        return self._stored.steps

    def save(self, step: int, state: TrainState, last: int, config: dict[str, Any]) -> None:
        """Starts to write a snapshot, if one is due after ``step`` of a run of ``last`` steps.

        Raises:
            UserError: too many saves in a row have failed.
        """
        if not self._ema.profiles or (step % self._ema.snapshot_every and step != last):
            return
        averages = TrainState(
            step=state.step, params={}, opt_state={}, ema_params={}, profiles=state.profiles
        )
        self._stored.save(step, averages, {"step": step}, config, {})

    def wait(self) -> None:
        """Waits for what is being written. A checkpoint may be begun after that: a run which goes on from it
        has then all snapshots before it.
        """
        self._stored.wait()

    def rewind(self, step: int) -> None:
        """Deletes the snapshots after ``step``, which is where the run goes on."""
        self._stored.rewind(step)

    def close(self) -> None:
        """Waits for what is being written, whatever becomes of it."""
        self._stored.close()

    def rebuild(self, abstract: PyTree, length: float, step: int | None = None) -> tuple[PyTree, int]:
        """The average of a length at the step of a snapshot (the newest by default) from it and those before
        it, in the shapes of ``abstract``, where those say, or on this process's first device; and the step.

        Raises:
            UserError: no such length or snapshot, a damaged one, or the snapshots are too few or their
                lengths too far away for this one.
        """
        used, weights = self.plan(length, step)
        lengths = self._ema.profiles
        total = None
        for each, shares in zip(used, weights, strict=True):
            averages = self._stored.restore_part("profiles", (abstract,) * len(lengths), each)
            part = _weighted(averages, jnp.asarray(shares, jnp.float32))
            total = part if total is None else jax.tree.map(jnp.add, total, part)
        return total, used[-1]

    def plan(
        self, length: float, step: int | None = None
    ) -> tuple[list[int], Float[np.ndarray, "snapshots profiles"]]:
        """The steps of the snapshots that an average is summed from, and the weight of each profile in them.

        Raises:
            UserError: see `rebuild`.
        """
        EMA_LENGTHS.check(length, "ema_length")
        there = self.steps
        if not there or not self._ema.profiles:
            raise UserError(
                f"{self._workdir} has no snapshots of power-function averages, which an average of another"
                ' length is rebuilt from: train with config.ema.profiles="(0.05, 0.1)"'
            )
        step = there[-1] if step is None else step
        if step not in there:
            raise UserError(f"no snapshot of step {step} in {self._workdir}; there are {there}")
        used, lengths = [each for each in there if each <= step], self._ema.profiles
        weights, error = snapshot_weights(
            np.repeat(np.array(used, float), len(lengths)),
            np.tile(np.array(lengths, float), len(used)),
            float(step),
            length,
        )
        if error > LARGEST_ERROR:
            raise UserError(
                f"ema_length = {length}: the sum of snapshots that is nearest to it misses it by"
                f" {error:.0%}: choose a length nearer to config.ema.profiles = {lengths}, or take snapshots"
                f" more often than at {used}"
            )
        return used, weights.reshape(len(used), len(lengths))


@jax.jit
def _weighted(averages: tuple[PyTree, ...], weights: jax.Array) -> PyTree:
    return jax.tree.map(lambda *leaves: sum(w * a for w, a in zip(weights, leaves, strict=True)), *averages)
