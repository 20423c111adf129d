"""The scene language, its captions and its pictures."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest
from difflax.data import shapes
from difflax.data.shapes import Object, Scene

# Area and height of the centroid (downwards) of each shape of radius 1, in closed form.
CLOSED_FORM = {
    "circle": (np.pi, 0),
    "square": (1.8**2, 0),
    "triangle": (2, 1 / 3),
    "cross": (2 * 0.68 * 2 - 0.68**2, 0),
}


def one_object_captions():
    for shape, colour in itertools.product(shapes.SHAPES, shapes.COLOURS):
        for size, position in itertools.product((None, *shapes.SIZES), (None, *shapes.POSITIONS)):
            thing = Object(shape=shape, colour=colour, size=size, position=position)
            yield Scene(objects=(thing,))


def open_cells(scene):
    objects = tuple(dataclasses.replace(thing, position=None) for thing in scene.objects)
    return Scene(objects=objects, relation=scene.relation)


@pytest.fixture(scope="module")
def training():
    return [shapes.make_example(0, "train", i) for i in range(1000)]


def test_every_one_object_caption_reads_back():
    seen = {}
    for named in one_object_captions():
        captions = shapes.phrasings(named)
        assert len(set(captions)) == len(captions) >= 2
        for caption in captions:
            assert shapes.parse_caption(caption) == named
            assert seen.setdefault(caption, named) == named


def test_every_two_object_caption_reads_back_from_either_side():
    rng = np.random.default_rng(0)
    for _ in range(300):
        named = open_cells(shapes.sample_scene(rng, one_object_fraction=0.0))
        captions = shapes.phrasings(named)
        told = [shapes.parse_caption(caption) for caption in captions]
        assert set(told) == {named, named.mirrored()}
        assert len(set(captions)) == len(captions) >= 4


def test_mirroring_twice_changes_nothing():
    scene = shapes.sample_scene(np.random.default_rng(1), one_object_fraction=0.0)
    assert scene.mirrored() != scene
    assert scene.mirrored().mirrored() == scene


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a red hexagon",
        "a pink circle",
        "a red circle in the middle",
        "a large red circle left of",
        "a red circle left of a blue square in the top left",
        "A red circle",
        "a red circle ",
    ],
)
def test_other_captions_are_refused(caption):
    with pytest.raises(ValueError, match="not a caption"):
        shapes.parse_caption(caption)


def test_sampled_captions_say_nothing_wrong(training):
    for example in training:
        told = shapes.parse_caption(example.caption)
        scene = example.scene if told.relation == example.scene.relation else example.scene.mirrored()
        assert told.relation == scene.relation
        for named, drawn in zip(told.objects, scene.objects, strict=True):
            assert named.pair == drawn.pair
            assert named.size in (None, drawn.size)
            assert named.position in (None, drawn.position)


def test_a_quarter_of_the_captions_leaves_something_open(training):
    told = [shapes.parse_caption(example.caption) for example in training]
    open_one = [
        t.objects[0].size is None or t.objects[0].position is None for t in told if t.relation is None
    ]
    open_two = [t.objects[0].size is None for t in told if t.relation is not None]
    for left_open in (open_one, open_two):
        error = np.sqrt(0.25 * 0.75 / len(left_open))
        assert abs(np.mean(left_open) - 0.25) < 4 * error


def test_the_mix_of_scenes(training):
    single = [example.scene.relation is None for example in training]
    assert abs(np.mean(single) - 0.75) < 4 * np.sqrt(0.75 * 0.25 / len(single))
    things = [thing for example in training for thing in example.scene.objects]
    assert {thing.pair for thing in things} == set(shapes.SEEN)
    assert {thing.size for thing in things} == set(shapes.SIZES)
    assert {thing.position for thing in things} == set(shapes.POSITIONS)
    relations = collections.Counter(e.scene.relation for e in training if e.scene.relation)
    assert set(relations) == set(shapes.RELATIONS)


def test_held_out_pairs_are_in_no_training_object(training):
    assert len({shape for shape, _ in shapes.HELD_OUT}) == len(shapes.SHAPES) == len(shapes.HELD_OUT)
    assert len({colour for _, colour in shapes.HELD_OUT}) == len(shapes.HELD_OUT)
    assert set(shapes.SEEN).isdisjoint(shapes.HELD_OUT)
    assert len(shapes.SEEN) + len(shapes.HELD_OUT) == len(shapes.SHAPES) * len(shapes.COLOURS)
    for split, wanted in (("train", shapes.SEEN), ("test", shapes.SEEN), ("held_out", shapes.HELD_OUT)):
        scenes = [shapes.make_example(0, split, i).scene for i in range(200)]
        assert {thing.pair for scene in scenes for thing in scene.objects} <= set(wanted)
    assert all(thing.pair in shapes.SEEN for example in training for thing in example.scene.objects)


def test_related_objects_stand_clearly_and_apart(training):
    ahead = {"left of": (1, 0), "right of": (-1, 0), "above": (0, 1), "below": (0, -1)}
    for example in training[:1000]:
        if example.scene.relation is None:
            continue
        first, second = example.scene.objects
        assert first.pair != second.pair
        step = np.subtract(shapes.cell_centre(second.position), shapes.cell_centre(first.position))
        along = np.dot(step, ahead[example.scene.relation])
        across = np.abs(np.cross([*step, 0], [*ahead[example.scene.relation], 0])[2])
        # Farther along the relation than two largest objects reach, and nearer the axis than the diagonal.
        assert along > 2 * (shapes.RADII["large"] * (1 + shapes.RADIUS_JITTER) + shapes.POSITION_JITTER)
        assert along > 1.5 * across


def test_an_example_does_not_depend_on_the_others():
    alone = shapes.make_example(3, "train", 17)
    for i in range(17):
        shapes.make_example(3, "train", i)
    after = shapes.make_example(3, "train", 17)
    assert alone.caption == after.caption
    np.testing.assert_array_equal(alone.image, after.image)
    others = [("seed", (4, "train", 17)), ("split", (3, "test", 17)), ("index", (3, "train", 18))]
    for what, arguments in others:
        assert not np.array_equal(shapes.make_example(*arguments).image, alone.image), what


@pytest.mark.parametrize("shape", shapes.SHAPES)
@pytest.mark.parametrize("radius", [3.5, 5.7])
def test_coverage_has_the_area_and_centroid_of_the_shape(shape, radius):
    area, middle = CLOSED_FORM[shape]
    centres = np.arange(32) + 0.5
    for x, y in ((6.5, 6.5), (16.0, 16.3), (25.3, 9.8)):
        covered = shapes.coverage(shape, x, y, radius)
        assert covered.min() >= 0 and covered.max() == 1
        assert covered.sum() == pytest.approx(area * radius**2, rel=0.04)
        assert (covered * centres).sum() / covered.sum() == pytest.approx(x, abs=0.08)
        assert (covered * centres[:, None]).sum() / covered.sum() == pytest.approx(
            y + middle * radius, abs=0.08
        )


def test_edges_are_anti_aliased():
    covered = shapes.coverage("circle", 16.0, 16.0, 5.7)
    partial = (covered > 0) & (covered < 1)
    # As many soft pixels as the outline is long, within the pixels that it merely grazes.
    assert 0.7 * 2 * np.pi * 5.7 < partial.sum() < 1.6 * 2 * np.pi * 5.7


def test_nominal_picture_shows_the_nominal_colours():
    for shape, colour in itertools.product(shapes.SHAPES, shapes.COLOURS):
        thing = Object(shape=shape, colour=colour, size="large", position="bottom right")
        image = shapes.render(Scene(objects=(thing,)))
        np.testing.assert_allclose(image[25, 25] / 255, shapes.COLOURS[colour], atol=1 / 255)
        np.testing.assert_allclose(image[:12] / 255, shapes.BACKGROUND, atol=1 / 255)


def test_variation_inside_a_caption_is_there_and_small():
    thing = Object(shape="square", colour="blue", size="small", position="centre")
    scene = Scene(objects=(thing,))
    rng = np.random.default_rng(0)
    images = np.stack([shapes.render(scene, rng) for _ in range(200)]) / 255
    background, inside = images[:, 0, 0], images[:, 15, 15]
    for values, nominal, span in (
        (background, shapes.BACKGROUND, shapes.BACKGROUND_JITTER),
        (inside, shapes.COLOURS["blue"], shapes.SHADE_JITTER * np.array(shapes.COLOURS["blue"])),
    ):
        assert np.all(np.abs(values - nominal) <= span + 1 / 255)
        assert np.ptp(values, axis=0).max() > np.max(span)
    dark = np.linalg.norm(images - background[:, None, None], axis=-1)
    centre = (dark * (np.arange(32) + 0.5)).sum((1, 2)) / dark.sum((1, 2))
    assert np.abs(centre - 16).max() <= shapes.POSITION_JITTER + 0.1
    assert centre.std() > 0.1


def test_what_is_open_cannot_be_drawn():
    with pytest.raises(ValueError, match="left open"):
        shapes.render(Scene(objects=(Object(shape="circle", colour="red"),)))


def test_a_relation_needs_two_objects():
    thing = Object(shape="circle", colour="red")
    with pytest.raises(ValueError, match="relation"):
        Scene(objects=(thing,), relation="above")
    with pytest.raises(ValueError, match="relation"):
        Scene(objects=(thing, thing))


@pytest.mark.parametrize(("kind", "pairs"), [("seen", shapes.SEEN), ("held_out", shapes.HELD_OUT)])
def test_one_object_prompts_go_through_every_scene(kind, pairs):
    every = len(pairs) * len(shapes.SIZES) * len(shapes.POSITIONS)
    prompts = shapes.evaluation_prompts(kind, every + 5)
    scenes = [shapes.parse_caption(prompt) for prompt in prompts]
    assert set(scenes[:every]) == set(shapes.one_object_scenes(pairs)) and len(set(scenes[:every])) == every
    assert scenes[every:] == scenes[:5]
    assert shapes.evaluation_prompts(kind, 10) == prompts[:10]
    assert shapes.evaluation_prompts(kind, 10, seed=1) != prompts[:10]


def test_two_object_prompts_name_both_sizes_of_seen_pairs():
    scenes = [shapes.parse_caption(prompt) for prompt in shapes.evaluation_prompts("two_objects", 100)]
    assert {scene.relation for scene in scenes} == set(shapes.RELATIONS)
    assert all(thing.size and thing.pair in shapes.SEEN for scene in scenes for thing in scene.objects)


def test_unknown_kind_of_prompts():
    with pytest.raises(ValueError, match="no kind"):
        shapes.evaluation_prompts("unseen", 3)
