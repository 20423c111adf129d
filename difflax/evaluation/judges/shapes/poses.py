"""Which shape covers a picture like this, and where: first guesses from templates, then least squares.

Both look at one object at a time: at how much of each pixel it covers, and at how sure that is (the weight is
0 where another object may hide it). A guess compares the object, moved and scaled to area 1 around its
centroid, with every shape at every rotation by one matrix product. Levenberg-Marquardt steps (Marquardt 1963)
then fit x, y, radius and rotation by the derivative of the renderer itself. Fits of one shape are computed
together, because a program that does not know its shape would compute all of them.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from difflax.data.shapes import factors
from difflax.data.shapes.render import coverage, pixel_centres
from difflax.evaluation.judges.shapes.segment import SIZE

TEMPLATE = 20  # samples along a template's side
REACH = 1.2  # half of a template's side, where the shape has area 1
ROTATION_STEP = np.radians(12)  # between templates of a shape, at most
RADIUS_LIMITS = (0.10, 0.30)  # that a fit may reach; true radii are 0.16 … 0.22
GROUP = 16  # fits of one shape that are computed together
GROUPS = 16  # such groups that one call of the compiled program computes
WINDOW = 20  # pixels along the side of the window that an object is fitted in
STEPS = 6  # of a fit


@dataclasses.dataclass(frozen=True)
class Fits:
    """Fitted objects: ``pose`` is x, y, radius (shares of the side), rotation; ``cost`` Σ w·(Δ coverage)²."""

    shape: Int[np.ndarray, " k"]
    pose: Float[np.ndarray, "k 4"]
    cost: Float[np.ndarray, " k"]


@dataclasses.dataclass(frozen=True)
class Templates:
    """Every shape at every rotation, moved and scaled to area 1 around its centroid.

    Attributes:
        shape, rotation: of each.
        area: of the shape of radius 1.
        centroid: of the rotated shape of radius 1, x and y.
        covered: the templates themselves.
    """

    shape: Int[np.ndarray, " t"]
    rotation: Float[np.ndarray, " t"]
    area: Float[np.ndarray, " t"]
    centroid: Float[np.ndarray, "t 2"]
    covered: Float[np.ndarray, "t p"]


@functools.cache
def templates() -> Templates:
    """The bank of `Templates`, built once."""
    fine = 200
    x, y = (axis * 2.4 - 1.2 for axis in pixel_centres(fine))
    samples = (np.arange(TEMPLATE) + 0.5) / TEMPLATE * 2 * REACH - REACH
    rows = []
    for index, (name, period) in enumerate(zip(factors.SHAPES, factors.ROTATION_PERIODS, strict=True)):
        for rotation in np.arange(0, max(period, 1e-9), ROTATION_STEP):
            full = coverage(np, name, (0.0, 0.0, 1.0, rotation), (x, y), fine / 2.4)
            area = full.sum() * (2.4 / fine) ** 2
            centroid = [(full * axis).sum() / full.sum() for axis in (x, y)]
            grid = (samples[None] * area**0.5 + centroid[0], samples[:, None] * area**0.5 + centroid[1])
            # About as sharp as a middle-sized object of the picture.
            rows.append(
                (
                    index,
                    rotation,
                    area,
                    centroid,
                    coverage(np, name, (0, 0, 1.0, rotation), grid, 6.0).ravel(),
                )
            )
    shape, rotation, area, centroid, covered = zip(*rows, strict=True)
    return Templates(
        np.array(shape),
        np.array(rotation, np.float32),
        np.array(area, np.float32),
        np.array(centroid, np.float32),
        np.array(covered, np.float32),
    )


def guess(
    covered: Float[np.ndarray, "k h w"], weight: Float[np.ndarray, "k h w"], number: int
) -> tuple[Int[np.ndarray, "k m"], Float[np.ndarray, "k m 4"]]:
    """The ``number`` best shapes with their rotations of each object, and the pose that its area implies."""
    bank = templates()
    area = np.maximum(covered.sum((1, 2)), 1.0)
    x, y = (np.sum(covered * axis, (1, 2)) / area for axis in pixel_centres(SIZE))
    scale = np.sqrt(area) / SIZE
    samples = ((np.arange(TEMPLATE) + 0.5) / TEMPLATE * 2 * REACH - REACH).astype(np.float32)
    across = x[:, None] + scale[:, None] * samples
    down = y[:, None] + scale[:, None] * samples
    target, known = (_resample(image, across, down).reshape(len(image), -1) for image in (covered, weight))
    error = known @ (bank.covered**2).T - 2 * (known * target) @ bank.covered.T
    best = np.argpartition(error, number - 1, axis=-1)[:, :number]
    radius = scale[:, None] / np.sqrt(bank.area[best])
    place = np.stack([x, y], -1)[:, None] - radius[..., None] * bank.centroid[best]
    pose = np.concatenate([place, radius[..., None], bank.rotation[best][..., None]], -1)
    return bank.shape[best], pose.astype(np.float32)


def _resample(
    images: Float[np.ndarray, "k h w"], across: np.ndarray, down: np.ndarray
) -> Float[np.ndarray, "k s s"]:
    """Bilinear samples of each image on its own grid, 0 outside; as two small matrix products an image."""

    def hats(points):
        return np.maximum(1 - abs(points[..., None] * SIZE - 0.5 - np.arange(SIZE)), 0).astype(np.float32)

    return hats(down) @ images @ hats(across).transpose(0, 2, 1)


def fit(
    shape: Int[np.ndarray, " k"],
    pose: Float[np.ndarray, "k 4"],
    owner: Int[np.ndarray, " k"],
    covered: Float[np.ndarray, "m h w"],
    weight: Float[np.ndarray, "m h w"],
) -> Fits:
    """Fits every pose to the coverage of its ``owner``, starting where it stands."""
    corner = np.clip(np.round(pose[:, :2] * SIZE - WINDOW / 2), 0, SIZE - WINDOW).astype(int)
    span = np.arange(WINDOW)
    index = (
        owner[:, None, None],
        (corner[:, 1, None] + span)[:, :, None],
        (corner[:, 0, None] + span)[:, None, :],
    )
    out_pose, out_cost = np.zeros_like(pose), np.zeros(len(pose), np.float32)
    for groups in _groups(shape):
        rows = groups.ravel()
        window = [values[tuple(i[rows] for i in index)] for values in (covered, weight)]
        fitted, cost = _fit_groups(
            shape[groups[:, 0]],
            pose[groups],
            corner[groups].astype(np.float32),
            *(values.reshape(*groups.shape, WINDOW, WINDOW).astype(np.float32) for values in window),
        )
        out_pose[rows], out_cost[rows] = np.asarray(fitted).reshape(-1, 4), np.asarray(cost).ravel()
    return Fits(shape, out_pose, out_cost)


def _groups(shape: Int[np.ndarray, " k"]) -> Int[np.ndarray, "c g b"]:
    """Rows of one shape in groups of `GROUP`, by `GROUPS` a call, filled up with copies."""
    groups = []
    for index in np.unique(shape):
        rows = np.flatnonzero(shape == index)
        rows = np.concatenate([rows, np.repeat(rows[:1], -len(rows) % GROUP)])
        groups += list(rows.reshape(-1, GROUP))
    groups += groups[:1] * (-len(groups) % GROUPS)
    return np.array(groups).reshape(-1, GROUPS, GROUP)


@jax.jit
def _fit_groups(
    shape: Int[Array, " g"],
    pose: Float[Array, "g b 4"],
    corner: Float[Array, "g b 2"],
    covered: Float[Array, "g b w w"],
    weight: Float[Array, "g b w w"],
) -> tuple[Float[Array, "g b 4"], Float[Array, "g b"]]:
    branches = [functools.partial(_value_and_slopes, name) for name in factors.SHAPES]

    def one_group(group):
        index, start, corner, target, weight = group
        offsets = (jnp.arange(WINDOW) + 0.5)[None]
        grid = tuple((corner[:, i, None] + offsets) / SIZE for i in (0, 1))
        grid = grid[0][:, None, :], grid[1][:, :, None]
        evaluate = lambda pose: jax.lax.switch(index, branches, pose, grid)  # noqa: E731
        cost_of = lambda value: jnp.sum(weight * (value - target) ** 2, (1, 2))  # noqa: E731

        def step(_, state):
            moved, pose, value, slopes, cost, damping = state
            # The one place where shapes are drawn: they are most of the program that is compiled.
            value2, slopes2 = evaluate(moved)
            cost2 = cost_of(value2)
            better = cost2 < cost
            pick = lambda a, b: jnp.where(better.reshape(-1, *[1] * (a.ndim - 1)), a, b)  # noqa: E731
            pose, value, cost = pick(moved, pose), pick(value2, value), pick(cost2, cost)
            slopes = jnp.where(better[None, :, None, None], slopes2, slopes)
            damping = jnp.where(better, damping * 0.2, damping * 8)
            normal = jnp.einsum("ibhw,jbhw,bhw->bij", slopes, slopes, weight)
            pull = jnp.einsum("ibhw,bhw->bi", slopes, weight * (target - value))
            diagonal = jnp.einsum("bii->bi", normal)
            damped = normal + jax.vmap(jnp.diag)(damping[:, None] * diagonal + 1e-3)
            moved = pose + _solve(damped, pull) / jnp.array([SIZE, SIZE, SIZE, 4.0])
            moved = moved.at[:, 2].set(jnp.clip(moved[:, 2], *RADIUS_LIMITS))
            return moved, pose, value, slopes, cost, damping

        nothing = jnp.zeros_like(target)
        state = (start, start, nothing, jnp.stack([nothing] * 4), jnp.full(len(start), jnp.inf))
        state = (*state, jnp.full(len(start), 0.05))
        _, pose, _, _, cost, _ = jax.lax.fori_loop(0, STEPS + 1, step, state)
        return pose, cost

    return jax.lax.map(one_group, (shape, pose, corner, covered, weight))


def _value_and_slopes(
    name: str, pose: Float[Array, "b 4"], grid
) -> tuple[Float[Array, "b h w"], Float[Array, "4 b h w"]]:
    """Coverage and its derivatives by x, y, radius in pixels and by a quarter radian of rotation."""
    parts = tuple(pose[:, i, None, None] for i in range(4))
    draw = lambda x, y, radius, rotation: coverage(jnp, name, (x, y, radius, rotation), grid, float(SIZE))  # noqa: E731
    value, slope = jax.linearize(draw, *parts)
    units = jnp.diag(jnp.array([1 / SIZE, 1 / SIZE, 1 / SIZE, 0.25]))
    return value, jax.vmap(
        lambda unit: slope(*(jnp.full_like(p, u) for p, u in zip(parts, unit, strict=True)))
    )(units)


def _solve(matrix: Float[Array, "b 4 4"], right: Float[Array, "b 4"]) -> Float[Array, "b 4"]:
    """Solves small positive definite systems by elimination, without a call of LAPACK for each."""
    m, r = matrix, right
    for i in range(4):
        factor = m[:, i + 1 :, i] / m[:, i, i, None]
        m = m.at[:, i + 1 :].add(-factor[..., None] * m[:, i, None])
        r = r.at[:, i + 1 :].add(-factor * r[:, i, None])
    out = [None] * 4
    for i in reversed(range(4)):
        known = sum(m[:, i, j] * out[j] for j in range(i + 1, 4))
        out[i] = (r[:, i] - known) / m[:, i, i]
    return jnp.stack(out, -1)
