"""What a picture says about objects whose outlines are known: texture, light, depth, and how well all fits.

With every outline given, a picture is linear in the coverage of each object: ``I = A + B · a``. ``A`` is the
picture without it, and ``B`` how its surface differs from what is behind, where nothing hides it. So least
squares in RGB is least squares in the coverage, ``Σ |B|² (a − a*)²`` with ``a* = B·(I − A) / |B|²``, which is
what `poses.fit` solves.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from difflax.data.shapes import factors
from difflax.data.shapes.factors import Numbers
from difflax.data.shapes.render import MARK, background, coverage, in_radii, marks, pixel_centres, shade
from difflax.evaluation.judges.shapes.segment import SIZE

_COLOURS = np.array(list(factors.COLOURS.values()), np.float32)
_BACKGROUNDS = np.array(list(factors.BACKGROUNDS.values()), np.float32)


_OTHERS = ((0, 1, 2), (1, 0, 2), (2, 0, 1))  # each object and the two others


@flax.struct.dataclass
class Draft:
    """Scenes whose outlines are known: what `explain` reads.

    Attributes:
        background, gradient, direction: of each scene.
        present: which rows are objects.
        shape, colour, pose: of each object; the pose is x, y, radius and rotation.
    """

    background: Int[Numbers, "*n"]
    gradient: Int[Numbers, "*n"]
    direction: Float[Numbers, "*n"]
    present: Bool[Numbers, "*n 3"]
    shape: Int[Numbers, "*n 3"]
    colour: Int[Numbers, "*n 3"]
    pose: Float[Numbers, "*n 3 4"]


@flax.struct.dataclass
class Explained:
    """What follows from a picture and a draft.

    Attributes:
        light: of each scene.
        texture: of each object.
        depth: the objects from back to front, as rows of the draft.
        target, weight: the coverage that would explain each object's pixels best, and how much it matters.
        shown: how many pixels of each object are to be seen.
        error: mean squared difference of RGB values between the picture and the render of what was read.
        unexplained: the same error over each object's own pixels, as a share of what is left without it.
        residual: Σ over channels of the squared difference at each pixel.
    """

    light: Int[Numbers, "*n"]
    texture: Int[Numbers, "*n 3"]
    depth: Int[Numbers, "*n 3"]
    target: Float[Numbers, "*n 3 h w"]
    weight: Float[Numbers, "*n 3 h w"]
    shown: Float[Numbers, "*n 3"]
    error: Float[Numbers, "*n"]
    unexplained: Float[Numbers, "*n 3"]
    residual: Float[Numbers, "*n h w"]


@jax.jit
def explain(pictures: Float[Numbers, "n h w 3"], draft: Draft) -> Explained:
    """See the module's docstring."""
    return jax.vmap(_explain_one)(pictures, draft)


def _explain_one(picture: Float[Array, "h w 3"], draft: Draft) -> Explained:
    grid = pixel_centres(SIZE)
    behind = background(
        jnp, jnp.asarray(_BACKGROUNDS)[draft.background], draft.gradient, draft.direction, grid
    )
    pose = tuple(draft.pose[:, i, None, None] for i in range(4))
    covered = sum(
        (draft.shape == i)[:, None, None] * coverage(jnp, name, pose, grid, float(SIZE))
        for i, name in enumerate(factors.SHAPES)
    )
    covered = covered * draft.present[:, None, None]
    clear = jnp.stack([covered[i] * (1 - covered[j]) * (1 - covered[k]) for i, j, k in _OTHERS])
    light, texture, painted = _surfaces(picture, behind, draft, clear, pose, grid)
    depth = _depth(picture, behind, painted, covered)

    covered, painted = covered[depth], painted[depth]
    below = [behind]
    for k in range(3):
        below.append(below[-1] + covered[k, ..., None] * (painted[k] - below[-1]))
    through = jnp.cumprod((1 - covered)[::-1], 0)[::-1]
    through = jnp.concatenate([through[1:], jnp.ones((1, SIZE, SIZE))])
    off = picture - below[-1]
    contrast = (painted - jnp.stack(below[:-1])) * through[..., None]
    weight = jnp.sum(contrast**2, -1)
    target = covered + jnp.sum(contrast * off, -1) / (weight + 1e-4)
    residual = jnp.sum(off**2, -1)
    without = jnp.sum((off + contrast * covered[..., None]) ** 2, -1)
    own = (covered > 0.05) * (through > 0.5)
    unexplained = jnp.sum(own * residual, (1, 2)) / (jnp.sum(own * without, (1, 2)) + 1e-6)
    back = jnp.argsort(depth)
    return Explained(
        light=light,
        texture=texture,
        depth=depth,
        target=target[back],
        weight=weight[back],
        shown=jnp.sum(covered * through, (1, 2))[back],
        error=residual.mean() / 3,
        unexplained=unexplained[back],
        residual=residual,
    )


def _surfaces(picture, behind, draft: Draft, clear: Float[Array, "3 h w"], pose, grid):
    """The light and the textures that explain best what is clearly seen, and the objects' surfaces.

    An object under light d with texture t is ``s_d · (c + m_t (1 − c))``: its shade, its colour, its marks.
    So its squared error ``Σ a (r − a s_d (c + m_t (1 − c)))²``, with ``r`` the picture without what shows
    behind, is summed once for all pairs of d and t.
    """
    colour = jnp.asarray(_COLOURS)[draft.colour]
    white = 1 - colour
    u, v = in_radii(pose[:3], grid)
    directions = jnp.asarray(factors.LIGHT_DIRECTIONS)
    textures = jnp.arange(len(factors.TEXTURES))[:, None, None, None]
    marked = MARK * marks(jnp, textures, u, v, pose[2] * SIZE)  # t 3 h w
    shades = jax.vmap(lambda d: shade(jnp, (d[0], d[1]), u, v))(directions)  # d 3 h w

    rest = (picture - behind) + clear[..., None] * behind
    plain, bright = (jnp.einsum("khwc,kc->khw", rest, c) for c in (colour, white))
    along = plain + marked * bright
    squared = (
        jnp.sum(colour**2, -1)[:, None, None]
        + 2 * marked * jnp.sum(colour * white, -1)[:, None, None]
        + marked**2 * jnp.sum(white**2, -1)[:, None, None]
    )
    errors = jnp.einsum("dkhw,tkhw->dtk", shades**2, clear**3 * squared)
    errors -= 2 * jnp.einsum("dkhw,tkhw->dtk", shades, clear**2 * along)
    light = jnp.argmin(jnp.sum(errors.min(1) * draft.present, -1))
    texture = jnp.argmin(errors[light], 0)
    chosen = jnp.take_along_axis(marked, texture[None, :, None, None], 0)[0]
    painted = colour[:, None, None] + chosen[..., None] * white[:, None, None]
    painted *= shades[light][..., None]
    return light, texture, painted


def _depth(
    picture: Float[Array, "h w 3"],
    behind: Float[Array, "h w 3"],
    painted: Float[Array, "3 h w 3"],
    covered: Float[Array, "3 h w"],
) -> Int[Array, " 3"]:
    """The objects from back to front: of two that overlap, the order that draws the picture better."""

    def error(front, back, other):
        drawn = behind
        for k in (back, front):
            drawn = drawn + covered[k, ..., None] * (painted[k] - drawn)
        both = (covered[front] * covered[back] > 0) * (1 - covered[other])
        return jnp.sum(both * jnp.sum((picture - drawn) ** 2, -1))

    wins = [0.0] * 3
    for i, j, other in ((0, 1, 2), (0, 2, 1), (1, 2, 0)):
        in_front = jnp.sign(error(j, i, other) - error(i, j, other))
        wins[i], wins[j] = wins[i] + in_front, wins[j] - in_front
    return jnp.argsort(jnp.stack(wins))
