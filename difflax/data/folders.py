"""Your own images in a folder with subfolders, and their captions."""

import dataclasses
import operator
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from etils import epath

from difflax.core.documents import entry, json_object
from difflax.core.events import announce
from difflax.core.types import UserError
from difflax.data.pictures import OTHER_SUFFIXES, SUFFIXES
from difflax.data.records import FolderRecords
from difflax.data.texts import MAX_CAPTION, lines_of, read_text, whole_text
from difflax.data.transforms import check_images

OTHER_SPLITS = ("test", "validation", "valid", "val", "held_out")
"""Subfolders that are no part of "train" where that is the folder itself."""

BYTES_A_CHARACTER = 4  # at most, in UTF-8 and UTF-16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folder:
    """Your own images in a folder, with captions in one of two layouts.

    - ``metadata.jsonl``: one line an image, ``{"file_name": "a.png", "text": "a red circle"}`` (the Hub's
      "imagefolder" layout); rows are in the order of the lines.
    - otherwise beside every image (``a.png``) a text file with its caption (``a.txt``); rows are in the order
      of the paths, subfolders included.

    A split is a subfolder of that name; a folder without a subfolder "train" is itself the split "train", but
    for the subfolders of other splits (`OTHER_SPLITS`). Files may be of any format in `pictures.FORMATS`;
    text is in UTF-8, UTF-16 with its mark, or Windows-1252.

    Attributes:
        path: the folder.
        height, width: of every image, in pixels; the middle of others is cut out and resized.
        buckets: more shapes (height, width); each image gets the one nearest to its own aspect ratio, and a
            batch holds images of one shape.
        caption_key: the key of the caption in ``metadata.jsonl``.
        flip: see `Records`.
        alpha_mask: an image's opacity is its mask, for a loss of a part of each image.
        score_key: the key of the number in ``metadata.jsonl`` that says how well an image looks; empty: none.
    """

    path: str
    height: int
    width: int
    caption_key: str = "text"
    flip: float = 0.0
    alpha_mask: bool = False
    buckets: tuple[tuple[int, int], ...] = ()
    score_key: str = ""

    def __post_init__(self):
        for bucket in self.buckets:
            try:
                _, _ = map(operator.index, bucket)
            except (TypeError, ValueError) as error:
                raise ValueError(f"buckets must be pairs (height, width), got {bucket!r}") from error
        for shape in self.image_shapes:
            check_images(shape, self.flip)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.height, self.width, 3

    @property
    def image_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Of the images, `image_shape` and those of the buckets."""
        return tuple(dict.fromkeys([self.image_shape, *((*bucket, 3) for bucket in self.buckets)]))

    def split(self, name: str) -> FolderRecords:
        """See `Source`."""
        root = epath.Path(self.path).expanduser()
        where = f"config.data.path = {self.path!r}"
        if not root.is_dir():
            raise UserError(f"{where}: no such folder")
        if (root / name).is_dir():
            folder, others = root / name, ()
        elif name == "train":
            folder, others = root, [root / split for split in OTHER_SPLITS]
        else:
            raise UserError(f"{where} has no split {name!r}; make the folder {root / name}")
        listing = folder / "metadata.jsonl"
        if self.score_key and not listing.exists():
            raise UserError(f"config.data.score_key = {self.score_key!r}: {listing} is needed for scores")
        scores: list[float] = []
        faults: dict[int, str] = {}
        if listing.exists():
            rows = self._listed(listing, scores)
            if not rows:
                raise UserError(f"{where}: no image is named in {listing}")
        else:
            rows = self._paired(find_images(folder, where, without=others), where, faults)
        return FolderRecords(rows, self.image_shapes, self.flip, self.alpha_mask, scores or None, faults)

    def _listed(self, listing: epath.Path, scores: list[float]) -> list[tuple[epath.Path, str]]:
        rows = []
        for number, line in enumerate(lines_of(read_text(listing)), 1):
            where = f"{listing} line {number}"
            if not line.strip():
                continue
            try:
                fields = json_object(line)
                name, caption = entry(fields, "file_name", str), entry(fields, self.caption_key, str)
                if self.score_key:
                    scores.append(entry(fields, self.score_key, float))
            except ValueError as error:
                raise UserError(f"{where} {error}") from error
            image = listing.parent / name
            if not image.exists():
                raise UserError(f"{where} names {name[:200]!r}, which is not there")
            rows.append((image, whole_text(caption).strip()))
        return rows

    def _paired(
        self, images: list[epath.Path], where: str, faults: dict[int, str]
    ) -> list[tuple[epath.Path, str]]:
        bare = [path for path in images if not path.with_suffix(".txt").exists()]
        if bare:
            raise UserError(
                f"{where}: {len(bare)} of {len(images)} images have no caption; "
                f"write the one of {bare[0].name} into {bare[0].with_suffix('.txt')}"
            )
        rows = []
        for row, path in enumerate(images):
            try:
                text = read_text(path.with_suffix(".txt"), limit=MAX_CAPTION * BYTES_A_CHARACTER)
            except UserError as error:
                # A row like any other that cannot be used: it counts against `max_bad_examples`.
                text, faults[row] = "", str(error)
            rows.append((path, text.strip()))
        return rows


def find_images(folder: epath.Path, where: str, *, without: Collection[epath.Path] = ()) -> list[epath.Path]:
    """The pictures in a folder as `images_of` gives them. Pictures of formats that are not read are named.

    Args:
        where: the folder as the user named it, for the error.

    Raises:
        UserError: there are none.
    """
    files = list(_files_below(folder, without))
    images = _images(files)
    suffixes = (path.suffix.lower() for path in files)
    others = Counter(suffix for suffix in suffixes if suffix in OTHER_SUFFIXES)
    left_out = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common())
    if not images:
        besides = f"; {left_out} cannot be read: convert them" if others else ""
        raise UserError(f"{where}: no image there ({', '.join(SUFFIXES)}){besides}")
    if others:
        announce(f"{where}: {left_out} are left out, as their formats are not read; convert them")
    return images


def images_of(folder: epath.Path, *, without: Collection[epath.Path] = ()) -> list[epath.Path]:
    """The pictures in a folder and its subfolders, in the order of their paths; none if there is no folder.

    Names that begin with a point do not count (macOS writes a ``._a.png`` beside ``a.png``), nor does the
    folder ``__MACOSX``.

    Args:
        without: subfolders that are left out.
    """
    return _images(_files_below(folder, without))


def _images(files: Iterable[epath.Path]) -> list[epath.Path]:
    return sorted(path for path in files if path.suffix.lower() in SUFFIXES)


def _files_below(folder: epath.Path, without: Collection[epath.Path]) -> Iterator[epath.Path]:
    """Every file that counts, each real folder once, so that links may go round in a circle."""
    left_out, seen = {str(path) for path in without}, set()
    waiting = [folder] if folder.is_dir() else []
    while waiting:
        folder = waiting.pop()
        place = str(folder) if "://" in str(folder) else os.path.realpath(folder)
        if place in seen or str(folder) in left_out:
            continue
        seen.add(place)
        for path, is_folder in _entries(folder):
            if path.name.startswith(".") or path.name == "__MACOSX":
                continue
            if is_folder:
                waiting.append(path)
            else:
                yield path


def _entries(folder: epath.Path) -> list[tuple[epath.Path, bool]]:
    """What is in a folder, and whether it is a folder itself, by name."""
    try:
        if "://" in str(folder):
            return [(path, path.is_dir()) for path in sorted(folder.iterdir())]
        # Of a local folder that is known without asking for each file.
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries)
        return [(folder / name, is_folder) for name, is_folder in found]
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error}") from error
