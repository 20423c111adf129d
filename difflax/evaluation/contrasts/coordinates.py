"""The best point of a grid, one coordinate after the other, and how sure each choice is.

What is measured of a point is one value a prompt, drawn with the same noise at every point, so that points
are compared prompt by prompt.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from difflax.evaluation import statistics as st
from difflax.evaluation.contrasts.pairs import PairDifference, differences_to, leads_over

Point = tuple[float, ...]
Measure = Callable[[Sequence[Point]], Float[np.ndarray, "a n"]]
"""Of points, each once, a value a prompt; NaN where there is none."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """One coordinate varied, the others held.

    Attributes:
        coordinate: its place in a point.
        values: that it had, increasing, that of the base among them.
        scores: what was measured, a row a value.
        base: which of the values the base has.
    """

    coordinate: int
    values: tuple[float, ...]
    scores: Float[np.ndarray, "v n"]
    base: int

    @property
    def best(self) -> int:
        """Which value is best on average; of equals the base's, else the smallest."""
        means = np.nanmean(self.scores, axis=1)
        return self.base if means[self.base] == means.max() else int(means.argmax())

    @property
    def gain(self) -> PairDifference:
        """What the best value has beyond the base, or the second best where the base is the best; with a 95 %
        band of its own.
        """
        means = np.nanmean(self.scores, axis=1)
        ranked = [int(index) for index in np.argsort(-means, kind="stable") if index != self.base]
        other = self.best if self.best != self.base else ranked[0]
        pairs = differences_to(self.scores, self._prompts, self.base)
        return next(pair for pair in pairs if pair.second == other)

    @property
    def decided(self) -> bool:
        """Whether the best value beats the base by bands that hold for all pairs of values together."""
        if self.best == self.base:
            return False
        return self.gain.decided and leads_over(self.scores, self._prompts, self.best, self.base)

    @property
    def range(self) -> tuple[float, float]:
        """The values between which the best one lies in 95 % of the resamples of the prompts."""
        asked = ~np.isnan(self.scores).any(0)
        totals = st.resampled(self.scores[:, asked])
        found = np.asarray(self.values)[totals.argmax(1)]
        low, high = np.quantile(found, [(1 - st.CONFIDENCE) / 2, (1 + st.CONFIDENCE) / 2], method="nearest")
        return float(low), float(high)

    @property
    def _prompts(self) -> np.ndarray:
        return np.arange(self.scores.shape[1])


def lines_through(measure: Measure, base: Point, grid: Sequence[float]) -> list[Line]:
    """Each coordinate of ``base`` alone varied over ``grid``; all points are measured together."""
    values = sorted({*grid, *base})
    wanted = [_at(base, place, value) for place in range(len(base)) for value in sorted({*grid, base[place]})]
    points = list(dict.fromkeys(wanted))
    measured = dict(zip(points, measure(points), strict=True))
    return [
        _line(base, place, [v for v in values if _at(base, place, v) in measured], measured)
        for place in range(len(base))
    ]


def _line(base: Point, place: int, values: Sequence[float], measured: dict[Point, np.ndarray]) -> Line:
    scores = np.stack([measured[_at(base, place, value)] for value in values])
    return Line(coordinate=place, values=tuple(values), scores=scores, base=values.index(base[place]))


def _at(base: Point, place: int, value: float) -> Point:
    return (*base[:place], value, *base[place + 1 :])


def descend(
    measure: Measure, start: Point, grid: Sequence[float], order: Sequence[int], passes: int
) -> list[Point]:
    """Coordinate descent: every coordinate in ``order`` takes its best value given all others, in turn.

    Args:
        passes: over all coordinates, at most; one that changes nothing is the last.

    Returns:
        the points from ``start`` on; the last one is where it ends.
    """
    path = [start]
    for _ in range(passes):
        before = path[-1]
        for place in order:
            here = path[-1]
            values = sorted({*grid, here[place]})
            scores = measure([_at(here, place, value) for value in values])
            line = Line(coordinate=place, values=tuple(values), scores=scores, base=values.index(here[place]))
            if line.best != line.base:
                path.append(_at(here, place, values[line.best]))
        if path[-1] == before:
            break
    return path
