"""Latents of a data set's images, computed once: training reads rows instead of running the autoencoder."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Array, Float, Int32, UInt8

from difflax.core.documents import entry, json_object
from difflax.core.events import announce
from difflax.core.files import atomic_write, remove_unfinished
from difflax.core.types import BadExample
from difflax.data.captions import Captions
from difflax.data.faults import Faults
from difflax.data.fingerprints import contents_fingerprint, note_files
from difflax.data.pictures import VERSION
from difflax.data.records import Record, Records, StoredRecords, captioned, one_each, read_each
from difflax.data.transforms import Frame


@dataclasses.dataclass(frozen=True)
class CachedLatents:
    """Attributes:
    latents: of every row; a local file is mapped into memory and read as it is needed.
    frames: original height and width, and top and left of the cut, of every row.
    bad: what is wrong with the rows whose images could not be used, and which have no latents.
    """

    latents: Float[np.ndarray, "rows lh lw k"]
    frames: Int32[np.ndarray, "rows 4"]
    bad: Mapping[int, str]

    def records(self, records: Records) -> "WithoutImages":
        """The rows for a loader, which reads no images any more and passes over the unusable ones."""
        return WithoutImages(records.captions, self.frames, self.bad, like=records)


def cache_latents(
    records: StoredRecords,
    encode: Callable[[UInt8[np.ndarray, "b h w c"]], Float[Array, "b lh lw k"]],
    path: epath.PathLike,
    *,
    encoder: str,
    max_bad_examples: float = 0.0,
    batch_size: int = 8,
) -> CachedLatents:
    """What ``encode`` says of every row's image, from the file at ``path`` if it was made of the same, else
    computed and written. What it was made of stands beside it: the contents of the data's files, how they are
    decoded and cut, and ``encoder``.

    Args:
        encode: always called with ``batch_size`` images; the last batch is filled up with repetitions.
        encoder: the fingerprint of all that ``encode`` depends on, see `arrays_fingerprint`.
        max_bad_examples: the share of the rows whose images may be unusable.

    Raises:
        UserError: too many images cannot be used.
    """
    path = epath.Path(path)
    remove_unfinished(path)
    stored = _read_facts(path)
    files = records.files()
    notes = note_files(files, stored.get("files", {}))
    identity = {
        "images": contents_fingerprint(files, notes),
        "transform": f"{records.transform}, decoder {VERSION}",
        "autoencoder": encoder,
        # A row without a caption has no latent, and gets one when it has a caption.
        "captions": [row for row, caption in enumerate(records.captions) if not _says_something(caption)],
    }
    found = _load(path, stored, identity, len(records))
    if found is not None:
        if notes != stored["files"]:
            _write_facts(path, stored | {"files": notes})
        return found
    _facts_of(path).unlink(missing_ok=True)
    facts = _write(records, encode, path, Faults(len(records), max_bad_examples), batch_size)
    # Last: where the facts are, the rest is too.
    _write_facts(path, {"identity": identity, **facts, "files": notes})
    return _load(path, _read_facts(path), identity, len(records))


class WithoutImages:
    """Records whose images are read from elsewhere: a row is its caption, and a picture of no pixels.

    Args:
        frames, bad: of the images, see `CachedLatents`.
        like: the records with the images, for all that a loader draws or that stands beside them.
    """

    flip = 0.0

    def __init__(
        self,
        captions: Sequence[str],
        frames: Int32[np.ndarray, "rows 4"] | None = None,
        bad: Mapping[int, str] | None = None,
        like: Records | None = None,
    ):
        self.captions, self.scores = captions, getattr(like, "scores", None)
        self.epoch, self.endless_captions = (
            getattr(like, "epoch", None),
            getattr(like, "endless_captions", False),
        )
        self._said = None if getattr(like, "said", None) is None else list(like.said())
        self._frames, self._bad = frames, bad or {}

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, row: int) -> Record:
        if row in self._bad:
            raise BadExample(self._bad[row])
        frame = None
        if self._frames is not None:
            height, width, top, left = map(int, self._frames[row])
            frame = Frame((height, width), (top, left))
        score = None if self.scores is None else self.scores[row]
        said = None if self._said is None else self._said[row]
        return Record(
            np.zeros((0, 0, 3), np.uint8),
            self.captions[row],
            frame=frame,
            score=score,
            captions=said if said is not None and said.varies else None,
        )

    def __getitems__(self, rows: Sequence[int]) -> list[Record]:
        return [self[row] for row in rows]

    def said(self) -> Iterator[Captions | None]:
        """The captions of every row; ``None`` where it has none."""
        return iter(one_each(self.captions) if self._said is None else self._said)


def _says_something(caption: str) -> bool:
    try:
        captioned(caption, "the row")
    except BadExample:
        return False
    return True


def _facts_of(path: epath.Path) -> epath.Path:
    return path.with_suffix(".json")


def _frames_of(path: epath.Path) -> epath.Path:
    return path.with_name(f"{path.stem}_frames.npy")


def _read_facts(path: epath.Path) -> dict[str, Any]:
    """Nothing where there are none, or none that can be read."""
    try:
        facts = json_object(_facts_of(path).read_text())
        return facts | {"files": entry(facts, "files", dict)}
    except (OSError, ValueError):
        return {}


def _write_facts(path: epath.Path, facts: Mapping[str, Any]) -> None:
    with atomic_write(_facts_of(path), "w") as file:
        json.dump(facts, file)


def _load(
    path: epath.Path, facts: Mapping[str, Any], identity: Mapping[str, Any], rows: int
) -> CachedLatents | None:
    """The latents, if they are of this identity and whole; says why not where there are others."""
    if not path.exists():
        return None
    try:
        stored = entry(facts, "identity", dict)
    except ValueError:
        announce(f"{path} does not say what it was made of: it is made anew")
        return None
    if changed := [name for name, value in identity.items() if stored.get(name) != value]:
        announce(f"{path} was made of other {' and '.join(changed)}: it is made anew")
        return None
    try:
        if "://" in str(path):
            with path.open("rb") as file:
                latents = np.load(file)
        else:
            latents = np.load(path, mmap_mode="r")
        with _frames_of(path).open("rb") as file:
            frames = np.load(file)
        bad = {int(row): str(reason) for row, reason in facts["bad"].items()}
    except (OSError, ValueError, EOFError, KeyError, AttributeError) as error:
        announce(f"{path} cannot be read ({error}): it is made anew")
        return None
    if latents.ndim != 4 or len(latents) != rows or frames.shape != (rows, 4):
        announce(f"{path} has the shape {latents.shape}, the data {rows} rows: it is made anew")
        return None
    return CachedLatents(latents, frames, bad)


def _write(
    records: StoredRecords, encode: Callable, path: epath.Path, faults: Faults, batch_size: int
) -> dict[str, Any]:
    """Computes and writes latents and frames; what is to be known of them."""
    count = len(records)
    frames = np.zeros((count, 4), np.int32)
    bad: dict[int, str] = {}
    with atomic_write(path) as file:
        for start, read in _batches(records, faults, bad, batch_size):
            for row, record in zip(range(start, count), read, strict=False):
                frame = record.frame or Frame(record.image.shape[:2])
                frames[row] = (*frame.original_size, *frame.corner)
            made = np.asarray(encode(np.stack([record.image for record in read])), np.float32)
            if start == 0:
                header = {"descr": "<f4", "fortran_order": False, "shape": (count, *made.shape[1:])}
                np.lib.format.write_array_header_2_0(file, header)
            file.write(np.ascontiguousarray(made[: count - start]).tobytes())
    with atomic_write(_frames_of(path)) as file:
        np.save(file, frames)
    return {"bad": bad}


def _batches(
    records: StoredRecords, faults: Faults, bad: dict[int, str], batch_size: int
) -> Iterator[tuple[int, list[Record]]]:
    """The first row of each batch and its records; in the place of a row that cannot be used, which is noted
    in ``bad``, and of rows behind the last stands another.
    """

    def note(row: int, error: BadExample) -> None:
        faults.note(row, error)
        bad[row] = str(error)

    count = len(records)
    stand_in: Record | None = None
    for start in range(0, count, batch_size):
        end = min(start + batch_size, count)
        read = read_each(records, range(start, end), note)
        while stand_in is None:
            stand_in = next((record for record in read if record is not None), None)
            if stand_in is None:
                # Few enough are unusable, or `note` would have raised: one that is usable follows.
                (stand_in,) = read_each(records, range(end, end + 1), note)
                end += 1
        read += [None] * (batch_size - len(read))
        yield start, [stand_in if record is None else record for record in read]
