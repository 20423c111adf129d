"""Captioned image data by name: where it lies, and its splits as random-access sources.

Data is built once under ``data_dir`` (``$DIFFLAX_DATA_DIR``, else ``~/.cache/difflax/data``).
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from etils import epath
from jaxtyping import UInt8

from difflax.data import builders, shapes
from difflax.types import UserError


@dataclasses.dataclass(frozen=True)
class Captioned:
    """One split in memory-independent random access: element i is ``{"image": uint8 [h, w, c], "caption": str}``."""

    elements: Sequence[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.elements)

    def __getitem__(self, index: int) -> dict[str, Any]:
        element = self.elements[index]
        caption = element["caption"]
        return {
            "image": np.asarray(element["image"], np.uint8),
            "caption": caption.decode() if isinstance(caption, bytes) else str(caption),
        }

    def decoded(self) -> tuple[UInt8[np.ndarray, "n h w c"], list[str]]:
        """All images and captions in memory."""
        rows = [self[i] for i in range(len(self))]
        return np.stack([row["image"] for row in rows]), [row["caption"] for row in rows]


class Source(Protocol):
    """A data set that a config names."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of its images."""
        ...

    def split(self, name: str) -> Captioned:
        """A split.

        Raises:
            UserError: if there is no such split.
        """
        ...


def data_directory(data_dir: str | None) -> epath.Path:
    """``data_dir`` or the default."""
    return epath.Path(data_dir or os.environ.get("DIFFLAX_DATA_DIR") or "~/.cache/difflax/data").expanduser()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shapes:
    """The embedded scenes of `difflax.data.shapes`.

    Attributes:
        train, test, held_out: examples of each split.
        one_object_fraction: share of scenes with one object.
        data_seed: of the scenes.
        data_dir: where they lie; ``None``: the default.
    """

    train: int = 20_000
    test: int = 1_000
    held_out: int = 500
    one_object_fraction: float = 0.6
    data_seed: int = 0
    data_dir: str | None = None

    def __post_init__(self):
        if min(self.train, self.test, self.held_out) < 1:
            raise ValueError("every split needs at least one example")
        if not 0 <= self.one_object_fraction <= 1:
            raise ValueError(f"one_object_fraction must lie in [0, 1], got {self.one_object_fraction}")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return shapes.IMAGE_SIZE, shapes.IMAGE_SIZE, 3

    def split(self, name: str) -> Captioned:
        config = builders.ShapesConfig(
            sizes={"train": self.train, "test": self.test, "held_out": self.held_out},
            one_object_fraction=self.one_object_fraction,
            seed=self.data_seed,
        )
        return _split(builders.DifflaxShapes, self.data_dir, config, name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits:
    """The embedded handwritten digits of `difflax.data.digits`, 8 × 8, one channel."""

    data_dir: str | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 8, 8, 1

    def split(self, name: str) -> Captioned:
        return _split(builders.DifflaxDigits, self.data_dir, None, name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folder:
    """Images of one size in a folder, each with its caption in a text file of the same name.

    Attributes:
        path: the folder; ``cat.png`` is captioned by ``cat.txt``. It is its own ``train`` split.
        height, width: of every image, in pixels; images of other sizes are resized (Lanczos).
    """

    path: str
    height: int = 32
    width: int = 32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.height, self.width, 3

    def split(self, name: str) -> Captioned:
        if name != "train":
            raise UserError(f"a folder has one split, 'train', not {name!r}")
        folder = epath.Path(self.path)
        if not folder.is_dir():
            raise UserError(f"config.data.path = {self.path!r}: no such folder")
        images = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"))
        if not images:
            raise UserError(f"config.data.path = {self.path!r}: no image there (.png, .jpg, .jpeg, .webp)")
        bare = [p.name for p in images if not p.with_suffix(".txt").exists()]
        if bare:
            raise UserError(
                f"config.data.path = {self.path!r}: {len(bare)} images have no caption, the first is {bare[0]};"
                " write it into a .txt file of the same name"
            )
        return Captioned(_FolderElements(tuple(images), (self.width, self.height)))


@dataclasses.dataclass(frozen=True)
class _FolderElements:
    paths: tuple[epath.Path, ...]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        from PIL import Image

        path = self.paths[index]
        with path.open("rb") as file:
            image = Image.open(file).convert("RGB").resize(self.size, Image.Resampling.LANCZOS)
        return {"image": np.asarray(image), "caption": path.with_suffix(".txt").read_text().strip()}


def _split(builder_class, data_dir, config, name: str) -> Captioned:
    builder = builders.prepare(builder_class, data_directory(data_dir), config)
    if name not in builder.info.splits:
        raise UserError(f"no split {name!r}; there are {', '.join(sorted(builder.info.splits))}")
    return Captioned(builder.as_data_source(split=name))


SOURCES = {"shapes": Shapes, "digits": Digits, "folder": Folder}
