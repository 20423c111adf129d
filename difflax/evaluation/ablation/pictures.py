"""The images of a sweep on disk, for people to look at and to vote on.

    images/manifest.json             what was asked: prompts, seeds, and the settings of every arm
    images/<arm>/<prompt>_<seed>.png one image; the prompt by its number in the manifest, from 0

or, in a folder an arm, as a benchmark's scripts read them, see `difflax.evaluation.layouts`. An arm stands in
the manifest once all of its images are there. Every PNG knows how it was made.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jaxtyping import Float

from difflax.core.documents import read_json
from difflax.core.files import atomic_write
from difflax.core.types import UserError
from difflax.evaluation.ablation.arms import Arm
from difflax.evaluation.layouts import LAYOUTS, BenchmarkPrompt
from difflax.figures.png import save_png

PICTURE_FOLDER = "images"
PICTURE_MANIFEST = "manifest.json"
FORMAT_OF_PICTURES = "difflax-images-1"
KEY = re.compile(r"[A-Za-z0-9_.=+-]{1,120}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureArm:
    """One arm: how it is called, and its settings by axis."""

    label: str
    settings: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictures:
    """The images of a sweep.

    Attributes:
        directory: the folder that holds the manifest.
        prompts: every prompt, in the order of its number.
        groups: the prompt group of each prompt.
        seeds: the seeds of every prompt.
        arms: the arms that are complete, by their key.
        layout: the name of a benchmark in `LAYOUTS` as which each arm's folder is laid out; "" for none.
        facts: what the benchmark knows of each prompt.
    """

    directory: epath.Path
    prompts: tuple[str, ...]
    groups: tuple[str, ...]
    seeds: tuple[int, ...]
    arms: Mapping[str, PictureArm] = dataclasses.field(default_factory=dict)
    layout: str = ""
    facts: tuple[Mapping[str, Any], ...] = ()

    @property
    def asked(self) -> list[BenchmarkPrompt]:
        """The prompts as the benchmark knows them."""
        return [BenchmarkPrompt(prompt=p, facts=f) for p, f in zip(self.prompts, self.facts, strict=True)]

    def path(self, arm: str, prompt: int, seed: int) -> epath.Path:
        """Where an image lies."""
        if not self.layout:
            return self.directory / arm / f"{prompt}_{seed}.png"
        asked = BenchmarkPrompt(prompt=self.prompts[prompt])
        place = LAYOUTS[self.layout].image(asked, prompt, self.seeds.index(seed), len(self.seeds))
        return self.directory / arm / place

    def save(
        self, arm: str, prompt: int, seed: int, image: Float[np.ndarray, "h w c"], facts: Mapping[str, Any]
    ) -> None:
        """Writes one image, in [0, 1], with ``facts`` in its PNG text."""
        if not KEY.fullmatch(arm):
            raise ValueError(f"{arm!r} cannot be the name of a folder of images")
        about = {"prompt": self.prompts[prompt], "seed": seed, **facts}
        save_png(self.path(arm, prompt, seed), image, about)

    def lacks(self, arm: str) -> bool:
        """Whether some image of the arm is not there."""
        return not all(
            self.path(arm, prompt, seed).exists()
            for prompt in range(len(self.prompts))
            for seed in self.seeds
        )

    def complete(self, arms: Mapping[str, PictureArm]) -> "Pictures":
        """The same with these arms, entered in the manifest."""
        found = dataclasses.replace(self, arms={**self.arms, **arms})
        beside = LAYOUTS[self.layout].files(self.asked) if self.layout else {}
        for path, text in (
            (self.directory / key / name, text) for key in arms for name, text in beside.items()
        ):
            with atomic_write(path, "w") as file:
                file.write(text)
        document = {
            "format": FORMAT_OF_PICTURES,
            "prompts": list(found.prompts),
            "groups": list(found.groups),
            "seeds": list(found.seeds),
            "arms": {key: dataclasses.asdict(arm) for key, arm in found.arms.items()},
            **({"layout": self.layout, "facts": [dict(each) for each in self.facts]} if self.layout else {}),
        }
        with atomic_write(self.directory / PICTURE_MANIFEST, "w") as file:
            file.write(json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n")
        return found


class Album:
    """Keeps the images of a sweep as they are drawn.

    Args:
        directory: of the sweep.
        groups: name and prompts of each.
        seeds: of every prompt.
        layout, facts: as of `Pictures`.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        groups: Sequence[tuple[str, Sequence[str]]],
        seeds: Sequence[int],
        layout: str = "",
        facts: Sequence[Mapping[str, Any]] = (),
    ):
        self._pictures = Pictures(
            directory=epath.Path(directory) / PICTURE_FOLDER,
            prompts=tuple(prompt for _, prompts in groups for prompt in prompts),
            groups=tuple(name for name, prompts in groups for _ in prompts),
            seeds=tuple(int(seed) for seed in seeds),
            layout=layout,
            facts=tuple(facts),
        )

    def lacks(self, arm: str) -> bool:
        """Whether some image of the arm of that key is not there."""
        return self._pictures.lacks(arm)

    def keeping(
        self, arm: Arm, batches: Iterable[Float[np.ndarray, "n h w c"]]
    ) -> Iterator[Float[np.ndarray, "n h w c"]]:
        """The images of an arm as they come, prompt by prompt and seed by seed; written as they pass, of
        several processes by the first one.
        """
        seeds = self._pictures.seeds
        row = 0
        for images in batches:
            for image in images if jax.process_index() == 0 else ():
                prompt, seed = row // len(seeds), seeds[row % len(seeds)]
                self._pictures.save(arm.key, prompt, seed, image, dict(arm.settings))
                row += 1
            yield images

    def close(self, arms: Sequence[Arm]) -> None:
        """Enters the arms in the manifest."""
        if jax.process_index() == 0:
            found = {arm.key: PictureArm(label=arm.label, settings=dict(arm.settings)) for arm in arms}
            self._pictures.complete(found)


def read_pictures(directory: epath.PathLike) -> Pictures:
    """The images under ``directory``, a sweep's folder or its folder of images.

    Raises:
        UserError: there are none, or their manifest is damaged.
    """
    folder = epath.Path(directory)
    if not folder.is_dir():
        raise UserError(f"no folder {directory}: give the --output of `difflax ablate --save_images`")
    if not (folder / PICTURE_MANIFEST).exists():
        folder = folder / PICTURE_FOLDER
    if not (folder / PICTURE_MANIFEST).exists():
        raise UserError(f"{directory} holds no images: run `difflax ablate` with --save_images")
    document = read_json(folder / PICTURE_MANIFEST, hint="run `difflax ablate --save_images` again")
    try:
        if document["format"] != FORMAT_OF_PICTURES:
            raise ValueError(f"format {document['format']!r}")
        found = Pictures(
            directory=folder,
            prompts=tuple(map(str, document["prompts"])),
            groups=tuple(map(str, document["groups"])),
            seeds=tuple(map(int, document["seeds"])),
            arms={
                key: PictureArm(label=str(arm["label"]), settings=dict(arm["settings"]))
                for key, arm in document["arms"].items()
                if KEY.fullmatch(key)
            },
            layout=str(document.get("layout", "")),
            facts=tuple(dict(facts) for facts in document.get("facts", ())),
        )
        if found.layout and (found.layout not in LAYOUTS or len(found.facts) != len(found.prompts)):
            raise ValueError(f"layout {found.layout!r}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder / PICTURE_MANIFEST} is no manifest of images ({error}):"
            " run `difflax ablate --save_images` again"
        ) from error
    return found
