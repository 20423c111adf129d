"""GenEval (Ghosh, Hajishirzi and Schmidt 2023): detectors tell whether an image has the objects, their
number, colours and places that its prompt names.

    evaluation_metadata.jsonl              a line a prompt: its text, its task (``tag``), what must be there
    <arm>/00000/metadata.jsonl             the line of the prompt
    <arm>/00000/samples/00000.png          its images
    <arm>/results.jsonl                    what evaluate_images.py says, a line an image

The benchmark's number is the mean over its tasks of the share of right images (its summary_scores.py). So
that it is a mean over images here too, an image of a task with ``n`` of all ``N`` images and ``T`` tasks
counts ``N / (T n)`` times.
"""

import dataclasses
import json
import re
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import Float

from difflax.core.documents import json_object
from difflax.core.types import UserError
from difflax.data.texts import lines_of, read_text
from difflax.evaluation.layouts.base import BenchmarkPrompt, once
from difflax.evaluation.metrics import Metric

RESULTS = "results.jsonl"
GENEVAL_PAPER = "Ghosh, Hajishirzi and Schmidt 2023, arXiv:2310.11513"
OVERALL = Metric(
    name="geneval",
    label="GenEval",
    unit="mean over tasks",
    better="higher",
    definition="Mean over GenEval's tasks of the share of images that its detectors find right.",
    source=GENEVAL_PAPER,
    note=(
        "In the records an image counts by how rare its task is, so that the mean over images is this number."
        " Prompts are drawn again without regard to tasks, which makes the band a little wide."
    ),
    bounds=(0.0, None),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenEval:
    """See the module."""

    title: str = "GenEval"

    def read_prompts(self, path: epath.PathLike, where: str) -> list[BenchmarkPrompt]:
        """The lines of ``evaluation_metadata.jsonl``."""
        found = []
        for number, line in enumerate(lines_of(read_text(path, where)), 1):
            if not line.strip():
                continue
            try:
                facts = json_object(line)
                found.append(
                    BenchmarkPrompt(
                        prompt=_text(facts["prompt"]), facts={**facts, "tag": _text(facts["tag"])}
                    )
                )
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{where}, line {number}: no prompt of GenEval ({type(error).__name__}: {error}): give"
                    " its evaluation_metadata.jsonl"
                ) from None
        return once(found, where)

    def image(self, asked: BenchmarkPrompt, number: int, place: int, seeds: int) -> str:
        """``00012/samples/00003.png``."""
        return f"{number:05d}/samples/{place:05d}.png"

    def files(self, asked: Sequence[BenchmarkPrompt]) -> dict[str, str]:
        """The line of each prompt."""
        return {f"{n:05d}/metadata.jsonl": json.dumps(dict(each.facts)) for n, each in enumerate(asked)}

    def metrics(self, asked: Sequence[BenchmarkPrompt]) -> tuple[Metric, ...]:
        """The mean over tasks, and each task."""
        return (OVERALL, *map(_task, dict.fromkeys(each.facts["tag"] for each in asked)))

    def scores(
        self, folder: epath.Path, asked: Sequence[BenchmarkPrompt], seeds: int
    ) -> dict[str, Float[np.ndarray, " n"]]:
        """Of ``results.jsonl``."""
        path = folder / RESULTS
        if not path.exists():
            return {}
        right = np.full((len(asked), seeds), np.nan)
        for number, line in enumerate(lines_of(read_text(path)), 1):
            if line.strip():
                prompt, place, value = _verdict(line, f"{path}, line {number}", asked, seeds)
                right[prompt, place] = value
        missing = int(np.isnan(right).sum())
        if missing:
            raise UserError(f"{path}: {missing} of {right.size} images have no score: evaluate all of them")
        right = right.ravel()
        tags = np.repeat([each.facts["tag"] for each in asked], seeds)
        names, counts = np.unique(tags, return_counts=True)
        weights = len(tags) / (len(names) * counts)
        found = {OVERALL.name: right * weights[np.searchsorted(names, tags)]}
        return found | {_task(name).name: np.where(tags == name, right, np.nan) for name in names.tolist()}


def _task(tag: str) -> Metric:
    said = tag.replace("_", " ")
    return Metric(
        name=f"{OVERALL.name}_{tag}",
        label=f"GenEval: {said}",
        unit="share of images",
        better="higher",
        definition=f"Share of the images of the task “{said}” that GenEval's detectors find right.",
        source=GENEVAL_PAPER,
        bounds=(0.0, 1.0),
        part_of=OVERALL.name,
    )


def _text(value: object) -> str:
    if type(value) is not str or not value.strip():
        raise ValueError(f"{value!r} is no text")
    return value


def _verdict(line: str, where: str, asked: Sequence[BenchmarkPrompt], seeds: int) -> tuple[int, int, bool]:
    """Which image a line is of, and whether it is right."""
    try:
        said = json_object(line)
        found = re.search(r"(\d+)[/\\]samples[/\\](\d+)\.png$", said["filename"])
        number, place = (int(digits) for digits in found.groups())
        prompt, right = said["prompt"], {True: True, False: False}[said["correct"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{where}: no line of GenEval's evaluate_images.py ({type(error).__name__}: {error})"
        ) from None
    if number >= len(asked) or place >= seeds or asked[number].prompt != prompt:
        raise UserError(f"{where}: {said['filename']} ({prompt!r}) is no image of this sweep")
    return number, place, right
