"""What a benchmark's layout of files is asked for.

Paths are relative to the folder of one arm, the ``IMAGE_FOLDER`` or ``out_dir`` of the benchmark's own
scripts. Scores come one an image, prompt by prompt and seed by seed, so that their means are the benchmark's
own.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from etils import epath
from jaxtyping import Float
from numpy import ndarray

from difflax.core.types import UserError
from difflax.evaluation.metrics import Metric


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkPrompt:
    """A line of a benchmark's file of prompts.

    Attributes:
        facts: what its scripts must know of the prompt, JSON values.
    """

    prompt: str
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Layout(Protocol):
    """The layout of a benchmark.

    Attributes:
        title: the benchmark's name.
    """

    title: str

    def read_prompts(self, path: epath.PathLike, where: str) -> list[BenchmarkPrompt]:
        """The prompts of its file, each once.

        Args:
            where: the file as the user named it, for errors.

        Raises:
            UserError: it is no such file.
        """

    def image(self, asked: BenchmarkPrompt, number: int, place: int, seeds: int) -> str:
        """Where an image lies.

        Args:
            number: of the prompt, from 0.
            place: of the image among the ``seeds`` of its prompt, from 0.

        Raises:
            UserError: the prompt cannot be a part of a path, where it is one.
        """

    def files(self, asked: Sequence[BenchmarkPrompt]) -> dict[str, str]:
        """What stands beside the images: texts by path."""

    def metrics(self, asked: Sequence[BenchmarkPrompt]) -> tuple[Metric, ...]:
        """What it measures of these prompts, the number that it is known for first."""

    def scores(
        self, folder: epath.Path, asked: Sequence[BenchmarkPrompt], seeds: int
    ) -> dict[str, Float[ndarray, " n"]]:
        """What its scripts have written of an arm, by the names of the metrics: a value an image, NaN where
        it is not asked; empty where they have not been run.

        Raises:
            UserError: of other images, or not of all.
        """


def once(asked: Sequence[BenchmarkPrompt], where: str) -> list[BenchmarkPrompt]:
    """Each prompt at its first place: images of a prompt depend on it and their seed alone.

    Raises:
        UserError: a prompt is there twice with other facts.
    """
    found: dict[str, BenchmarkPrompt] = {}
    for each in asked:
        if found.setdefault(each.prompt, each) != each:
            raise UserError(f"{where}: {each.prompt!r} is there twice, and not the same: keep one of them")
    if not found:
        raise UserError(f"{where}: no prompt: give the benchmark's own file")
    return list(found.values())
