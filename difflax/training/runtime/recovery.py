"""Where a run starts, and where it goes back to when it breaks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from difflax.core.events import Events
from difflax.core.types import UserError
from difflax.training.runtime.checkpoints import Checkpoints
from difflax.training.state import TrainState


@dataclasses.dataclass
class Recovery:
    """The state of a run from the newest checkpoint, after an interruption or a roll-back.

    A roll-back takes the state and leaves the data where it is: the batches that broke the run are not seen
    again. How often a run was rolled back is stored with its checkpoints.

    Attributes:
        abstract: shapes and shardings of the state.
        init: makes the state before the first step.
        loader: whose position is restored.
        max_roll_backs: one more is an error.
    """

    checkpoints: Checkpoints
    abstract: TrainState
    init: Callable[[], TrainState]
    loader: Any
    events: Events
    max_roll_backs: int
    roll_backs: int = 0

    def start(self) -> TrainState:
        """The newest state, with the loader at its place; the first one in a new workdir."""
        if self.checkpoints.latest is None:
            return self.init()
        state, position = self.checkpoints.restore(self.abstract)
        try:
            self.loader.set_state(position["loader"])
            self.roll_backs = int(position["roll_backs"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"the checkpoint of step {int(state.step)} says no position in this data"
                f" ({type(error).__name__}: {error}): put back a copy, or train in a new workdir"
            ) from error
        return state

    def position(self) -> dict[str, Any]:
        """What is stored with a checkpoint, JSON values."""
        return {"loader": self.loader.get_state(), "roll_backs": self.roll_backs}

    def roll_back(self, state: TrainState, step: int, skipped: int) -> TrainState:
        """The state of the last good checkpoint, in place of ``state``, whose last ``skipped`` steps changed
        nothing.

        Raises:
            UserError: it went on like this too often, with what to do.
        """
        broken = f"loss or gradient was not finite in {skipped} steps in a row, up to step {step}"
        if self.roll_backs >= self.max_roll_backs:
            raise UserError(
                f"{broken}, and {self.roll_backs} roll-backs have not helped: lower"
                " config.optimizer.learning_rate, compute in float32, or look for broken examples;"
                " events.jsonl in the workdir lists what happened, and its newest checkpoint is of step"
                f" {self.checkpoints.newest(good=True) or 0}"
            )
        self.roll_backs += 1
        self.checkpoints.wait()
        jax.tree.map(lambda array: array.delete(), state)  # both would not fit
        if self.checkpoints.newest(good=True) is None:
            state = self.init()
        else:
            state, _ = self.checkpoints.restore(self.abstract, good=True)
        self.events(
            "roll_back",
            f"{broken}: back to step {int(state.step)}, on with other data"
            f" (roll-back {self.roll_backs} of at most {self.max_roll_backs})",
            step=step,
        )
        return state
