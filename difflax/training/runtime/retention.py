"""Which checkpoints stay on the disk."""

import dataclasses
import math
from typing import Literal


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

    def kept(self, metrics: dict[int, float | None]) -> set[int]:
        """The steps that stay, of those that there are with their metric."""
        steps = sorted(metrics)
        kept = set(steps[-self.newest :])
        if self.every:
            kept |= {step for step in steps if step % self.every == 0}
        sign = 1 if self.best_is == "lowest" else -1
        measured = [step for step in steps if metrics[step] is not None and math.isfinite(metrics[step])]
        return kept | set(sorted(measured, key=lambda step: sign * metrics[step])[: self.best])
