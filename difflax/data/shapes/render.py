"""Draws scenes, anti-aliased, at any size, with NumPy or with JAX.

A shape is the zero set of a signed distance function (Quilez, "2D distance functions"); the share of a pixel
that it covers is ``clip(1/2 − d, 0, 1)`` with the distance ``d`` of the pixel's centre in pixels. So pictures
of all sizes show the same scene, and a picture is differentiable in every place, radius and rotation, which
is how the judge fits them. Colours are composed as coverages in [0, 1], from back to front.

Every function works on arrays of either library, given as ``xp``.
"""

from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from difflax.data.shapes import factors
from difflax.data.shapes.factors import Scenes

GRADIENT = 0.4  # of a gradient's brightness is lost at its dark end
SHADE = 0.3  # of an object's brightness is lost on the side away from the light
MARK = 0.65  # share of white in the marks of a texture
STRIPE_PERIOD = 1.1  # in radii; along the diagonal of the picture
OUTER_RADIUS = 1.02  # radius of the disc in which every shape lies, in radii
DOT_SPACING, DOT_RADIUS = 0.96, 0.3  # in radii; on a square lattice along the diagonals, one at the centre

Values = Any
"""Numbers, or an array of either library; all of one call broadcast."""
RGB = Any
"""Such arrays with a last axis of three."""


# --- shapes of radius 1 around the origin: the signed distance to the outline, negative inside


def _circle(xp: ModuleType, x: Values, y: Values) -> Values:
    return _length(xp, x, y) - 0.88


def _ring(xp: ModuleType, x: Values, y: Values) -> Values:
    return abs(_length(xp, x, y) - 0.68) - 0.24


def _square(xp: ModuleType, x: Values, y: Values) -> Values:
    return xp.maximum(abs(x), abs(y)) - 0.72


def _triangle(xp: ModuleType, x: Values, y: Values) -> Values:
    return xp.maximum(abs(x) * (3**0.5 / 2) - y / 2, y) - 0.51


def _star(xp: ModuleType, x: Values, y: Values) -> Values:
    """Five points of radius 1; the notches between them lie at 0.45."""
    k = np.array([np.cos(np.pi / 5), -np.sin(np.pi / 5)])
    x, y = abs(x), -y
    for side in (1, -1):
        ahead = xp.maximum(side * k[0] * x + k[1] * y, 0)
        x, y = x - 2 * ahead * side * k[0], y - 2 * ahead * k[1]
    x, y = abs(x), y - 1
    # The edge from the tip (0, 0) to the notch, both mirrored into this fifth.
    edge = 0.45 * np.array([np.sin(np.pi / 5), np.cos(np.pi / 5)]) - np.array([0, 1])
    along = xp.clip((x * edge[0] + y * edge[1]) / (edge @ edge), 0, 1)
    distance = _length(xp, x - edge[0] * along, y - edge[1] * along)
    return distance * xp.sign(y * edge[0] - x * edge[1])


def _heart(xp: ModuleType, x: Values, y: Values) -> Values:
    """Two quarter discs on a square that stands on its corner, 1.6 wide."""
    scale = 1.32
    x, y = abs(x) / scale, 0.5 - (y + 0.03) / scale
    lobe = _length(xp, x - 0.25, y - 0.75) - 2**0.5 / 4
    diagonal = 0.5 * xp.maximum(x + y, 0)
    tip = xp.minimum(_length(xp, x, y - 1), _length(xp, x - diagonal, y - diagonal))
    return scale * xp.where(x + y > 1, lobe, tip * xp.sign(x - y))


DISTANCES = dict(zip(factors.SHAPES, (_circle, _ring, _square, _triangle, _star, _heart), strict=True))
"""The signed distance of each shape, in units of its radius; every shape lies in the disc of radius 1.02."""


def _length(xp: ModuleType, x: Values, y: Values) -> Values:
    return xp.sqrt(x * x + y * y + 1e-12)


# --- parts of a picture


def pixel_centres(size: int) -> tuple[Float[np.ndarray, "1 w"], Float[np.ndarray, "h 1"]]:
    """x and y of the pixels of a picture, in (0, 1)."""
    centres = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return centres[None, :], centres[:, None]


def coverage(
    xp: ModuleType,
    shape: str,
    pose: tuple[Values, Values, Values, Values],
    grid: tuple[Values, Values],
    pixels: float,
) -> Values:
    """The share in [0, 1] of each pixel that a shape covers.

    Args:
        shape: one of `factors.SHAPES`.
        pose: x, y, radius and rotation, in shapes that broadcast with ``grid``.
        grid: x and y of the pixels.
        pixels: along the picture's side.
    """
    x, y, radius, rotation = pose
    u, v = in_radii((x, y, radius), grid)
    # Of a rotation in float64, rounded, they are the same bits on every machine.
    cos, sin = (f(rotation).astype(u.dtype) for f in (xp.cos, xp.sin))
    distance = DISTANCES[shape](xp, cos * u + sin * v, cos * v - sin * u)
    return xp.clip(0.5 - distance * radius * pixels, 0, 1)


def marks(xp: ModuleType, texture: Values, u: Values, v: Values, scale: Values) -> Values:
    """The share of each pixel that a texture's marks cover.

    Args:
        texture: index in `factors.TEXTURES`.
        u, v: from the object's centre, in radii.
        scale: the radius in pixels.
    """
    p, q = (u + v) * 0.5**0.5, (u - v) * 0.5**0.5
    stripes = STRIPE_PERIOD / 4 - abs(p - STRIPE_PERIOD * xp.round(p / STRIPE_PERIOD))
    p, q = (t - DOT_SPACING * xp.round(t / DOT_SPACING) for t in (p, q))
    dots = DOT_RADIUS - _length(xp, p, q)
    inside = xp.where(texture == 1, stripes, xp.where(texture == 2, dots, -1e3))
    return xp.clip(0.5 + inside * scale, 0, 1)


def surface(
    xp: ModuleType,
    colour: RGB,
    texture: Values,
    light: tuple[Values, Values],
    place: tuple[Values, Values, Values],
    grid: tuple[Values, Values],
    pixels: float,
) -> RGB:
    """The colour of an object at every pixel: its texture under the light, before its outline is cut.

    ``light`` is the unit vector towards it; ``place`` is x, y and radius.
    """
    u, v = in_radii(place, grid)
    marked = MARK * marks(xp, texture, u, v, place[2] * pixels)[..., None]
    return shade(xp, light, u, v)[..., None] * (colour + marked * (1 - colour))


def in_radii(place: tuple[Values, Values, Values], grid: tuple[Values, Values]) -> tuple[Values, Values]:
    """The pixels' places seen from an object's centre, in its radii; ``place`` is x, y and radius."""
    x, y, radius = place
    return (grid[0] - x) / radius, (grid[1] - y) / radius


def shade(xp: ModuleType, light: tuple[Values, Values], u: Values, v: Values) -> Values:
    """The share of its brightness that an object keeps at every pixel under the light."""
    return 1 - SHADE * (1 - xp.clip(u * light[0] + v * light[1], -1, 1)) / 2


def background(
    xp: ModuleType,
    colour: RGB,
    gradient: Values,
    direction: Values,
    grid: tuple[Values, Values],
) -> RGB:
    """The background at every pixel; ``gradient`` is 0 (plain) or 1."""
    cos, sin = (f(direction).astype(grid[0].dtype) for f in (xp.cos, xp.sin))
    along = (grid[0] - 0.5) * cos + (grid[1] - 0.5) * sin
    brightness = 1 - gradient * GRADIENT * (0.5 - along * 0.5**0.5)
    return brightness[..., None] * colour


# --- pictures

_COLOURS = np.array(list(factors.COLOURS.values()), np.float32)
_BACKGROUNDS = np.array(list(factors.BACKGROUNDS.values()), np.float32)


def render(scenes: Scenes, size: int = 32, xp: ModuleType = np) -> Float[np.ndarray | Array, "n h w 3"]:
    """The pictures of scenes in [0, 1], ``size`` × ``size`` pixels."""
    grid = pixel_centres(size)
    per_scene = lambda values: xp.asarray(values)[:, None, None]  # noqa: E731
    picture = background(
        xp,
        per_scene(xp.asarray(_BACKGROUNDS)[scenes.background]),
        per_scene(scenes.gradient),
        per_scene(scenes.direction),
        grid,
    )
    light = tuple(per_scene(xp.asarray(axis)[scenes.light]) for axis in factors.LIGHT_DIRECTIONS.T)
    for k in range(factors.MAX_OBJECTS):
        pose = tuple(per_scene(getattr(scenes, name)[:, k]) for name in ("x", "y", "radius", "rotation"))
        shape = per_scene(scenes.shape[:, k])
        covered = sum(
            (shape == i) * coverage(xp, name, pose, grid, float(size))
            for i, name in enumerate(factors.SHAPES)
        )
        covered = covered * per_scene(scenes.count > k)
        colour = per_scene(xp.asarray(_COLOURS)[scenes.colour[:, k]])
        painted = surface(xp, colour, per_scene(scenes.texture[:, k]), light, pose[:3], grid, float(size))
        picture = picture + covered[..., None] * (painted - picture)
    return picture


def pictures(scenes: Scenes, size: int = 32) -> UInt8[np.ndarray, "n h w 3"]:
    """The pictures of scenes in 8 bits, as `render` draws them; objects are computed where they lie alone."""
    grid = pixel_centres(size)
    picture = background(
        np,
        _BACKGROUNDS[scenes.background][:, None, None],
        scenes.gradient[:, None, None],
        scenes.direction[:, None, None].astype(np.float64),
        grid,
    ).astype(np.float32)
    for k in range(factors.MAX_OBJECTS):
        rows = np.flatnonzero(scenes.count > k)
        if len(rows):
            _paint(picture, scenes, rows, k)
    return np.rint(picture * 255).astype(np.uint8)


def _paint(picture: np.ndarray, scenes: Scenes, rows: Int[np.ndarray, " m"], k: int) -> None:
    """Draws the k-th object of these rows into their pictures."""
    size = picture.shape[1]
    centres = pixel_centres(size)[0][0]
    # A window of one size for all that holds the largest disc and the softness of its edge.
    edge = min(size, int(np.ceil(2 * OUTER_RADIUS * factors.RADII.max() * size)) + 5)
    x, y, radius, rotation = (getattr(scenes, name)[rows, k] for name in ("x", "y", "radius", "rotation"))
    left, top = (np.clip(np.rint(c * size - edge / 2).astype(int), 0, size - edge) for c in (x, y))
    columns, lines = left[:, None] + np.arange(edge), top[:, None] + np.arange(edge)
    grid = centres[columns][:, None, :], centres[lines][:, :, None]
    pose = tuple(v[:, None, None] for v in (x, y, radius, rotation.astype(np.float64)))
    light = tuple(axis[scenes.light[rows]][:, None, None] for axis in factors.LIGHT_DIRECTIONS.T)
    covered = np.zeros((len(rows), edge, edge), np.float32)
    for i, name in enumerate(factors.SHAPES):
        some = np.flatnonzero(scenes.shape[rows, k] == i)
        if len(some):
            of = tuple(v[some] for v in pose)
            covered[some] = coverage(np, name, of, tuple(v[some] for v in grid), float(size))
    painted = surface(
        np,
        _COLOURS[scenes.colour[rows, k]][:, None, None],
        scenes.texture[rows, k][:, None, None],
        light,
        pose[:3],
        grid,
        float(size),
    )
    where = rows[:, None, None], lines[:, :, None], columns[:, None, :]
    below = picture[where]
    picture[where] = below + covered[..., None] * (painted - below)
