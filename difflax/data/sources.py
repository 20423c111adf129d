"""Where captioned images come from: one frozen dataclass a kind of source, by name in `SOURCES`.

``source.open(split, data_dir)`` gives `Records`: random access by row to an image and its caption, the same
rows in the same order every time. Nothing here imports TensorFlow.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from etils import epath
from jaxtyping import UInt8

from difflax.data import digits, shapes, transforms
from difflax.types import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclasses.dataclass(frozen=True)
class Record:
    """One captioned image of one (grey) or three (RGB) channels."""

    image: UInt8[np.ndarray, "h w c"]
    caption: str


class Records(Protocol):
    """Random access to the rows of a split, ``grain.MapDataset.source``'s interface."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Record: ...

    def __getitems__(self, rows: Sequence[int]) -> list[Record]:
        """Many rows at once, which some files read faster than one by one."""
        ...


class Source(Protocol):
    """A kind of captioned data."""

    def open(self, split: str, data_dir: epath.PathLike | None = None) -> Records:
        """The rows of a split; ``data_dir`` (default: `default_data_dir`) is where prepared data is kept.

        Raises:
            UserError: there is no such split, or the data is missing or broken.
        """
        ...


def default_data_dir() -> epath.Path:
    """``$DIFFLAX_DATA_DIR``, or ``~/.cache/difflax/data``."""
    return epath.Path(os.environ.get("DIFFLAX_DATA_DIR") or "~/.cache/difflax/data").expanduser()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shapes:
    """Captioned scenes of coloured shapes (`difflax.data.shapes`): splits "train", "test" and "held_out"."""

    train_size: int = 20_000
    test_size: int = 1_000
    held_out_size: int = 500
    one_object_fraction: float = 0.6  # the rest are two objects in a relation
    seed: int = 0

    def __post_init__(self):
        for split in shapes.SPLITS:
            if self.sizes[split] < 1:
                raise UserError(f"data set shapes: {split}_size {self.sizes[split]} must be at least 1")
        if not 0 <= self.one_object_fraction <= 1:
            raise UserError(
                f"data set shapes: one_object_fraction {self.one_object_fraction} must be between 0 and 1"
            )
        if self.seed < 0:
            raise UserError(f"data set shapes: seed {self.seed} must not be negative")

    @property
    def sizes(self) -> dict[str, int]:
        return {"train": self.train_size, "test": self.test_size, "held_out": self.held_out_size}

    def open(self, split: str, data_dir: epath.PathLike | None = None) -> Records:
        """See `Source.open`; the files are written at the first use."""
        _check_split("shapes", split, shapes.SPLITS)
        from difflax.data import builders  # TFDS is slow to import

        config = builders.ShapesConfig(
            sizes=self.sizes, one_object_fraction=self.one_object_fraction, seed=self.seed
        )
        return TfdsRecords(
            builders.prepare(builders.DifflaxShapes, data_dir or default_data_dir(), config), split
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits:
    """Real handwritten digits, 8×8 pixels, one channel (`difflax.data.digits`): splits "train" and "test"."""

    def open(self, split: str, data_dir: epath.PathLike | None = None) -> Records:
        """See `Source.open`; the files are written at the first use."""
        _check_split("digits", split, digits.SPLITS)
        from difflax.data import builders  # TFDS is slow to import

        return TfdsRecords(builders.prepare(builders.DifflaxDigits, data_dir or default_data_dir()), split)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tfds:
    """Any TFDS data set that lies prepared in a random-access format.

    Attributes:
        builder: a TFDS name ("mnist", "coco_captions/2014") that lies under ``data_dir``, or the folder of a
            prepared data set, which needs no builder code.
        image_key: the feature with the image.
        caption_key: the feature with the caption: a text, or a class label, which reads as its name.
        caption_template: what the caption becomes, e.g. "a photo of a {}".
    """

    builder: str
    image_key: str = "image"
    caption_key: str = "caption"
    caption_template: str = "{}"

    def open(self, split: str, data_dir: epath.PathLike | None = None) -> Records:
        """See `Source.open`; ``data_dir`` defaults to TFDS's own here."""
        import tensorflow_datasets as tfds  # slow to import

        where = f"data set tfds {self.builder!r}"
        folder = epath.Path(self.builder)
        try:
            if (folder / "dataset_info.json").exists():
                builder = tfds.builder_from_directory(folder)
            else:
                builder = tfds.builder(self.builder, data_dir=data_dir, file_format="array_record")
        except (tfds.core.DatasetNotFoundError, ValueError) as error:
            raise UserError(f"{where} is no TFDS name nor folder: {_first_line(error)}") from error
        if not builder.data_path.exists():
            raise UserError(
                f"{where} is not prepared in {builder.data_path}: run "
                f"tfds build {self.builder} --file_format=array_record"
            )
        _check_split(where.removeprefix("data set "), split, tuple(builder.info.splits))
        for key in (self.image_key, self.caption_key):
            if key not in builder.info.features:
                raise UserError(
                    f"{where} has no feature {key!r}; features: {', '.join(builder.info.features)}"
                )
        return TfdsRecords(
            builder,
            split,
            image_key=self.image_key,
            caption_key=self.caption_key,
            caption_template=self.caption_template,
        )


class TfdsRecords:
    """The rows of a split of a prepared TFDS data set, in file order."""

    def __init__(
        self, builder, split: str, *, image_key="image", caption_key="caption", caption_template="{}"
    ):
        import tensorflow_datasets as tfds  # slow to import

        # TFDS's own decoder would warn that OpenCV is missing.
        self._rows = builder.as_data_source(split, decoders={image_key: tfds.decode.SkipDecoding()})
        self._where = f"{builder.info.full_name} {split}"
        self._image_key, self._caption_key = image_key, caption_key
        self._template = caption_template
        feature = builder.info.features[caption_key]
        if isinstance(feature, tfds.features.ClassLabel):
            self._read_caption: Callable = lambda label: feature.int2str(int(label))
        elif isinstance(feature, tfds.features.Text):
            self._read_caption = bytes.decode
        else:
            raise UserError(
                f"data set tfds {builder.info.full_name}: feature {caption_key!r} is "
                f"{type(feature).__name__}; a caption must be a Text or a ClassLabel"
            )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Record:
        return self._record(row, self._rows[row])

    def __getitems__(self, rows: Sequence[int]) -> list[Record]:
        return [self._record(*item) for item in zip(rows, self._rows.__getitems__(rows), strict=True)]

    def _record(self, row: int, fields: Mapping) -> Record:
        image = transforms.decode(fields[self._image_key], f"{self._where} row {row}")
        return Record(image, self._template.format(self._read_caption(fields[self._caption_key])))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folder:
    """Your own images in a folder, with captions in one of two layouts.

    - ``metadata.jsonl``: one line an image, ``{"file_name": "a.png", "text": "a red circle"}`` (the Hub's
      "imagefolder" layout); rows are in the order of the lines.
    - otherwise beside every image (``a.png``) a text file with its caption (``a.txt``); rows are in
      alphabetical order of the paths, subfolders included.

    A split is a subfolder of that name; a folder without subfolder "train" is itself the split "train".

    Attributes:
        path: the folder.
        caption_key: the key of the caption in ``metadata.jsonl``.
    """

    path: str
    caption_key: str = "text"

    def open(self, split: str, data_dir: epath.PathLike | None = None) -> Records:
        """See `Source.open`; ``data_dir`` is not used, the folder is read in place."""
        root = epath.Path(self.path).expanduser()
        if not root.is_dir():
            raise UserError(f"data set folder: {root} is no folder; set path to one with images and captions")
        if split == "train" and not (root / "train").is_dir():
            folder = root
        elif (root / split).is_dir():
            folder = root / split
        else:
            raise UserError(f"data set folder: {root} has no split {split!r}; make the folder {root / split}")
        listing = folder / "metadata.jsonl"
        rows = self._listed(listing) if listing.exists() else self._paired(folder)
        if not rows:
            raise UserError(
                f"data set folder: no images in {folder}; known types: {', '.join(IMAGE_SUFFIXES)}"
            )
        return FolderRecords(rows)

    def _listed(self, listing: epath.Path) -> list[tuple[epath.Path, str]]:
        rows = []
        for number, line in enumerate(listing.read_text().splitlines(), 1):
            where = f"data set folder: {listing} line {number}"
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{where} is not JSON: {error}") from error
            for key in ("file_name", self.caption_key):
                if not isinstance(fields, dict) or not isinstance(fields.get(key), str):
                    raise UserError(f"{where} needs a text under {key!r}")
            image = listing.parent / fields["file_name"]
            if not image.exists():
                raise UserError(f"{where} names {fields['file_name']}, which is not there")
            rows.append((image, fields[self.caption_key].strip()))
        return rows

    def _paired(self, folder: epath.Path) -> list[tuple[epath.Path, str]]:
        images = sorted(path for path in folder.glob("**/*") if path.suffix.lower() in IMAGE_SUFFIXES)
        missing = [path for path in images if not path.with_suffix(".txt").exists()]
        if missing:
            raise UserError(
                f"data set folder: {len(missing)} of {len(images)} images in {folder} have no caption, first "
                f"{missing[0]}: write {missing[0].with_suffix('.txt').name} beside it, or a metadata.jsonl"
            )
        return [(path, path.with_suffix(".txt").read_text().strip()) for path in images]


class FolderRecords:
    """Image files with their captions; files are read when asked for."""

    def __init__(self, rows: list[tuple[epath.Path, str]]):
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Record:
        path, caption = self._rows[row]
        return Record(transforms.decode(path.read_bytes(), str(path)), caption)

    def __getitems__(self, rows: Sequence[int]) -> list[Record]:
        return [self[row] for row in rows]


SOURCES: dict[str, type[Source]] = {"shapes": Shapes, "digits": Digits, "tfds": Tfds, "folder": Folder}


def _check_split(name: str, split: str, splits: tuple[str, ...]):
    if split not in splits:
        raise UserError(f"data set {name} has no split {split!r}; splits: {', '.join(splits)}")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
