"""What training would see of data: how many examples, which cannot be used and why, sizes, captions, copies.

Two pictures are near copies where they say the same of 64 places: whether each is lighter than the place to
its right (difference hash: Krawetz 2013, "Kind of Like That"), in at least 61 of them, and their colours are
nearly the same. Pictures of one colour say the same of all places, so that colours tell them apart.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8, UInt64
from PIL import Image

from difflax.core.types import BadExample
from difflax.data.buckets import nearest_bucket
from difflax.data.records import Record, Records, read_each, said_of

EXAMPLES_AT_ONCE = 32  # examples that are read together
ON_THE_SHEET = 40  # pictures of the contact sheet
FAR_APART = 3  # places of 64 in which near copies may differ
COLOURS_APART = 6.0  # of 255, of a picture of 4 × 4 pixels, at the most on average
COMPARED = 64  # others with which a picture is compared at most, of those that may be its copies
_BANDS = tuple(np.uint64(16 * band) for band in range(FAR_APART + 1))
"""Where each quarter of a hash begins: of two that differ in three places one quarter is the same."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was found.

    Attributes:
        examples: rows of the split.
        epoch: rows of an epoch.
        unusable: what is wrong, by row.
        sizes: how many pictures there are of each height and width.
        buckets: how many pictures go to each shape.
        captions: numbers about them.
        duplicates: rows that are near copies of each other.
        shown: pictures as training sees them, with their captions.
    """

    examples: int
    epoch: int
    unusable: Mapping[int, str]
    sizes: Mapping[tuple[int, int], int]
    buckets: Mapping[tuple[int, int], int]
    captions: Mapping[str, Any]
    duplicates: Sequence[Sequence[int]]
    shown: Sequence[tuple[UInt8[np.ndarray, "h w c"], str]]

    def as_json(self) -> dict[str, Any]:
        """All but the pictures, as JSON has it."""
        return {
            "examples": self.examples,
            "epoch": self.epoch,
            "unusable": [{"row": row, "reason": reason} for row, reason in self.unusable.items()],
            "captions": dict(self.captions),
            "sizes": [{"height": h, "width": w, "examples": n} for (h, w), n in self.sizes.items()],
            "buckets": [{"height": h, "width": w, "examples": n} for (h, w), n in self.buckets.items()],
            "duplicates": [list(rows) for rows in self.duplicates],
        }


def inspect(
    records: Records,
    shapes: Sequence[tuple[int, int]],
    count_tokens: Callable[[list[str]], Sequence[int]] | None = None,
    max_tokens: int = 0,
) -> Inspection:
    """Reads every example once.

    Args:
        shapes: height and width that images may have.
        count_tokens: how many tokens each caption has, without a limit.
        max_tokens: how many of them the text encoder reads.
    """
    unusable: dict[int, str] = {}
    sizes: collections.Counter[tuple[int, int]] = collections.Counter()
    hashes, colours, rows = [], [], []
    shown = []

    def note(row: int, error: BadExample) -> None:
        unusable[row] = str(error)

    for row, record in _usable(records, note):
        sizes[record.frame.original_size if record.frame else record.image.shape[:2]] += 1
        rows.append(row)
        hashes.append(difference_hash(record.image))
        colours.append(_colours(record.image))
        if len(shown) < ON_THE_SHEET:
            shown.append((record.image, record.caption))
    epoch = getattr(records, "epoch", None)
    near = near_copies(np.array(hashes, np.uint64), np.array(colours, np.float32).reshape(len(rows), -1))
    return Inspection(
        examples=len(records),
        epoch=len(records) if epoch is None else len(epoch),
        unusable=unusable,
        sizes=dict(sizes.most_common()),
        buckets=_bucketed(sizes, shapes),
        captions=_about(records, count_tokens, max_tokens),
        duplicates=[[rows[place] for place in group] for group in near],
        shown=shown,
    )


def _usable(records: Records, note: Callable[[int, BadExample], None]) -> Iterator[tuple[int, Record]]:
    for start in range(0, len(records), EXAMPLES_AT_ONCE):
        wanted = range(start, min(start + EXAMPLES_AT_ONCE, len(records)))
        for row, record in zip(wanted, read_each(records, wanted, note), strict=True):
            if record is not None:
                yield row, record


def _bucketed(
    sizes: Mapping[tuple[int, int], int], shapes: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], int]:
    found = dict.fromkeys(shapes, 0)
    for size, count in sizes.items():
        found[shapes[nearest_bucket(*size, shapes)]] += count
    return found


def _about(
    records: Records, count_tokens: Callable[[list[str]], Sequence[int]] | None, max_tokens: int
) -> dict[str, Any]:
    """Numbers about the captions, of every row all that it may have."""
    different: set[int] = set()
    lengths: list[int] = []
    longest, over, several = "", 0, 0
    for said in said_of(records):
        texts = [] if said is None else [text for text, _ in said.options]
        several += len(texts) > 1
        for text in texts:
            different.add(hash(text))
            lengths.append(len(text))
            longest = max(longest, text, key=len)
        if count_tokens is not None and texts:
            over += sum(count > max_tokens for count in count_tokens(texts))
    quantiles = np.percentile(lengths, [5, 50, 95]).tolist() if lengths else [0.0, 0.0, 0.0]
    return {
        "captions": len(lengths),
        "different": len(different),
        "examples_with_several": several,
        "characters": {"5%": quantiles[0], "median": quantiles[1], "95%": quantiles[2], "most": len(longest)},
        "longest": longest[:500],
        "max_tokens": max_tokens if count_tokens is not None else None,
        "over_max_tokens": over if count_tokens is not None else None,
    }


# Copies


def difference_hash(image: UInt8[np.ndarray, "h w c"]) -> int:
    """The 64 bits of a picture that say whether each of 8 × 8 places is lighter than the one to its right."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("L")
    grey = np.asarray(picture.resize((9, 8), Image.Resampling.BOX)).astype(np.int16)
    bits = np.packbits(grey[:, :-1] > grey[:, 1:])
    return int.from_bytes(bits.tobytes(), "big")


def _colours(image: UInt8[np.ndarray, "h w c"]) -> Float[np.ndarray, " n"]:
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")
    return np.asarray(picture.resize((4, 4), Image.Resampling.BOX)).astype(np.float32).ravel()


def near_copies(hashes: UInt64[np.ndarray, " n"], colours: Float[np.ndarray, "n k"]) -> list[list[int]]:
    """Groups of two or more that are near copies, directly or by way of others."""
    parent = list(range(len(hashes)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for start in _BANDS:
        alike = collections.defaultdict(list)
        for place, quarter in enumerate(((hashes >> start) & np.uint64(0xFFFF)).tolist()):
            others = alike[quarter]
            if others:
                near = np.array(others)
                bits = np.bitwise_count(hashes[near] ^ hashes[place])
                apart = np.abs(colours[near] - colours[place]).mean(1)
                for other in near[(bits <= FAR_APART) & (apart <= COLOURS_APART)].tolist():
                    parent[root(place)] = root(other)
            if len(others) < COMPARED:
                others.append(place)
    groups = collections.defaultdict(list)
    for place in range(len(hashes)):
        groups[root(place)].append(place)
    return [group for group in groups.values() if len(group) > 1]
