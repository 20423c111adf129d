"""What a sweep has found, certified: a winner is named only where the paired bands leave no other, and beside
it stands what this design could have seen and what would decide.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from difflax.evaluation.ablation.results import AblationResult
from difflax.evaluation.ablation.scores import Scores, scores
from difflax.evaluation.contrasts.pairs import PairDifference, all_differences, differences_to, winner
from difflax.evaluation.contrasts.power import Components, Needed, components, detectable, needed
from difflax.evaluation.contrasts.ranking import best_shares, front_shares

ALL_PAIRS = 24
"""The most arms of which every pair is written down; of more, those with the leading arm."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Finding:
    """A metric of a prompt group over all arms.

    Attributes:
        scores: the values.
        lead: the arm whose mean is best.
        named: whether it may be called the winner, see `winner`.
        shares: in which share of the resamples each arm is best.
        pairs: every other arm against the leading one.
        parts: the variance components of each of these pairs; ``None`` where they cannot be known.
    """

    scores: Scores
    lead: int
    named: bool
    shares: Float[np.ndarray, " a"]
    pairs: tuple[PairDifference, ...]
    parts: tuple[Components | None, ...]

    @property
    def rival(self) -> int | None:
        """Which of ``pairs`` is the closest: the next best mean."""
        sign = self.scores.metric.sign
        gaps = [sign * pair.estimate.value for pair in self.pairs]
        return None if not gaps or np.all(np.isnan(gaps)) else int(np.nanargmax(gaps))

    @property
    def detectable(self) -> float:
        """The smallest difference that the design finds with 80 % power: the median over the pairs."""
        found = [detectable(parts) for parts in self.parts if parts is not None]
        return float(np.median(found)) if found else np.nan

    def needed(self, index: int) -> Needed | None:
        """What would decide a pair whose true difference is the one measured; ``None`` where it is decided
        or cannot be known.
        """
        parts, pair = self.parts[index], self.pairs[index]
        return None if parts is None or pair.decided else needed(parts, pair.estimate.value)


def finding(found: Scores) -> Finding | None:
    """What one metric says of one group; ``None`` for a metric without a good direction, or of one arm."""
    sign = found.metric.sign
    lead = winner(found.values, found.prompts, sign) if sign and len(found.values) > 1 else None
    if lead is None:
        return None
    pairs = tuple(differences_to(found.values, found.prompts, lead[0]))
    return Finding(
        scores=found,
        lead=lead[0],
        named=lead[1],
        shares=best_shares(found.values, found.prompts, sign),
        pairs=pairs,
        parts=tuple(
            components(found.values[pair.second] - found.values[pair.first], found.prompts)
            if pair.estimate.count
            else None
            for pair in pairs
        ),
    )


def certified_metrics(result: AblationResult) -> list[str]:
    """What the whole story is told by: the aspects of the judge, or the metric that decides the best arm."""
    return result.triangle or [result.primary]


def findings(result: AblationResult) -> list[Finding]:
    """What each of `certified_metrics` says of each prompt group."""
    found = []
    for metric in certified_metrics(result):
        for each in result.measured:
            if each.metric.name == metric:
                values = scores(result, each.group, metric)
                said = None if values is None else finding(values)
                found += [] if said is None else [said]
    return found


def pairs_of(finding: Finding) -> Iterator[PairDifference]:
    """Every pair of arms, or those with the leading arm where arms are many."""
    if len(finding.scores.values) > ALL_PAIRS:
        return iter(finding.pairs)
    return all_differences(finding.scores.values, finding.scores.prompts)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Front:
    """The Pareto front of a prompt group.

    Attributes:
        metrics: the names of what is traded.
        on: which arms are on the front of the means.
        shares: in which share of the resamples each arm is on it.
    """

    group: str
    metrics: tuple[str, ...]
    on: Bool[np.ndarray, " a"]
    shares: Float[np.ndarray, " a"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Certified:
    """What may be said of a result."""

    findings: list[Finding]
    fronts: list[Front]


def fronts(result: AblationResult) -> list[Front]:
    """The front of alignment, coverage and fidelity, or of what else the judge's aspects are, in every group
    that has two of them or more.
    """
    found = []
    for group in result.groups:
        measured = {each.metric.name for each in result.measured if each.group == group.name}
        all_of = [scores(result, group.name, name) for name in result.triangle if name in measured]
        values = [each for each in all_of if each is not None and each.metric.sign]
        if len(values) < 2:
            continue
        on, shares = front_shares([each.objective for each in values])
        names = tuple(each.metric.name for each in values)
        found.append(Front(group=group.name, metrics=names, on=on, shares=shares))
    return found
