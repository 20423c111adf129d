"""Pictures of scenes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.data.shapes import factors
from difflax.data.shapes.render import DISTANCES, coverage, pictures, pixel_centres, render
from difflax.data.shapes.splits import COMBINATIONS

STAR_AREA = 5 * 0.45 * np.sin(np.pi / 5)  # ten triangles with sides 1 and 0.45 around the centre
HALF = 1.32  # the heart is 1.32 times two half discs of diameter √½ on a square of side √½

AREAS = {
    "circle": np.pi * 0.88**2,
    "ring": np.pi * (0.92**2 - 0.44**2),
    "square": 1.44**2,
    "triangle": 3 * 3**0.5 * 0.51**2,
    "star": STAR_AREA,
    "heart": HALF**2 * (0.5 + np.pi * (2**0.5 / 4) ** 2),
}


@pytest.fixture(scope="module")
def scenes():
    return factors.draw_scenes(np.random.default_rng(0), 48, COMBINATIONS["train"])


def area(shape, size, pose=(0.5, 0.5, 0.4, 0.3)):
    return coverage(np, shape, pose, pixel_centres(size), float(size)).sum() / size**2


@pytest.mark.parametrize("shape", AREAS)
def test_a_shape_has_its_area_at_any_size_and_rotation(shape):
    for size, rotation in ((64, 0.0), (64, 0.7), (256, 2.0)):
        found = area(shape, size, (0.5, 0.5, 0.4, rotation))
        assert found == pytest.approx(AREAS[shape] * 0.4**2, rel=0.02)


@pytest.mark.parametrize("shape", DISTANCES)
def test_outlines_lie_in_the_unit_disc_and_turn_by_their_period(shape):
    x, y = (axis * 3 - 1.5 for axis in pixel_centres(300))
    inside = DISTANCES[shape](np, x, y) < 0
    assert np.hypot(*np.broadcast_arrays(x, y))[inside].max() < 1.03
    period = factors.ROTATION_PERIODS[factors.SHAPES.index(shape)]
    turn = period if period else 0.77
    turned = (
        DISTANCES[shape](np, np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x) < 0
    )
    assert np.mean(turned != inside) < 1e-3
    if period:
        half = DISTANCES[shape](
            np, np.cos(turn / 2) * x + np.sin(turn / 2) * y, np.cos(turn / 2) * y - np.sin(turn / 2) * x
        )
        assert np.mean((half < 0) != inside) > 0.01


@pytest.mark.parametrize("shape", DISTANCES)
def test_distances_near_the_outline_have_slope_one(shape):
    """Only then is the edge of a picture one pixel wide; corners, where it is not defined, are few."""
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.uniform(-1.2, 1.2, (2, 4000)))
    value, slopes = (
        DISTANCES[shape](jnp, x, y),
        jax.vmap(jax.grad(lambda x, y: DISTANCES[shape](jnp, x, y), (0, 1)))(x, y),
    )
    near = abs(value) < 0.05
    steep = jnp.hypot(*slopes)[near]
    assert jnp.mean(abs(steep - 1) < 1e-3) > 0.95


def test_numpy_and_jax_draw_the_same(scenes):
    drawn = render(scenes, 32)
    np.testing.assert_allclose(jax.jit(lambda s: render(s, 32, jnp))(scenes), drawn, atol=2e-5)
    assert drawn.min() >= 0 and drawn.max() <= 1


@pytest.mark.parametrize("size", [32, 64])
def test_objects_are_drawn_where_they_lie_as_in_the_whole_picture(size):
    """Up to the rounding of what lies just between two of 256 values."""
    scenes = factors.draw_scenes(np.random.default_rng(1), 300, COMBINATIONS["train"])
    whole, drawn = 255 * render(scenes, size), pictures(scenes, size)
    assert drawn.dtype == np.uint8 and abs(drawn - whole).max() < 0.501


def test_all_sizes_show_the_same_scene(scenes):
    small, large = render(scenes, 32), render(scenes, 128).reshape(-1, 32, 4, 32, 4, 3).mean((2, 4))
    assert np.sqrt(np.mean((small - large) ** 2)) < 0.02


def test_an_object_in_front_hides_what_is_behind(scenes):
    """At its middle, where it is solid, a disc shows its own colour whatever lies below."""
    two = scenes[:1].replace(
        count=np.array([2]), shape=np.array([[2, 0, 0]]), colour=np.array([[0, 5, 0]]),
        texture=np.zeros((1, 3), int),
        x=np.array([[0.4, 0.6, 0]]), y=np.array([[0.5, 0.5, 0]]), radius=np.array([[0.24, 0.24, 0.2]]),
    )  # fmt: skip
    swapped = two.replace(**{n: getattr(two, n)[:, [1, 0, 2]] for n in ("shape", "colour", "x", "rotation")})
    front, behind = render(two, 64)[0], render(swapped, 64)[0]
    apart = np.any(abs(front - behind) > 0.1, -1)
    both = (
        coverage(np, "square", (0.4, 0.5, 0.24, two.rotation[0, 0]), pixel_centres(64), 64.0)
        * coverage(np, "circle", (0.6, 0.5, 0.24, 0.0), pixel_centres(64), 64.0)
    ) > 0.5
    assert both.sum() > 50 and np.mean(apart != both) < 0.01


def test_the_light_is_on_its_side(scenes):
    disc = scenes[:4].replace(
        count=np.ones(4, int), shape=np.zeros((4, 3), int), texture=np.zeros((4, 3), int), light=np.arange(4),
        x=np.full((4, 3), 0.5), y=np.full((4, 3), 0.5), radius=np.full((4, 3), 0.24),
    )  # fmt: skip
    bright = render(disc, 32)[:, 12:20, 12:20].sum(-1)
    centre = np.arange(8) - 3.5
    for i, (along_x, along_y) in enumerate(factors.LIGHT_DIRECTIONS):
        towards = np.sum(bright[i] * (along_x * centre[None] + along_y * centre[:, None]))
        across = np.sum(bright[i] * (along_y * centre[None] + along_x * centre[:, None]))
        assert towards > 50 * abs(across)
