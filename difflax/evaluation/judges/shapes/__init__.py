"""Reads the scene off a picture of `difflax.data.shapes`, exactly and without learning.

The background is the median colour, an object a connected region that stands out from it. Its coverage (the
fraction of each pixel that it fills, read from how far the pixel has gone from background to object colour)
gives area and centroid; each shape is drawn with that area and centroid, and the one that differs least in
squared coverage is the shape. The drawn radius then gives the size and the drawn centre the cell. Fitting
areas rather than outlines keeps the reading right under slight blur, noise and colour drift.

A region that is no plausible object (too large, too small, near no shape) reads as an object without
attributes. So a blank picture shows nothing, and noise shows nothing known.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

from difflax.data import shapes

ATTRIBUTES = ("shape", "colour", "size", "position")

CONTRAST = 0.25  # RGB distance from the background at which a pixel belongs to an object; colours have ≥ 0.55
MIN_PIXELS = 10  # smaller regions are specks; the smallest object covers 23
RADIUS_RANGE = (2.5, 8.0)  # pixels; true radii are 3.4 … 6.0
MAX_MISFIT = 0.35  # squared coverage error of the best shape over the object's area
MAX_COLOUR_DISTANCE = 0.4  # in RGB; the colours lie ≥ 0.44 apart, their shades within 0.1 of them
HALO = 2  # pixels around a region that still belong to its soft edge
WINDOW = 22  # pixels around an object's centroid that its shape is drawn in
SUBPIXELS = 4  # a pixel and axis, when a shape is drawn
BLURS = (0.0, 0.6, 1.0)  # standard deviations in pixels that a shape is drawn with
CHUNK = 32  # regions read at a time, few enough to stay in the processor's cache

_RADIUS_BORDER = math.sqrt(shapes.RADII["small"] * shapes.RADII["large"])
_COLOURS = np.array(list(shapes.COLOURS.values()), np.float32)
_COLUMN_BORDERS, _ROW_BORDERS = (
    np.convolve(list(centres.values()), (0.5, 0.5), "valid") for centres in (shapes.COLUMNS, shapes.ROWS)
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """One region of a picture: its attributes (``None``: not recognised) and its centre in pixels."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None
    position: str | None = None
    x: float
    y: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """All that stands out from the background of one picture, from left to right."""

    objects: tuple[Seen, ...]

    @property
    def relation(self) -> str | None:
        """How the first of exactly two objects stands to the second."""
        return relation(*self.objects) if len(self.objects) == 2 else None


def relation(first: Seen, second: Seen) -> str:
    """How the first object stands to the second, by the axis along which their centres lie farther apart."""
    dx, dy = second.x - first.x, second.y - first.y
    if abs(dx) >= abs(dy):
        return "left of" if dx > 0 else "right of"
    return "above" if dy > 0 else "below"


def judge(images: UInt8[np.ndarray, "n 32 32 3"] | Float[np.ndarray, "n 32 32 3"]) -> list[Reading]:
    """What each picture shows; floats are in [0, 1]."""
    pixels = images.astype(np.float32) / (255 if images.dtype == np.uint8 else 1)
    background = np.median(pixels, axis=(1, 2), keepdims=True)
    contrast = pixels - background
    owners, regions = _regions(contrast)
    objects: list[list[Seen]] = [[] for _ in images]
    for start in range(0, len(owners), CHUNK):
        part = slice(start, start + CHUNK)
        of = owners[part]
        for owner, thing in zip(of, _read(contrast[of], background[of], regions[part]), strict=True):
            objects[owner].append(thing)
    return [Reading(objects=tuple(sorted(things, key=lambda s: s.x))) for things in objects]


def accuracy(
    images: UInt8[np.ndarray, "n 32 32 3"] | Float[np.ndarray, "n 32 32 3"], captions: Sequence[str]
) -> dict[str, Float[np.ndarray, " n"]]:
    """Which attributes that its caption names each picture shows: 1 right, 0 wrong, NaN not named.

    Keys are "shape", "colour", "size", "position", "relation", "count" (as many objects as the caption names,
    no more) and "all" (everything above that is named is right), so ``numpy.nanmean`` is the accuracy. With
    another number of objects no attribute counts as shown. Of the two ways to match two objects to a caption
    the better one counts, and an attribute of two objects is right if it is right in both.

    Raises:
        ValueError: a caption is not of the shapes language, or there is not one for every picture.
    """
    scores = [
        _score(reading, shapes.parse_caption(caption))
        for reading, caption in zip(judge(images), captions, strict=True)
    ]
    keys = (*ATTRIBUTES, "relation", "count", "all")
    return {key: np.array([score[key] for score in scores], np.float64) for key in keys}


def _score(reading: Reading, named: shapes.Scene) -> dict[str, float]:
    """One picture's row of `accuracy`."""

    def right(order: Sequence[Seen] | None) -> dict[str, float]:
        score = {}
        for attribute in ATTRIBUTES:
            wanted = [getattr(thing, attribute) for thing in named.objects]
            shown = [None] * len(wanted) if order is None else [getattr(thing, attribute) for thing in order]
            pairs = [(w, s) for w, s in zip(wanted, shown, strict=True) if w is not None]
            score[attribute] = float(all(w == s for w, s in pairs)) if pairs else math.nan
        score["relation"] = math.nan
        if named.relation is not None:
            score["relation"] = float(order is not None and relation(*order) == named.relation)
        score["count"] = float(order is not None)
        score["all"] = float(all(value != 0 for value in score.values()))
        return score

    if len(reading.objects) != len(named.objects):
        return right(None)
    return max(map(right, itertools.permutations(reading.objects)), key=lambda s: np.nansum(list(s.values())))


def _regions(
    contrast: Float[np.ndarray, "n h w 3"],
) -> tuple[Int[np.ndarray, " k"], Bool[np.ndarray, "k h w"]]:
    """The connected regions that stand out, and the picture that each is of."""
    stands_out = np.linalg.norm(contrast, axis=-1) > CONTRAST
    within_a_picture = np.zeros((3, 3, 3), bool)
    within_a_picture[1] = True
    labels, _ = ndimage.label(stands_out, within_a_picture)
    kept = np.flatnonzero(np.bincount(labels.ravel()) >= MIN_PIXELS)
    kept = kept[kept > 0]
    boxes = ndimage.find_objects(labels)
    owners = np.array([boxes[label - 1][0].start for label in kept], int)
    return owners, labels[owners] == kept[:, None, None]


def _read(
    contrast: Float[np.ndarray, "k h w 3"],
    background: Float[np.ndarray, "k 1 1 3"],
    regions: Bool[np.ndarray, "k h w"],
) -> list[Seen]:
    """The attributes of regions, from the pictures that they lie in."""
    direction = _core_contrast(contrast, regions)
    covered = np.einsum("khwc,kc->khw", contrast, direction)
    covered /= np.maximum(np.sum(direction**2, -1), 1e-6)[:, None, None]
    around = ndimage.binary_dilation(regions, np.ones((1, 2 * HALO + 1, 2 * HALO + 1), bool))
    covered = np.where(around, np.clip(covered, 0, 1), 0)

    area = covered.sum((1, 2))
    centres = np.arange(contrast.shape[1]) + 0.5
    x = np.einsum("khw,w->k", covered, centres) / area
    y = np.einsum("khw,h->k", covered, centres) / area
    misfits, radii, middles = zip(*(_fit(shape, covered, area, x, y) for shape in shapes.SHAPES), strict=True)
    best = np.argmin(misfits, axis=0)
    each = np.arange(len(best))
    misfit, radius, y = (
        np.array(misfits)[best, each],
        np.array(radii)[best, each],
        np.array(middles)[best, each],
    )

    distance = np.linalg.norm((background[:, 0, 0] + direction)[:, None] - _COLOURS, axis=-1)
    colours = distance.argmin(-1)
    columns, rows = np.digitize(x, _COLUMN_BORDERS), np.digitize(y, _ROW_BORDERS)
    plausible = (misfit < MAX_MISFIT) & (radius > RADIUS_RANGE[0]) & (radius < RADIUS_RANGE[1])
    return [
        Seen(
            shape=shapes.SHAPES[best[k]],
            colour=tuple(shapes.COLOURS)[colours[k]] if distance[k].min() < MAX_COLOUR_DISTANCE else None,
            size="small" if radius[k] < _RADIUS_BORDER else "large",
            position=shapes.POSITIONS[3 * rows[k] + columns[k]],
            x=float(x[k]),
            y=float(y[k]),
        )
        if plausible[k]
        else Seen(x=float(x[k]), y=float(y[k]))
        for k in each
    ]


def _core_contrast(
    contrast: Float[np.ndarray, "k h w 3"], regions: Bool[np.ndarray, "k h w"]
) -> Float[np.ndarray, "k 3"]:
    """The colour of each region's inside less the background: the mean of its more contrasting half."""
    strength = np.where(regions, np.linalg.norm(contrast, axis=-1), np.nan).reshape(len(regions), -1)
    inside = strength >= np.nanmedian(strength, axis=1, keepdims=True)
    flat = contrast.reshape(len(regions), -1, 3)
    return np.einsum("kp,kpc->kc", inside, flat) / inside.sum(1)[:, None]


def _fit(shape, covered, area, x, y):
    """Draws a shape with the area and centroid of each object: (misfit, radius, the drawn centre's y)."""
    unit_area, unit_y = _MOMENTS[shape]
    radius = np.sqrt(area / unit_area)
    middle = y - radius * unit_y
    left, upper = np.floor(x).astype(int) - WINDOW // 2, np.floor(y).astype(int) - WINDOW // 2
    fine = ((np.arange(WINDOW * SUBPIXELS) + 0.5) / SUBPIXELS).astype(np.float32)
    u = (fine + (left - x).astype(np.float32)[:, None]) / radius[:, None].astype(np.float32)
    v = (fine + (upper - middle).astype(np.float32)[:, None]) / radius[:, None].astype(np.float32)
    drawn = shapes.inside(shape, u[:, None, :], v[:, :, None])
    drawn = drawn.reshape(-1, WINDOW, SUBPIXELS, WINDOW, SUBPIXELS).mean((2, 4), dtype=np.float32)
    padded = np.pad(covered, ((0, 0), (WINDOW, WINDOW), (WINDOW, WINDOW)))
    rows = upper[:, None] + WINDOW + np.arange(WINDOW)
    columns = left[:, None] + WINDOW + np.arange(WINDOW)
    window = padded[np.arange(len(padded))[:, None, None], rows[:, :, None], columns[:, None, :]]
    misfit = [np.sum((window - ndimage.gaussian_filter(drawn, (0, b, b))) ** 2, (1, 2)) for b in BLURS]
    return np.min(misfit, 0) / area, radius, middle


def _moments(shape):
    """Area and centroid height of the shape of radius 1; all are symmetric in x."""
    fine = (np.arange(1000) + 0.5) / 500 - 1
    filled = shapes.inside(shape, fine[None, :], fine[:, None])
    return filled.mean() * 4, float((filled * fine[:, None]).sum() / filled.sum())


_MOMENTS = {shape: _moments(shape) for shape in shapes.SHAPES}
