"""Why two results of `difflax measure` differ: what their manifests do not share is swapped, one thing at a
time, and the number measured again.
"""

import json
from collections.abc import Sequence

from etils import epath

from difflax.core.spelling import choose
from difflax.core.types import UserError
from difflax.evaluation.ablation.explanation import Cause, ExplainedGap, Explanation
from difflax.evaluation.contrasts.attribution import Mixture, attribute_sets, mixtures
from difflax.evaluation.measuring.numbers import MeasuredNumber, read_numbers
from difflax.evaluation.metrics import Metric
from difflax.runs.remeasured import (
    COUNT_CAUSE,
    HEAD_CAUSE,
    IMAGES_CAUSE,
    LEFT_OUT_GROUPS,
    PROMPTS_CAUSE,
    REFERENCE_CAUSE,
    RESIZE_CAUSE,
    WEIGHTS_CAUSE,
    Remeasured,
    Taken,
)

OF_SETS = (
    "A share is what swapping one cause changes of a number of the whole set of images. Its band is a"
    f" jackknife: up to {LEFT_OUT_GROUPS} groups of images are left out in turn, the same ones in every"
    " mixture, and images of one prompt are in one group; the reference is taken as it is. Unexplained is"
    " what the stored results differ by beyond what was measured here."
)
"""What the shares of two numbers are."""


def explain_measured(
    first: epath.PathLike,
    second: epath.PathLike,
    *,
    names: Sequence[str],
    metric: str | None = None,
    output: epath.PathLike,
) -> ExplainedGap:
    """What each thing that two results of `difflax measure` do not share has to do with the gap in a number.

    Args:
        first, second: their files.
        names: of both, for people.
        metric: a number in both, by its name; by default the first.
        output: folder where features are kept.

    Raises:
        UserError: no such number, nothing that differs, or images, references or weights that are not there
            any more or not what was measured.
    """
    sides = _numbers(first, second, metric)
    return explain_pair(Remeasured(sides=sides, cache=epath.Path(output) / "features"), names)


def explain_pair(pair: Remeasured, names: Sequence[str]) -> ExplainedGap:
    """The same of two numbers; errors as for `explain_measured`."""
    sides = pair.sides
    pair.check()
    found = causes(pair)
    if not found:
        raise UserError("the two results share all that their manifests name: nothing can be swapped")
    values = {
        mixture: pair.values(taken(found, mixture))
        for mixture in mixtures(len(found), lambda mixture: possible(pair, taken(found, mixture)))
    }
    ends = [float(values[mixture][0]) for mixture in (frozenset(), frozenset(range(len(found))))]
    stored = (sides[0].value, sides[1].value)
    counts = [len(pair.images(number)) for number in (0, 1)]
    explained = Explanation(
        group="all images",
        metric=_metric(sides[0]),
        first=ends[0],
        second=ends[1],
        stored=stored,
        attribution=attribute_sets(values, len(found), count=min(counts), clusters=min(pair.cluster_counts)),
        rest=(stored[1] - stored[0]) - (ends[1] - ends[0]),
    )
    return ExplainedGap(
        names=(names[0], names[1]),
        sources=tuple(json.dumps(side.manifest, indent=2, ensure_ascii=False) for side in sides),
        causes=found,
        explained=[explained],
        untouched=[
            Cause(name=name, first=str(one), second=str(other))
            for name in ("difflax", "decoding")
            for one, other in [[side.manifest.get(name) for side in sides]]
            if one != other
        ],
        note=OF_SETS,
    )


def _numbers(
    first: epath.PathLike, second: epath.PathLike, metric: str | None
) -> tuple[MeasuredNumber, MeasuredNumber]:
    both = [read_numbers(file) for file in (first, second)]
    shared = {name: number for name, number in both[0].items() if name in both[1]}
    if not shared:
        raise UserError(f"{first} and {second} have no number in common: {', '.join(both[0])}")
    name = next(iter(shared)) if metric is None else metric
    one, other = choose(shared, name, "--metric"), both[1][name]
    if one.manifest["measure"] != other.manifest["measure"]:
        raise UserError(f"{name} is of other measures in {first} and {second}")
    return one, other


def causes(pair: Remeasured) -> list[Cause]:
    """What the two numbers do not share, in a fixed order."""
    one, other = pair.sides

    def differ(part: str) -> bool:
        return one.of(part) != other.of(part)

    found = []

    def add(name: str, said: Sequence[object]) -> None:
        found.append(Cause(name=name, first=str(said[0]), second=str(said[1])))

    places = {part: [side.of(part, "where") for side in pair.sides] for part in ("images", "prompts", "head")}
    if differ("images"):
        add(IMAGES_CAUSE, places["images"])
        counts = [len(pair.images(number)) for number in (0, 1)]
        if counts[0] != counts[1]:
            add(COUNT_CAUSE, counts)
    elif differ("prompts"):
        add(PROMPTS_CAUSE, places["prompts"])
    if differ("reference"):
        add(REFERENCE_CAUSE, [side.of("reference", "where") for side in pair.sides])
    resizes = [pair.resize(number) for number in (0, 1)]
    if resizes[0] != resizes[1]:
        add(RESIZE_CAUSE, resizes)
    if key := pair.measure.network:
        # With one resize, which the fingerprint of a network has in it.
        weights = [pair.networks(number, 0, 0).images[key].fingerprint for number in (0, 1)]
        if weights[0] != weights[1]:
            add(WEIGHTS_CAUSE, [side.of("network", "where") for side in pair.sides])
    if differ("head"):
        add(HEAD_CAUSE, places["head"])
    settings = [side.manifest["settings"] for side in pair.sides]
    for name, value in settings[0].items():
        if value != settings[1].get(name):
            add(name, [value, settings[1].get(name)])
    return found


def taken(found: Sequence[Cause], mixture: Mixture) -> Taken:
    """Which causes are the second result's."""
    return {found[number].name: 1 for number in mixture}


def possible(pair: Remeasured, chosen: Taken) -> bool:
    """Whether there are as many images as are asked for."""
    held, asked = (len(pair.images(chosen.get(cause, 0))) for cause in (IMAGES_CAUSE, COUNT_CAUSE))
    return asked <= held


def _metric(number: MeasuredNumber) -> Metric:
    one = number.measure
    return Metric(
        name=number.name,
        label=number.name,
        definition=one.says,
        source="difflax.MeasureSettings and the manifests",
        bounds=(0.0, None) if one.gaussian else (None, None),
    )
