"""What a data set's models are asked and how their images are judged: prompt groups, chance levels, judge."""

import dataclasses
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np

from difflax.core.bounds import Range
from difflax.data import digits, shapes
from difflax.data.fingerprints import arrays_fingerprint
from difflax.data.sources import Source
from difflax.evaluation.judges import digits as digits_judge
from difflax.evaluation.judges import shapes as shapes_judge
from difflax.evaluation.measurement import FeatureSpace, Images, PromptGroup
from difflax.text.joint import CLIP


@runtime_checkable
class EvaluationProtocol(Protocol):
    """``config.evaluation``: prompts and judge of a data set."""

    seeds: int

    def groups(self, source: Source) -> list[PromptGroup]:
        """Prompt groups, each with its own curve."""
        ...

    def judge(self, images: Images, prompts: list[str]) -> dict[str, Any]:
        """Which images show what their prompt names, see `measurement.Judge`."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShapesProtocol:
    """One object of seen and of held-out (shape, colour) pairs, and two objects in a relation.

    Attributes:
        prompts: of each group.
        seeds: images a prompt and scale.
        real_images: of the test splits, for the Fréchet distance and the lines of real images.
    """

    prompts: Annotated[int, Range(1, 100_000)] = 24
    seeds: Annotated[int, Range(1, 10_000)] = 3
    real_images: Annotated[int, Range(2, 1_000_000)] = 512

    def groups(self, source: Source) -> list[PromptGroup]:
        sizes, cells, colours = len(shapes.SIZES), len(shapes.POSITIONS), len(shapes.COLOURS)
        thing = 1 / (len(shapes.SHAPES) * colours * sizes)
        return [
            self._group(source, "seen", "one object, seen pairs", "test", 1, thing / cells),
            self._group(source, "held_out", "one object, held-out pairs", "held_out", 1, thing / cells),
            self._group(source, "two_objects", "two objects", "test", 2, thing**2 / 4),
        ]

    def _group(
        self, source: Source, kind: str, name: str, split: str, objects: int, chance: float
    ) -> PromptGroup:
        """Prompts of a kind, real images of ``split`` with so many objects, and the accuracy of guessing."""
        records, rows = source.split(split), []
        for i in range(len(records)):
            row = records[i]
            if len(shapes.parse_caption(row.caption).objects) == objects:
                rows.append(row)
            if len(rows) == self.real_images:
                break
        return PromptGroup(
            name=name,
            prompts=tuple(shapes.evaluation_prompts(kind, self.prompts)),
            chance={"accuracy": chance},
            real_images=np.stack([row.image for row in rows]).astype(np.float32) / 255,
            real_prompts=tuple(row.caption for row in rows),
        )

    def judge(self, images: Images, prompts: list[str]) -> dict[str, Any]:
        scores = shapes_judge.accuracy(images, prompts)
        scores["accuracy"] = scores.pop("all")
        return scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class DigitsProtocol:
    """Every digit in every phrasing, read by a support vector machine.

    Attributes:
        seeds: images a prompt and scale.
    """

    seeds: Annotated[int, Range(1, 10_000)] = 10

    def groups(self, source: Source) -> list[PromptGroup]:
        split = source.split("test")
        rows = [split[i] for i in range(len(split))]
        return [
            PromptGroup(
                name="digits",
                prompts=tuple(caption for digit in range(10) for caption in digits.captions(digit)),
                chance={"accuracy": 0.1},
                real_images=np.stack([row.image for row in rows]).astype(np.float32) / 255,
                real_prompts=tuple(row.caption for row in rows),
            )
        ]

    def judge(self, images: Images, prompts: list[str]) -> dict[str, Any]:
        return digits_judge.accuracy(images, prompts)


def clip_features(clip: CLIP, name: str = "CLIP of this run") -> FeatureSpace:
    """The joint space of a CLIP, for CLIP score, Fréchet distance and diversity."""
    vision = clip.config.vision_config
    return FeatureSpace(
        name=f"{name} (ViT, width {vision.hidden_size}, patch {vision.patch_size})",
        preprocessing=f"resized to {clip.pixels.size} px (bicubic, antialiased), mean {clip.pixels.mean},"
        f" deviation {clip.pixels.std}",
        image=lambda images: np.asarray(clip.image_features(images)),
        text=lambda prompts: np.asarray(clip.text_features(prompts)),
        fingerprint=arrays_fingerprint(clip.params, clip.tokenizer.fingerprint(), clip.dtype),
    )


PROTOCOLS = {"shapes": ShapesProtocol, "digits": DigitsProtocol}
