"""T2I-CompBench (Huang et al. 2023): questions, detectors and CLIP score compositions, a file of prompts and
a score for each kind of composition.

    color_val.txt                                   a prompt a line
    <arm>/samples/<prompt>_000000.png               images, numbered through all prompts
    <arm>/annotation_blip/vqa_result.json           scores, ``{"question_id": …, "answer": …}`` an image

The scripts take the prompt from the name of the file, up to its first underscore. The benchmark's number is
the mean over all images of a file of prompts.
"""

import dataclasses
import json
import math
from collections.abc import Sequence

import numpy as np
from etils import epath
from jaxtyping import Float

from difflax.core.types import UserError
from difflax.data.texts import read_lines, read_text
from difflax.evaluation.layouts.base import BenchmarkPrompt, once
from difflax.evaluation.metrics import Metric

SCORES_FILE = "vqa_result.json"
LONGEST_NAME = 255
"""Bytes of a file's name."""
T2I_PAPER = "Huang et al. 2023, arXiv:2307.06350"


def _score(name: str, label: str, what: str, most: float | None = 1.0) -> Metric:
    return Metric(
        name=f"t2i_{name}",
        label=label,
        better="higher",
        definition=f"Mean over images of T2I-CompBench's {what}.",
        source=T2I_PAPER,
        bounds=(0.0 if most else None, most),
    )


METRICS = {
    _score(
        "3_in_1", "T2I-CompBench: 3-in-1", "mean of BLIP-VQA, UniDet and CLIP, as the prompt asks for them"
    ): ("annotation_3_in_1",),
    _score(
        "blip_vqa", "T2I-CompBench: BLIP-VQA", "product of BLIP's answers whether each noun phrase is there"
    ): ("annotation_blip",),
    # The second is what the script of the first version writes.
    _score("unidet_2d", "T2I-CompBench: UniDet, 2D", "score of detected objects and their places"): (
        "labels/annotation_obj_detection_2d",
        "labels/annotation_obj_detection",
    ),
    _score("unidet_3d", "T2I-CompBench: UniDet, 3D", "score of detected objects and their depths"): (
        "labels/annotation_obj_detection_3d",
    ),
    _score("numeracy", "T2I-CompBench: numeracy", "score of how many of each object are detected"): (
        "annotation_num",
    ),
    _score("clip", "T2I-CompBench: CLIP", "cosine of image and prompt in CLIP's space", None): (
        "annotation_clip",
    ),
}
"""The folders of each score, the first that is there counts; the one that is made of others comes first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class T2ICompBench:
    """See the module."""

    title: str = "T2I-CompBench"

    def read_prompts(self, path: epath.PathLike, where: str) -> list[BenchmarkPrompt]:
        """The lines of a file, up to a tab where one has more, as in the benchmark's inference_eval.py."""
        found = [BenchmarkPrompt(prompt=line.split("\t")[0].strip()) for line in read_lines(path, where)]
        for each in found:
            _check_name(each.prompt, where)
        return once(found, where)

    def image(self, asked: BenchmarkPrompt, number: int, place: int, seeds: int) -> str:
        """``samples/a green bench and a blue bowl_000012.png``."""
        _check_name(asked.prompt, "the prompts")
        return f"samples/{asked.prompt}_{number * seeds + place:06d}.png"

    def files(self, asked: Sequence[BenchmarkPrompt]) -> dict[str, str]:
        """None."""
        return {}

    def metrics(self, asked: Sequence[BenchmarkPrompt]) -> tuple[Metric, ...]:
        """Every score, whatever the kind of the prompts."""
        return tuple(METRICS)

    def scores(
        self, folder: epath.Path, asked: Sequence[BenchmarkPrompt], seeds: int
    ) -> dict[str, Float[np.ndarray, " n"]]:
        """Of every ``vqa_result.json``."""
        found = {}
        for metric, places in METRICS.items():
            there = [folder / place / SCORES_FILE for place in places]
            there = [path for path in there if path.exists()]
            if there:
                found[metric.name] = _answers(there[0], len(asked) * seeds)
        return found


def _check_name(prompt: str, where: str) -> None:
    """Refuses a prompt that the scripts would not find again in the name of its file."""
    wrong = [sign for sign in ("_", "/", "\\", "\0") if sign in prompt]
    if wrong or prompt.startswith("."):
        raise UserError(
            f"{where}: {prompt!r} has {wrong[0] if wrong else 'a dot in front'!r} in it, which"
            " T2I-CompBench's file names cannot have: word it otherwise"
        )
    if len(f"{prompt}_000000.png".encode()) > LONGEST_NAME:
        raise UserError(f"{where}: {prompt!r} is too long for the name of a file: shorten it")


def _answers(path: epath.Path, count: int) -> Float[np.ndarray, " n"]:
    """The answer of each image."""
    values = np.full(count, np.nan)
    hint = "run the script of T2I-CompBench again"
    try:
        for each in json.loads(read_text(path)):
            number, value = int(each["question_id"]), float(each["answer"])
            if not (0 <= number < count and math.isfinite(value)):
                raise ValueError(f"question {number}: {value}")
            values[number] = value
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        said = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} has no scores of {count} images of this sweep ({said}): {hint}") from None
    missing = int(np.isnan(values).sum())
    if missing:
        raise UserError(f"{path}: {missing} of {count} images have no score: {hint}")
    return values
