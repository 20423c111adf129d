"""Why two results of "the same" model differ: one thing is swapped at a time, on the same prompts and seeds.

Each cause is a setting that the two results do not share. Mixtures of both are drawn and measured, and
`difflax.evaluation.contrasts.attribution` says what each cause has to do with the gap. What the stored
results differ by beyond the gap that was measured here is the rest that no cause explains: another version of
the code, another machine, or something that the results do not record.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from difflax.core.files import atomic_write
from difflax.core.types import UserError
from difflax.evaluation.ablation.arms import Arm
from difflax.evaluation.ablation.results import AblationResult
from difflax.evaluation.ablation.scores import Scores, scores
from difflax.evaluation.ablation.tables import without_nan
from difflax.evaluation.ablation.values import canonical, words
from difflax.evaluation.contrasts.attribution import Attribution, Mixture, attribute, mixtures
from difflax.evaluation.metrics import Metric

FORMAT_OF_EXPLANATION = "difflax-explanation-1"
SEEDS_CAUSE, JUDGE_CAUSE, FEATURES_CAUSE = "seeds", "judge", "feature weights"
READER_CAUSES = (JUDGE_CAUSE, FEATURES_CAUSE)
"""What reads the images; each can be another one without the other."""

AS_IT_IS = "as the model has it"
GOES_WITH = {"step": "model", "lora_scale": "lora"}
"""Axes that mean nothing without another one: where that differs, they are swapped with it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cause:
    """One thing that two results do not share.

    Attributes:
        name: of the axis, or "seeds", or one of `READER_CAUSES`.
        first, second: what it is in each, in words.
    """

    name: str
    first: str
    second: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two results.

    Attributes:
        settings: by axis; what is missing is as the model has it.
        seeds: of every prompt.
        readers: what read the images, in words, by the names of `READER_CAUSES`.
    """

    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    readers: Mapping[str, str]


def causes(first: Side, second: Side) -> list[Cause]:
    """What the two sides do not share, in a fixed order."""
    differ = [
        name
        for name in dict.fromkeys([*first.settings, *second.settings])
        if _compared(first, name) != _compared(second, name)
    ]
    found = []
    for leader in differ:
        if GOES_WITH.get(leader) not in differ:
            names = [leader, *(name for name in differ if GOES_WITH.get(name) == leader)]
            said = [", ".join(_said(side, names)) for side in (first, second)]
            found.append(Cause(name=leader, first=said[0], second=said[1]))
    if first.seeds != second.seeds:
        found.append(
            Cause(name=SEEDS_CAUSE, first=_seeds_in_words(first.seeds), second=_seeds_in_words(second.seeds))
        )
    return found + [
        Cause(name=name, first=first.readers[name], second=second.readers[name])
        for name in READER_CAUSES
        if first.readers[name] != second.readers[name]
    ]


def _compared(side: Side, name: str) -> str:
    return canonical(side.settings[name]) if name in side.settings else ""


def _said(side: Side, names: Sequence[str]) -> list[str]:
    """The values of a leading axis and of those that go with it."""
    leader, *others = names
    value = words(side.settings[leader]) if leader in side.settings else AS_IT_IS
    return [value, *(f"{name} {words(side.settings[name])}" for name in others if name in side.settings)]


def _seeds_in_words(seeds: Sequence[int]) -> str:
    shown = ", ".join(map(str, seeds[:6]))
    return shown if len(seeds) <= 6 else f"{shown}, … ({len(seeds)})"


def mixed(first: Side, second: Side, found: Sequence[Cause], mixture: Mixture) -> Side:
    """The first side with the causes of a mixture as the second one has them."""
    swapped = {found[number].name for number in mixture}
    named = {cause.name for cause in found}
    settings = dict(first.settings)
    for name in dict.fromkeys([*first.settings, *second.settings]):
        leader = name if name in named else GOES_WITH.get(name)
        if leader in swapped:
            settings.pop(name, None)
            if name in second.settings:
                settings[name] = second.settings[name]
    return Side(
        settings=settings,
        seeds=second.seeds if SEEDS_CAUSE in swapped else first.seeds,
        readers={name: (second if name in swapped else first).readers[name] for name in READER_CAUSES},
    )


Measure = Callable[[list[Arm], Side], AblationResult]
"""``measure(arms, side) -> result``: draws the arms with the seeds of a side and reads them as it does."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """A metric of a prompt group explained.

    Attributes:
        first, second: what was measured here of both ends.
        stored: what the two results say of themselves.
        attribution: of the gap between ``first`` and ``second``.
        rest: the stored gap less the measured one.
    """

    group: str
    metric: Metric
    first: float
    second: float
    stored: tuple[float, float]
    attribution: Attribution
    rest: float


def explain(
    first: Side,
    second: Side,
    stored: tuple[Mapping[str, float], Mapping[str, float]],
    metric: str,
    measure: Measure,
) -> tuple[list[Cause], list[Explanation]]:
    """What each cause has to do with the gap in a metric, for every prompt group.

    Args:
        stored: the value that each result holds, by group.
        metric: one that has a value for each image or prompt.

    Raises:
        UserError: the results share everything, or the metric has one value for a whole set of images.
    """
    found = causes(first, second)
    if not found:
        raise UserError("the two results share every setting that they record: nothing can be swapped")
    sides = {mixture: mixed(first, second, found, mixture) for mixture in mixtures(len(found))}
    values: dict[str, dict[Mixture, np.ndarray]] = {}
    clusters: dict[str, np.ndarray] = {}
    described: dict[str, Metric] = {}
    for mixture, result, index in _measured(sides, measure):
        for group in result.groups:
            held = _scores(result, group.name, metric)
            if held is not None:
                clusters[group.name], by_prompt = _by_prompt(held, index)
                values.setdefault(group.name, {})[mixture] = by_prompt
                described[group.name] = held.metric
    explained = []
    for group, measured in values.items():
        ends = [float(np.nanmean(measured[m])) for m in (frozenset(), frozenset(range(len(found))))]
        said = tuple(each.get(group, np.nan) for each in stored)
        explained.append(
            Explanation(
                group=group,
                metric=described[group],
                first=ends[0],
                second=ends[1],
                stored=said,
                attribution=attribute(measured, clusters[group], len(found)),
                rest=(said[1] - said[0]) - (ends[1] - ends[0]),
            )
        )
    if not explained:
        raise UserError(f"--metric={metric}: no prompt group has a value of it for each image or prompt")
    return found, explained


def _measured(sides: Mapping[Mixture, Side], measure: Measure):
    """Each mixture with the result that holds it and the number of its arm; one sweep for all that share
    seeds and readers.
    """
    sweeps: dict[tuple, dict[Mixture, Side]] = {}
    for mixture, side in sides.items():
        read = tuple(side.readers[name] for name in READER_CAUSES)
        sweeps.setdefault((side.seeds, read), {})[mixture] = side
    for members in sweeps.values():
        arms = {canonical(side.settings): Arm(settings=side.settings) for side in members.values()}
        result = measure(list(arms.values()), next(iter(members.values())))
        places = {arm.key: number for number, arm in enumerate(result.arms)}
        for mixture, side in members.items():
            yield mixture, result, places[Arm(settings=side.settings).key]


def _scores(result: AblationResult, group: str, metric: str) -> Scores | None:
    if not any((each.group, each.metric.name) == (group, metric) for each in result.measured):
        return None
    return scores(result, group, metric)


def _by_prompt(held: Scores, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each prompt: other seeds have no image in common, but they have the prompt."""
    prompts = np.unique(held.prompts)
    row = held.values[index]
    means = [row[(held.prompts == prompt) & ~np.isnan(row)] for prompt in prompts]
    return prompts, np.array([each.mean() if len(each) else np.nan for each in means])


OF_PROMPTS = (
    "A share is what swapping one cause changes, taken prompt by prompt, with a band from drawing the prompts"
    " again. Unexplained is what the stored results differ by beyond what was measured here."
)
"""What the shares of two sweeps are."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ExplainedGap:
    """All that is said of two results.

    Attributes:
        names: of the results, for people.
        sources: what each says of how it came about: its command, or its manifest.
        causes: what was swapped.
        explained: the metric in each prompt group.
        untouched: what the results do not share either, and what nothing swaps.
        note: what a share and its band are.
    """

    names: tuple[str, str]
    sources: tuple[str, str]
    causes: Sequence[Cause]
    explained: Sequence[Explanation]
    untouched: Sequence[Cause] = ()
    note: str = OF_PROMPTS


def explanation_json(comparison: ExplainedGap) -> str:
    """Everything as JSON."""
    document = {
        "format": FORMAT_OF_EXPLANATION,
        "results": list(comparison.names),
        "sources": list(comparison.sources),
        "causes": [dataclasses.asdict(cause) for cause in comparison.causes],
        "untouched": [dataclasses.asdict(cause) for cause in comparison.untouched],
        "explained": [
            {
                "group": each.group,
                "metric": dataclasses.asdict(each.metric),
                "first": each.first,
                "second": each.second,
                "stored": list(each.stored),
                "orders": each.attribution.orders,
                "gap": dataclasses.asdict(each.attribution.gap),
                "shares": [
                    {"cause": cause.name, **dataclasses.asdict(share)}
                    for cause, share in zip(comparison.causes, each.attribution.shares, strict=True)
                ],
                "together": dataclasses.asdict(each.attribution.together),
                "unexplained": each.rest,
            }
            for each in comparison.explained
        ],
        "note": comparison.note,
    }
    return json.dumps(without_nan(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_text(directory: str | os.PathLike[str], files: Mapping[str, str | bytes]) -> None:
    """Writes files into a folder, each whole or not at all."""
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        with atomic_write(epath.Path(directory) / name) as file:
            file.write(data)
