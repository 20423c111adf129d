"""Reads every factor off a picture by analysis and synthesis: guess, fit, draw again, keep what fits best.

`segment` finds the background and the regions of one hue, `poses` guesses and fits a shape to each, `explain`
reads texture, light and depth and says how far the render of all that is from the picture. A picture that is
not explained well is tried again: with regions of one colour joined (a front object may cut one in two) or
left out, and with more shapes for each object. Of all readings the one with the smallest error is kept.

Pictures may be of any size that is a multiple of 32; they are averaged down to 32 × 32, which is where the
judge's reliability is measured.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

from difflax.data.shapes import factors
from difflax.data.shapes.factors import MAX_OBJECTS, Scenes
from difflax.evaluation.judges.shapes import poses, segment
from difflax.evaluation.judges.shapes.cuts import Candidates, Cut, candidates
from difflax.evaluation.judges.shapes.cuts import ways as cuts_of_pictures
from difflax.evaluation.judges.shapes.explain import Draft, Explained, explain
from difflax.evaluation.judges.shapes.segment import SIZE, Ground

CHUNK = 64  # pictures that are explained at once
LIKELY_RADII = (0.14, 0.26)  # of an object that is no artefact
STRANGE_ERROR = 1e-3  # the mean squared error that one artefact must save
OBJECT_ERROR = 2e-4  # and any object; the smallest one saves ten times as much
DOUBTFUL = 0.02  # share of an object's contrast that a fit may leave before it is tried again
GUESSES, MORE_GUESSES = 4, 12  # shapes fitted to each region, and to the objects of a bad picture
GOOD_ERROR = 10 ** (-38 / 10)  # mean squared error that needs no second try: PSNR 38 dB
DONE_ERROR = 10 ** (-55 / 10)  # and no further round of a fit: rounding to 8 bits alone leaves 59 dB
READABLE_ERROR = 10 ** (-16 / 10)  # above it a picture shows nothing of this world: PSNR 16 dB
READABLE_SHARE = 0.15  # of the pixels that must lie on the background
UNEXPLAINED = 0.5  # share of an object's contrast that its fit may leave; more is no known object
STRAY_RESIDUAL = 0.15  # squared RGB distance at which a pixel of a blob is not explained


@dataclasses.dataclass(frozen=True)
class Reading:
    """What was read off many pictures.

    Attributes:
        scenes: the factors; of an unreadable picture they mean nothing.
        known: which objects are plausible; another one is there, but nothing of it is known.
        stray: how many regions stand out that no object explains.
        readable: whether a picture shows this world at all.
        error: mean squared difference in RGB between a picture and the render of what was read.
    """

    scenes: Scenes
    known: Bool[np.ndarray, "n 3"]
    stray: Int[np.ndarray, " n"]
    readable: Bool[np.ndarray, " n"]
    error: Float[np.ndarray, " n"]

    @property
    def psnr(self) -> Float[np.ndarray, " n"]:
        """Peak signal-to-noise ratio in dB between each picture and the render of what was read."""
        return -10 * np.log10(np.maximum(self.error, 1e-10))

    @classmethod
    def of_truth(cls, scenes: Scenes) -> "Reading":
        """What a perfect judge would read."""
        n = len(scenes)
        return cls(scenes, scenes.present, np.zeros(n, int), np.ones(n, bool), np.zeros(n))

    @property
    def confidence(self) -> Float[np.ndarray, " n"]:
        """From 0 (unreadable) to 1: linear in the PSNR from 16 to 36 dB."""
        return np.where(self.readable, np.clip((self.psnr - 16) / 20, 0, 1), 0)


@dataclasses.dataclass(frozen=True)
class _Look:
    """Pictures, their fitted backgrounds, the hue of each pixel, and the factors of the backgrounds."""

    pictures: Float[np.ndarray, "n h w 3"]
    background: Float[np.ndarray, "n h w 3"]
    hues: Int[np.ndarray, "n h w"]
    ground: Ground


def judge(images: UInt8[np.ndarray, "n h w 3"] | Float[np.ndarray, "n h w 3"]) -> Reading:
    """Reads pictures; floats are in [0, 1].

    Raises:
        ValueError: the sides are no multiple of 32, or there are not three channels.
    """
    pictures = _shrink(images)
    parts = [_judge(pictures[start : start + 512]) for start in range(0, len(pictures), 512)]
    return Reading(
        factors.concatenate([part.scenes for part in parts]),
        *(np.concatenate([getattr(part, f.name) for part in parts]) for f in dataclasses.fields(Reading)[1:]),
    )


def _shrink(images: np.ndarray) -> Float[np.ndarray, "n 32 32 3"]:
    n, height, width, channels = images.shape
    if height != width or height % SIZE or channels != 3:
        raise ValueError(
            f"the judge reads square RGB pictures of a multiple of {SIZE} pixels, got {images.shape[1:]}"
        )
    pixels = images.astype(np.float32) / (255 if images.dtype == np.uint8 else 1)
    pixels = np.nan_to_num(pixels, nan=0.5).clip(0, 1)
    step = height // SIZE
    return pixels if step == 1 else pixels.reshape(n, SIZE, step, SIZE, step, 3).mean((2, 4))


def _judge(pictures: Float[np.ndarray, "n 32 32 3"]) -> Reading:
    best, affine, share, ground_pictures, hues = (
        np.concatenate(parts)
        for parts in zip(*(map(np.asarray, segment.look(p)) for p in _chunks(pictures)), strict=True)
    )
    best, affine, share, ground_pictures, hues = (
        a[: len(pictures)] for a in (best, affine, share, ground_pictures, hues)
    )
    ground = segment.ground_of(best, affine, share)
    found = segment.regions(hues)
    look = _Look(pictures, ground_pictures, hues, ground)
    ways = cuts_of_pictures(found, len(pictures))
    cuts = [way[0] for way in ways]
    draft, seen = _read_cuts(look, candidates(list(enumerate(cuts))), search=False)

    bad = np.flatnonzero(_doubtful(draft, seen) & (share > READABLE_SHARE))
    draft, seen = _better(
        draft, seen, look, [(i, cut) for i in bad.tolist() for cut in ways[i][1:]], cuts, search=False
    )
    bad = bad[_doubtful(_take(draft, bad), _take(seen, bad)) | (seen.error[bad] > GOOD_ERROR)]
    # Also from the first cut: a bad guess at one of its objects may have left that object out since.
    starts = [(i, cut) for i in bad.tolist() for cut in _distinct(cuts[i], ways[i][0])]
    draft, seen = _better(draft, seen, look, starts, cuts, search=True)
    return _reading(draft, seen, ground)


def _distinct(kept: Cut, first: Cut) -> list[Cut]:
    return [kept] if kept is first else [kept, first]


def _strange(draft: Draft) -> Bool[np.ndarray, "n 3"]:
    """Objects that are smaller or larger than any: edges of others, mostly."""
    radius = draft.pose[..., 2]
    return draft.present & ((radius < LIKELY_RADII[0]) | (radius > LIKELY_RADII[1]))


def _doubtful(draft: Draft, seen: Explained) -> Bool[np.ndarray, " n"]:
    """Which readings another one may improve on: bad ones, and those with an object that hardly shows."""
    hidden = draft.present & (seen.shown < segment.MIN_PIXELS)
    unexplained = (draft.present & (seen.unexplained > DOUBTFUL)).any(-1) & (seen.error > GOOD_ERROR)
    return unexplained | (_strange(draft) | hidden).any(-1)


def _badness(draft: Draft, seen: Explained) -> Float[np.ndarray, " n"]:
    """What the kept reading has the least of: the error, and penalties for objects and strange ones."""
    return seen.error + STRANGE_ERROR * _strange(draft).sum(-1) + OBJECT_ERROR * draft.present.sum(-1)


def _read_cuts(look: _Look, cuts: Candidates, *, search: bool) -> tuple[Draft, Explained]:
    """The best reading of each cut; with ``search`` many shapes are tried in place of each object."""
    pictures = look.pictures[cuts.owner]
    covered, weight = _first_coverage(look, cuts)
    draft = _draft(look.ground, cuts, *_fit(cuts.present, covered, weight, GUESSES))
    if search:
        return _search(pictures, draft, covered, weight)
    return _refine(pictures, draft, rounds=2)


def _better(
    draft: Draft,
    seen: Explained,
    look: _Look,
    others: list[tuple[int, Cut]],
    cuts: list[Cut],
    *,
    search: bool,
):
    """Readings of pictures, replaced by those of other cuts where these are less bad; ``cuts`` follows."""
    if not others:
        return draft, seen
    tried = candidates(others)
    other, seen_other = _read_cuts(look, tried, search=search)
    bad = _badness(other, seen_other)
    order = np.lexsort([bad, tried.owner])
    first = order[np.unique(tried.owner[order], return_index=True)[1]]
    first = first[bad[first] < _badness(draft, seen)[tried.owner[first]]]
    rows = tried.owner[first]
    for row, which in zip(rows, first, strict=True):
        cuts[row] = others[which][1]
    return _put(draft, rows, other, first), _put(seen, rows, seen_other, first)


def _chunks(pictures):
    """Chunks of `CHUNK` pictures, the last one filled up."""
    for start in range(0, len(pictures), CHUNK):
        part = pictures[start : start + CHUNK]
        yield np.concatenate([part, np.repeat(part[:1], CHUNK - len(part), 0)])


def _map(function, *trees):
    return {
        f.name: function(*(getattr(tree, f.name) for tree in trees)) for f in dataclasses.fields(trees[0])
    }


def _take(tree, rows):
    return type(tree)(**_map(lambda a: np.asarray(a)[rows], tree))


def _put(tree, rows, other, chosen):
    def put(a, b):
        a = np.array(a)
        a[rows] = np.asarray(b)[chosen]
        return a

    return type(tree)(**_map(put, tree, other))


def _explain(pictures: Float[np.ndarray, "m h w 3"], draft: Draft) -> Explained:
    """`explain` in chunks of one size."""
    total, parts = len(pictures), []
    for start in range(0, total, CHUNK):
        rows = np.minimum(np.arange(start, start + CHUNK), total - 1)
        parts.append(explain(pictures[rows], _take(draft, rows)))
    return Explained(**_map(lambda *a: np.concatenate([np.asarray(x) for x in a])[:total], *parts))


def _refine(pictures, draft: Draft, rounds: int) -> tuple[Draft, Explained]:
    """Fits all poses to what `explain` says, in turn with it, where there is anything left to gain."""
    seen = _explain(pictures, draft)
    for _ in range(rounds):
        open_ = np.flatnonzero(seen.error > DONE_ERROR)
        rows = np.flatnonzero(draft.present[open_].ravel())
        if not len(rows):
            return draft, seen
        old, at = _take(draft, open_), _take(seen, open_)
        flat = (-1, SIZE, SIZE)
        fits = poses.fit(
            old.shape.ravel()[rows],
            old.pose.reshape(-1, 4)[rows],
            rows,
            at.target.reshape(flat),
            at.weight.reshape(flat),
        )
        pose = np.array(old.pose)
        pose.reshape(-1, 4)[rows] = fits.pose
        moved = old.replace(pose=pose)
        seen_moved = _explain(pictures[open_], moved)
        better = seen_moved.error <= at.error
        draft = _put(draft, open_[better], moved, better)
        seen = _put(seen, open_[better], seen_moved, better)
    return draft, seen


def _fit(present, covered, weight, number: int) -> tuple[Int[np.ndarray, "m 3"], Float[np.ndarray, "m 3 4"]]:
    """The best fitted shape of every object out of ``number`` guesses."""
    rows = np.flatnonzero(present.ravel())
    shape = np.zeros(present.size, int)
    pose = np.tile(np.float32([0.5, 0.5, 0.2, 0]), (present.size, 1))
    if len(rows):
        covered, weight = (a.reshape(-1, SIZE, SIZE)[rows] for a in (covered, weight))
        shapes, starts = poses.guess(covered.clip(0, 1), weight, number)
        fits = poses.fit(
            shapes.ravel(), starts.reshape(-1, 4), np.repeat(np.arange(len(rows)), number), covered, weight
        )
        best = fits.cost.reshape(-1, number).argmin(-1)
        each = np.arange(len(rows))
        shape[rows] = shapes[each, best]
        pose[rows] = fits.pose.reshape(-1, number, 4)[each, best]
    return shape.reshape(present.shape), pose.reshape(*present.shape, 4)


def _search(pictures, draft: Draft, covered, weight) -> tuple[Draft, Explained]:
    """Puts many shapes in place of each object in turn, and keeps what explains the picture best.

    The shapes are guessed from the first look, which does not depend on the texture that was read.
    """
    rows = np.arange(len(pictures))
    for k in range(MAX_OBJECTS):
        there = rows[np.asarray(draft.present)[:, k]]
        if not len(there):
            continue
        shapes, starts = poses.guess(covered[there, k], weight[there, k], MORE_GUESSES)
        owner = np.repeat(np.arange(len(there)), MORE_GUESSES)
        fits = poses.fit(shapes.ravel(), starts.reshape(-1, 4), owner, covered[there, k], weight[there, k])
        tried = _take(draft, there[owner])
        shape, pose = np.array(tried.shape), np.array(tried.pose)
        shape[:, k], pose[:, k] = fits.shape, fits.pose
        tried = tried.replace(shape=shape, pose=pose)
        seen = _explain(pictures[there[owner]], tried)
        best = seen.error.reshape(-1, MORE_GUESSES).argmin(-1) + MORE_GUESSES * np.arange(len(there))
        draft = _put(draft, there, _take(tried, best), slice(None))
    return _refine(pictures, draft, rounds=2)


def _first_coverage(look: _Look, cuts: Candidates):
    """How much of each pixel an object covers, from how far its RGB is on the way from the background's.

    Both the plain colour and that of a mark are tried, in a middling light. Pixels of another hue weigh 0.
    """
    hue, ground = look.hues[cuts.owner][:, None], look.background[cuts.owner]
    other = (hue >= 0) & (hue != cuts.colour[..., None, None])
    near = ndimage.binary_dilation(cuts.mask, np.ones((1, 1, 3, 3), bool)) & ~other
    plain = 0.85 * np.array(list(factors.COLOURS.values()), np.float32)[cuts.colour]
    off = look.pictures[cuts.owner] - ground
    covered = np.zeros(near.shape, np.float32)
    least = np.full(near.shape, np.inf, np.float32)
    for colour in (plain, plain + 0.65 * (0.85 - plain)):
        # Of away = colour − background: away · off and |away|², by their parts.
        across = _dots(colour, off) - np.sum(ground * off, -1)[:, None]
        length = np.sum(colour**2, -1)[..., None, None] - 2 * _dots(colour, ground)
        length += np.sum(ground**2, -1)[:, None]
        share = np.clip(1.1 * across / length, 0, 1)
        distance = np.sum(off**2, -1)[:, None] - share * (2 * across - share * length)
        covered = np.where(distance < least, share, covered)
        least = np.minimum(least, distance)
    return np.where(near, covered, 0), np.where(other, 0, 1).astype(np.float32)


def _dots(
    colours: Float[np.ndarray, "m 3 3"], pictures: Float[np.ndarray, "m h w 3"]
) -> Float[np.ndarray, "m 3 h w"]:
    flat = pictures.reshape(len(pictures), -1, 3).transpose(0, 2, 1)
    return (colours @ flat).reshape(len(pictures), -1, *pictures.shape[1:3])


def _draft(ground: Ground, cuts: Candidates, shape, pose) -> Draft:
    return Draft(
        background=ground.background[cuts.owner],
        gradient=ground.gradient[cuts.owner],
        direction=ground.direction[cuts.owner].astype(np.float32),
        present=cuts.present,
        shape=shape,
        colour=cuts.colour,
        pose=pose.astype(np.float32),
    )


def _reading(draft: Draft, seen: Explained, ground: Ground) -> Reading:
    """Puts the objects in their depth order and says what is plausible."""
    depth = np.where(draft.present, np.argsort(seen.depth, -1), 9)
    depth = np.argsort(depth, -1, kind="stable")
    take = lambda a: np.take_along_axis(a, depth, 1)  # noqa: E731
    pose = np.take_along_axis(draft.pose, depth[..., None], 1)
    shape, count = take(draft.shape), draft.present.sum(-1)
    period = factors.ROTATION_PERIODS[shape]
    turns = (pose[..., 3] / np.where(period > 0, period, 1) + 0.5) % 1 - 0.5
    rotation = turns * period
    known = take(draft.present & (seen.unexplained < UNEXPLAINED))
    blobs = ndimage.binary_opening(seen.residual > STRAY_RESIDUAL, np.ones((1, 2, 2), bool))
    stray = np.array([ndimage.label(blob)[1] for blob in blobs])
    scenes = Scenes(
        background=draft.background,
        gradient=draft.gradient,
        direction=draft.direction,
        light=seen.light,
        count=count,
        shape=shape,
        colour=take(draft.colour),
        texture=take(seen.texture),
        size=(pose[..., 2] > factors.RADII[:, ::-1].mean(0).mean()).astype(int),
        x=pose[..., 0],
        y=pose[..., 1],
        radius=pose[..., 2],
        rotation=rotation.astype(np.float32),
    )
    readable = (count > 0) & known.any(-1) & (seen.error < READABLE_ERROR) & (ground.share > READABLE_SHARE)
    return Reading(scenes, known, stray, readable, seen.error)
