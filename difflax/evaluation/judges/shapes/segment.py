"""The first look at a picture: its background, and the regions of one hue that stand out from it.

A gradient changes only a background's brightness, so each named background is a ray in RGB; the one on whose
ray, at a brightness that is affine in the place, most pixels lie is the background. Light scales an object's
colour and the marks of a texture mix it with white, so all its pixels lie in the plane of its colour and
white: the plane tells the colour whatever texture and light are. Pixels on an edge mix with what is behind
and lie in any plane; they follow the votes of their neighbours.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy import ndimage

from difflax.data.shapes import factors
from difflax.data.shapes.render import GRADIENT

SIZE = 32  # pixels; larger pictures are averaged down to it
RAY_WIDTH = 0.06  # RGB distance from a background's ray at which a pixel counts 1/√e, in a clean picture
BRIGHTNESS = (0.5, 1.15)  # of a pixel that may be background; gradients go from 0.6 to 1
WIDTHS = (0.15, 0.09, 0.054, 0.0324, 0.03)  # of brightness around its fit, in each round of it
CONTRAST = 0.09  # RGB distance from the background at which a pixel belongs to an object
PLANE_WIDTH = 0.03  # RGB distance from a colour's plane at which a pixel's vote counts 1/e
MIN_PIXELS = 5  # of a region; the smallest visible object shows twice as many
MAX_LENGTH = 2 * factors.RADII.max() * SIZE + 0.5  # pixels that one object can be long
MAX_REGIONS = 6  # the largest regions of a picture that are looked at

_BACKGROUNDS = np.array(list(factors.BACKGROUNDS.values()), np.float32)
_COLOURS = np.array(list(factors.COLOURS.values()), np.float32)
_CENTRES = ((np.arange(SIZE) + 0.5) / SIZE - 0.5).astype(np.float32)
_AFFINE = np.stack(
    [np.ones((SIZE, SIZE)), *np.broadcast_arrays(_CENTRES[None, :], _CENTRES[:, None])], -1
).reshape(-1, 3).astype(np.float32)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Ground:
    """The fitted background of each picture.

    Attributes:
        background, gradient, direction: as in `factors.Scenes`.
        share: of the pixels that lie on it.
    """

    background: Int[np.ndarray, " n"]
    gradient: Int[np.ndarray, " n"]
    direction: Float[np.ndarray, " n"]
    share: Float[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Regions:
    """The connected regions of one hue of all pictures, those of one picture together, largest first.

    Attributes:
        owner: the picture of each.
        colour: its hue's index in `factors.COLOURS`.
        mask: its pixels.
    """

    owner: Int[np.ndarray, " k"]
    colour: Int[np.ndarray, " k"]
    mask: Bool[np.ndarray, "k h w"]


@jax.jit
def look(
    pictures: Float[Array, "n h w 3"],
) -> tuple[
    Int[Array, " n"], Float[Array, "n 3"], Float[Array, " n"], Float[Array, "n h w 3"], Int[Array, "n h w"]
]:
    """Background index, its affine brightness, its share, the fitted background, and each pixel's colour.

    The colour is an index in `factors.COLOURS`, or −1 where the background is seen.
    """
    pixels = pictures.reshape(len(pictures), -1, 3)
    noise = _noise(pictures)[:, None, None]
    rays = jnp.asarray(_BACKGROUNDS)
    brightness = jnp.einsum("npc,bc->nbp", pixels, rays) / jnp.sum(rays**2, -1)[:, None]
    off = jnp.sum((pixels[:, None] - brightness[..., None] * rays[:, None]) ** 2, -1)
    possible = (brightness > BRIGHTNESS[0]) & (brightness < BRIGHTNESS[1])
    weight = jnp.where(possible, jnp.exp(-off / (2 * (RAY_WIDTH + noise) ** 2)), 0)
    affine = jnp.asarray(_AFFINE)

    def refit(robust, width):
        normal = jnp.einsum("nbp,pi,pj->nbij", robust, affine, affine) + 1e-3 * jnp.eye(3)
        fitted = jnp.linalg.solve(normal, jnp.einsum("nbp,pi->nbi", robust * brightness, affine)[..., None])
        expected = jnp.einsum("pi,nbi->nbp", affine, fitted[..., 0])
        return weight * jnp.exp(-(((brightness - expected) / width) ** 2) / 2), fitted[..., 0]

    robust, fitted = jax.lax.scan(refit, weight, jnp.array(WIDTHS))
    share = robust.mean(-1)
    best = jnp.argmax(share, -1)
    chosen = jnp.take_along_axis(fitted[-1], best[:, None, None], 1)[:, 0]
    ground = (jnp.einsum("pi,ni->np", affine, chosen)[..., None] * rays[best][:, None]).reshape(
        pictures.shape
    )
    return best, chosen, share.max(-1), ground, _hues(pictures, ground, noise)


def _noise(pictures: Float[Array, "n h w 3"]) -> Float[Array, " n"]:
    """The standard deviation of white noise, from second differences: 0 on gradients and flat surfaces."""
    second = pictures[:, :, 2:] - 2 * pictures[:, :, 1:-1] + pictures[:, :, :-2]
    return jnp.median(abs(second), (1, 2, 3)) / (0.6745 * 6**0.5)


def _hues(
    pictures: Float[Array, "n h w 3"], ground: Float[Array, "n h w 3"], noise: Float[Array, "n 1 1"]
) -> Int[Array, "n h w"]:
    """The colour of each pixel by its own and its neighbours' votes."""
    colours = jnp.asarray(_COLOURS)
    # Over the plane of a colour and white: pixel = a · colour + b · white.
    white = jnp.ones_like(colours)
    basis = jnp.stack([colours, white], -1)
    solve = jnp.linalg.pinv(basis)
    parts = jnp.einsum("kij,nhwj->nhwki", solve, pictures)
    off = jnp.sum((jnp.einsum("kji,nhwki->nhwkj", basis, parts) - pictures[..., None, :]) ** 2, -1)
    vote = jnp.exp(-off / (PLANE_WIDTH + noise[..., None]) ** 2) * jnp.clip(parts[..., 0] / 0.25, 0, 1) + 1e-6
    stands_out = jnp.linalg.norm(pictures - ground, axis=-1) > CONTRAST + 2 * noise
    vote = jnp.where(stands_out[..., None], vote, 0)
    kernel = jnp.array([0.5, 1.0, 0.5])
    padded = jnp.pad(vote, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = sum(k * padded[:, i : i + SIZE] for i, k in enumerate(kernel))
    votes = sum(k * rows[:, :, i : i + SIZE] for i, k in enumerate(kernel))
    return jnp.where(stands_out, jnp.argmax(votes, -1), -1)


def regions(hues: Int[np.ndarray, "n h w"]) -> Regions:
    """The connected regions of each hue that are large enough to be part of an object."""
    within = np.zeros((3, 3, 3), bool)
    within[1] = True
    labels = np.zeros(hues.shape, int)
    found = 0
    for colour in range(len(factors.COLOURS)):
        part, count = ndimage.label(hues == colour, within)
        labels += np.where(part > 0, part + found, 0)
        found += count
    sizes = np.bincount(labels.ravel(), minlength=found + 1)
    boxes = ndimage.find_objects(labels)
    kept = [k for k in range(1, found + 1) if sizes[k] >= MIN_PIXELS]
    owner = np.array([boxes[k - 1][0].start for k in kept], int)
    order = np.lexsort([-sizes[kept], owner]) if kept else np.zeros(0, int)
    rank = np.arange(len(order)) - np.searchsorted(owner[order], owner[order])
    order = order[rank < MAX_REGIONS]
    kept, owner = np.array(kept, int)[order], owner[order]
    mask = labels[owner] == kept[:, None, None]
    colour = np.array([hues[o][m][0] for o, m in zip(owner, mask, strict=True)], int)
    return Regions(owner, colour, mask)


def halves(mask: Bool[np.ndarray, "h w"]) -> list[Bool[np.ndarray, "h w"]]:
    """A region that is longer than any object, cut across its longest axis; nothing of a shorter one."""
    points = np.argwhere(mask) + 0.5
    middle = points - points.mean(0)
    along = middle @ np.linalg.svd(middle, full_matrices=False)[2][0]
    if np.ptp(along) < MAX_LENGTH:
        return []
    split = (along.max() + along.min()) / 2
    out = []
    for side in (along < split, along >= split):
        half = np.zeros_like(mask)
        half[tuple(points[side].astype(int).T)] = True
        out.append(half)
    return out


def ground_of(best, affine, share) -> Ground:
    """The factors of fitted backgrounds; half a gradient's slope lies between plain and gradient."""
    slope = np.hypot(affine[:, 1], affine[:, 2])
    return Ground(
        background=np.asarray(best),
        gradient=(slope > GRADIENT * 0.5**0.5 / 2).astype(int),
        direction=np.arctan2(affine[:, 2], affine[:, 1]) % (2 * np.pi),
        share=np.asarray(share),
    )
