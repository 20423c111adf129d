"""Factors that change between two pictures, of scenes that are known to differ in some alone."""

import numpy as np
from difflax.data.shapes import captions, factors, truth
from difflax.evaluation.judges.shapes.reading import Reading
from difflax.evaluation.shapes.changes import CHANGES, COUNTED, changes
from difflax.evaluation.shapes.columns import to_columns

PROMPT = "a red circle"
SCENES = truth.draw(np.random.default_rng(0), captions.parse(PROMPT), 40).scenes


def counted(other, scenes=SCENES):
    kept, swapped = (to_columns(Reading.of_truth(each)) for each in (scenes, other))
    return changes(kept, swapped, [PROMPT] * len(scenes.count))


def test_nothing_changes_against_itself():
    found = counted(SCENES)
    assert set(found) == {metric.name for metric in CHANGES}
    assert all(np.all(values == 0) for values in found.values())


def test_what_the_prompt_names_and_what_it_leaves_open_are_counted_alike():
    """Another colour in half of the pictures, named, and another background in all, left open."""
    half = np.arange(len(SCENES.count)) % 2
    colour = (SCENES.colour + half[:, None]) % len(factors.COLOURS)
    background = (SCENES.background + 1) % len(factors.BACKGROUNDS)
    found = counted(SCENES.replace(colour=colour, background=background))
    np.testing.assert_array_equal(found["colour_changed"], half)
    assert np.all(found["background_changed"] == 1)
    for name in set(COUNTED) - {"colour", "background"}:
        assert np.all(found[f"{name}_changed"] == 0)
    np.testing.assert_array_equal(found["factors_changed"], 1 + half)
