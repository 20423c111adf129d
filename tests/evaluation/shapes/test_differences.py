"""How far factors are apart, of scenes whose factors are known."""

import numpy as np
import pytest
from difflax.data.shapes import truth
from difflax.data.shapes.captions import parse
from difflax.evaluation.decisions import apart
from difflax.evaluation.judges.shapes.reading import Reading
from difflax.evaluation.shapes.coverage import DISCRETE, SCENE_DISCRETE
from difflax.evaluation.shapes.differences import differences

# Without the judge's programs: nothing is compiled here.
OPEN = "a circle"


def read(text, number, seed=0):
    """A perfect reading of true scenes of a caption."""
    return Reading.of_truth(truth.draw(np.random.default_rng(seed), parse(text), number).scenes)


def found(reading, *texts):
    return {name: apart(d) for name, d in differences(reading, [parse(text) for text in texts]).items()}


def changed(reading, **values):
    return Reading.of_truth(reading.scenes.replace(**values))


def test_independent_scenes_are_as_far_apart_as_their_tables_say():
    """1 - Σ p² for every open discrete factor, in the closed form of the world."""
    spread = found(read(OPEN, 300 * 8), *[OPEN] * 300)
    for name in {*DISCRETE, *SCENE_DISCRETE} - {"shape"}:
        p = truth.table(parse(OPEN), name)
        assert np.mean(spread[name]) == pytest.approx(1 - np.sum(p**2), abs=0.02), name


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (OPEN, ["shape", "rotation", "count"]),
        ("a small red shape on a navy background", ["size", "colour", "background", "count"]),
        ("a striped square in the top left, lit from above", ["texture", "shape", "position", "light"]),
    ],
)
def test_what_the_caption_names_is_not_compared(text, named):
    spread = found(read(text, 64), text)
    for name in named:
        assert np.isnan(spread[name]).all(), name
    assert spread["gradient"] > 0
    more = found(read("a circle among other shapes", 64), "a circle among other shapes")
    assert more["count"] > 0.3


def test_equal_scenes_are_not_apart():
    scenes = read("a shape", 8).scenes
    same = Reading.of_truth(scenes[np.zeros(8, int)])
    values = np.array(list(found(same, "a shape").values()))
    assert np.all(np.isnan(values) | (values == 0)) and np.any(values == 0)


def test_one_factor_that_changes_is_apart_alone():
    reading = read("a shape", 2)
    same = reading.scenes[np.zeros(2, int)].replace(shape=np.full((2, 3), 2))
    moved = np.array(same.x)
    moved[1] += 0.25
    turned = np.array(same.rotation)
    turned[:, 0] = 0.05 * np.pi / 2, 0.95 * np.pi / 2  # of a square, a tenth of its period apart
    cases = {"position": ({"x": moved}, 0.25), "rotation": ({"rotation": turned}, 0.1),
             "colour": ({"colour": np.array([[0, 0, 0], [1, 0, 0]])}, 1.0),
             "light": ({"light": np.array([0, 3])}, 1.0)}  # fmt: skip
    for changing, (values, distance) in cases.items():
        for name, value in found(changed(Reading.of_truth(same), **values), "a shape").items():
            assert np.isnan(value) or value == pytest.approx(distance * (name == changing), abs=1e-6), name


def test_rotations_of_two_shapes_and_directions_without_gradient_are_not_compared():
    scenes = read("a shape", 2).scenes.replace(
        shape=np.array([[2, 2, 2], [3, 3, 3]]), gradient=np.array([0, 1])
    )
    spread = found(Reading.of_truth(scenes), "a shape")
    assert np.isnan(spread["rotation"]).all() and np.isnan(spread["direction"]).all()
    assert spread["shape"] == 1 and spread["gradient"] == 1


def test_what_cannot_be_read_is_left_out():
    """Two pictures of four: the distances are those of the other two."""
    reading = read("a shape", 4)
    readable = np.array([True, True, False, False])
    partly = Reading(reading.scenes, reading.known, reading.stray, readable, reading.error)
    for name, value in found(partly, "a shape").items():
        np.testing.assert_array_equal(value, found(Reading.of_truth(reading.scenes[:2]), "a shape")[name])


def test_objects_are_found_in_any_order():
    """Both objects in the other order are the same picture; their colours swapped are another."""
    text = "a red circle and a blue star"
    scenes = read(text, 1).scenes[np.zeros(2, int)]
    order = np.array([[0, 1, 2], [1, 0, 2]])
    names = ("shape", "colour", "texture", "size", "x", "y", "radius", "rotation")
    turned = {name: np.take_along_axis(np.array(getattr(scenes, name)), order, 1) for name in names}
    spread = found(Reading.of_truth(scenes.replace(**turned)), text)
    assert spread["position"] == 0 and spread["texture"] == 0
