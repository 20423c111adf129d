"""The ranges of numbers, as annotations say them: ``Annotated[int, Range(1, 512)]``.

`difflax.core.kinds` reads them, so a field that declares its range is checked wherever it is set: in a
config, on the command line, in the ``config.json`` of a checkpoint.
"""

import dataclasses
import math
from typing import Annotated, Any

from difflax.core.types import UserError


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``.

    Attributes:
        above: whether ``low`` itself is left out.
    """

    low: float | int = -math.inf
    high: float | int = math.inf
    above: bool = False

    @property
    def words(self) -> str:
        """What it is called in errors."""
        if self.low == -math.inf:
            least = ""
        elif self.above:
            least = "positive" if self.low == 0 else f"above {self.low:,}"
        else:
            least = "not negative" if self.low == 0 else f"at least {self.low:,}"
        most = "" if self.high == math.inf else f"at most {self.high:,}"
        return " and ".join(filter(None, (least, most)))

    def check(self, value: Any, where: str) -> None:
        """Refuses a number outside; NaN is outside of every range.

        Raises:
            UserError: naming ``where``.
        """
        if not (self.low < value if self.above else self.low <= value) or not value <= self.high:
            raise UserError(f"{where} = {value} must be {self.words}")


Count = Annotated[int, Range(1, 2**31 - 1)]
"""How many there are of something."""

Width = Annotated[int, Range(1, 2**16)]
"""Of a layer; the widest that are in use have about 20,000."""

Vocabulary = Annotated[int, Range(1, 2**24)]
"""Rows of a table of tokens."""

Depth = Annotated[int, Range(1, 512)]
"""How many layers follow each other; each is built by itself."""

BlockDepth = Annotated[int, Range(1, 32)]
"""The same within a block, of which a network has several; the deepest in use have 10."""

MAX_EDGE = 2**15
Edge = Annotated[int, Range(1, MAX_EDGE)]
"""Of an image, in pixels."""

MAX_STEPS = 100_000
StepCount = Annotated[int, Range(1, MAX_STEPS)]
"""Of a sampling run."""

MAX_TOKENS = 10_000
"""Of a prompt or caption; no encoder reads as many."""

NotNegative = Annotated[float | int, Range(0)]
"""A number that may be nothing."""

Share = Annotated[float | int, Range(0, 1)]
"""A part of the whole."""

Examples = Annotated[int, Range(1, 10**8)]
"""Of a data set that is made here."""

Positive = Annotated[float | int, Range(0, above=True)]
"""A number by which something is divided or multiplied."""
