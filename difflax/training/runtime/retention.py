"""Which checkpoints stay on the disk, decided by Orbax's preservation policies.

Orbax's ``CheckpointManager`` itself is not used: it counts a folder as a checkpoint once it has its name,
while here one counts by its manifest, so that damage is found and the one before it is taken; and it has no
word for a checkpoint that a roll-back must not end at.
"""

import dataclasses
import datetime
import math
from typing import Literal

from orbax.checkpoint import checkpoint_managers as orbax


@dataclasses.dataclass(frozen=True)
class _Kept:
    """A checkpoint as the policies read it."""

    step: int
    metrics: float | None
    time: datetime.datetime = datetime.datetime.min


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retention:
    """Which checkpoints stay. One that any of these rules keeps, stays.

    Attributes:
        newest: so many of the newest.
        every: those whose step is a multiple of it; 0: none.
        best: so many with the best ``metric``, a number of the log lines; 0: none.
        best_is: whether a low or a high number is good.
    """

    newest: int = 2
    every: int = 0
    best: int = 0
    metric: str = "loss"
    best_is: Literal["lowest", "highest"] = "lowest"

    @property
    def policy(self) -> orbax.AnyPreservationPolicy:
        """These rules in Orbax's words."""
        best = orbax.BestN(
            get_metric_fn=float,
            reverse=self.best_is == "lowest",  # it keeps the last of a sorted list
            n=self.best,
            keep_checkpoints_without_metrics=False,
        )
        every = [orbax.EveryNSteps(self.every)] if self.every else []
        return orbax.AnyPreservationPolicy([orbax.LatestN(self.newest), best, *every])

    def kept(self, metrics: dict[int, float | None]) -> set[int]:
        """The steps that stay, of those that there are with their metric."""
        measured = {s: m if m is not None and math.isfinite(m) else None for s, m in metrics.items()}
        there = [_Kept(step, measured[step]) for step in sorted(metrics)]
        stays = self.policy.should_preserve(there, context=orbax.PreservationContext())
        return {checkpoint.step for checkpoint, yes in zip(there, stays, strict=True) if yes}
