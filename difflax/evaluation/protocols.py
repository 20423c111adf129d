"""What a data set's models are asked and how their images are judged: prompt groups, chance levels, judge."""

import dataclasses
import functools
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from difflax.core.bounds import Range
from difflax.core.types import UserError
from difflax.data import digits
from difflax.data.fingerprints import arrays_fingerprint
from difflax.data.shapes import captions, factors, truth
from difflax.data.shapes.examples import evaluation_prompts, generator
from difflax.data.shapes.render import render
from difflax.data.shapes.splits import COMBINATIONS
from difflax.data.sources import FirstShapes, Source
from difflax.evaluation.judges import digits as digits_judge
from difflax.evaluation.judges.shapes.reading import Reading
from difflax.evaluation.judges.shapes.reading import judge as read_shapes
from difflax.evaluation.judges.shapes.segment import SIZE
from difflax.evaluation.measurement import FeatureSpace, Judge, PromptGroup
from difflax.evaluation.metrics import ACCURACY
from difflax.evaluation.shapes.alignment import alignment
from difflax.evaluation.shapes.differences import differences
from difflax.evaluation.shapes.instrument import shapes_judge
from difflax.text.joint import CLIP

SCENES_OF_CHANCE = 4096


@runtime_checkable
class EvaluationProtocol(Protocol):
    """``config.evaluation``: prompts and judge of a data set."""

    seeds: int

    def groups(self, source: Source) -> list[PromptGroup]:
        """Prompt groups, each with its own curve."""
        ...

    def judge(self) -> Judge:
        """What reads the images against their prompts."""
        ...


@runtime_checkable
class FactorReader(Protocol):
    """A protocol whose judge says how far the factors of two pictures are apart; not every one can."""

    def open_prompts(self, source: Source) -> list[str]:
        """Prompts that leave most factors open."""
        ...

    def differences(
        self, images: Float[np.ndarray, "g k h w c"], prompts: list[str]
    ) -> dict[str, Float[np.ndarray, "g k k"]]:
        """How far each factor is apart in every two of k images of one prompt, of g prompts: 0 is the same;
        NaN where the prompt names it or it cannot be compared.

        Raises:
            UserError: a prompt that the judge does not understand.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShapesProtocol:
    """One object of seen and of held-out combinations, two objects in a relation, counting (both unless the
    data are scenes of one object), and captions as training has them.

    Attributes:
        prompts: of each group.
        seeds: images a prompt and scale; with one there is no coverage.
        real_images: true renders of each group's prompts, for the Fréchet distance and the lines of real
            images.
    """

    prompts: Annotated[int, Range(1, 100_000)] = 16
    seeds: Annotated[int, Range(1, 10_000)] = 4
    real_images: Annotated[int, Range(2, 1_000_000)] = 256

    def groups(self, source: Source) -> list[PromptGroup]:
        size, width, channels = source.image_shape
        if size != width or size % SIZE or channels != 3:
            raise UserError(
                f"config.evaluation (shapes) reads square pictures of 3 channels and a multiple of {SIZE}"
                f" pixels, and config.data has {size} × {width} × {channels}: take another evaluation, or"
                " config.data.name = 'shapes'"
            )
        if isinstance(source, FirstShapes):
            source.split("test")  # says that their pictures are gone: those of today measure nothing of it
        several = () if _one_object(source) else ("two objects", "counting")
        return [
            self.group(source, "one object", "one object, seen"),
            self.group(source, "one object", "one object, held out", "held_out"),
            *(self.group(source, kind, kind) for kind in several),
            self.group(source, "as trained", "captions as trained"),
        ]

    def group(self, source: Source, kind: str, name: str, split: str = "test") -> PromptGroup:
        """Prompts of a kind about a split's combinations, true renders of them, and chance's accuracy.

        Args:
            source: whose size the renders have, and of whose scenes the prompts are.
            kind: one of ``PROMPTS`` of `difflax.data.shapes.examples`.

        Raises:
            UserError: the source has no such scenes.
        """
        prompts = evaluation_prompts(kind, self.prompts, split=split, one_object=_one_object(source))
        if not prompts:
            raise UserError(f"config.data.one_object = True: it has no scenes for prompts of {kind}")
        numbers = [number for number in _shares(self.real_images, len(prompts)) if number]
        scenes = [
            truth.draw(
                generator(0, "real", prompt, split), captions.parse(prompt), number, COMBINATIONS[split], 1
            ).scenes
            for prompt, number in zip(prompts, numbers, strict=False)
        ]
        drawn = [len(some) for some in scenes]
        return PromptGroup(
            name=name,
            prompts=tuple(prompts),
            chance={"accuracy": _chance(prompts)},
            real_images=render(factors.concatenate(scenes), source.image_shape[0]).astype(np.float32),
            real_prompts=tuple(np.repeat(prompts[: len(drawn)], drawn).tolist()),
            split=split,
        )

    def judge(self) -> Judge:
        return shapes_judge()

    def open_prompts(self, source: Source) -> list[str]:
        """Short captions, which leave most of the picture open."""
        return evaluation_prompts("short", self.prompts, one_object=_one_object(source))

    def differences(
        self, images: Float[np.ndarray, "g k h w c"], prompts: list[str]
    ) -> dict[str, Float[np.ndarray, "g k k"]]:
        """See `FactorReader`."""
        said = [captions.parse(prompt) for prompt in prompts]
        return differences(read_shapes(images.reshape(-1, *images.shape[2:])), said)


def _shares(total: int, parts: int) -> list[int]:
    """``total`` in as many nearly equal parts, the larger ones first."""
    return [total // parts + (i < total % parts) for i in range(parts)]


@functools.cache
def _any_scenes() -> Reading:
    """Scenes of the whole prior, as a perfect judge reads them."""
    combinations = np.concatenate([COMBINATIONS[split] for split in ("train", "held_out", "held_out_2")])
    return Reading.of_truth(factors.draw_scenes(np.random.default_rng(0), SCENES_OF_CHANCE, combinations))


def _one_object(source: Source) -> bool:
    """Whether it has scenes of one object alone; pictures of another source may show any scene."""
    return getattr(source, "one_object", False)


def _chance(prompts: list[str]) -> float:
    """How often a scene of the whole prior is as one of the prompts says."""
    said = [captions.parse(prompt) for prompt in prompts]
    asked = [said[i % len(said)] for i in range(SCENES_OF_CHANCE)]
    return float(alignment(_any_scenes(), asked)["accuracy"].mean())


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

    def judge(self) -> Judge:
        return Judge(read=digits_judge.accuracy, aspects={"alignment": ACCURACY.name})


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
