"""p(scene | caption), against brute force: scenes with captions as training has them, sorted by caption."""

import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.data.shapes import factors, truth
from difflax.data.shapes.captions import Caption, Named, draw_caption, parse
from difflax.data.shapes.splits import COMBINATIONS
from scipy.stats import chi2_contingency, chisquare, ks_2samp

MANY = 40_000


@pytest.fixture(scope="module")
def captioned():
    """Scenes by the caption that was drawn for them, short ones, which come often."""
    rng = np.random.default_rng(0)
    scenes = factors.draw_scenes(rng, MANY, COMBINATIONS["train"])
    found = {}
    for i in range(MANY):
        found.setdefault(draw_caption(rng, scenes[i], long=False), []).append(i)
    return scenes, found


def same(first, second, size):
    """Whether two samples of a discrete factor may have one distribution."""
    counts = np.stack([np.bincount(v, minlength=size) for v in (first, second)])
    counts = counts[:, counts.sum(0) > 0]
    return counts.shape[1] == 1 or chi2_contingency(counts).pvalue > 1e-5


@pytest.mark.slow  # captions are drawn one by one
@pytest.mark.parametrize(
    "text",
    ["a circle", "a red shape", "a small object", "a star among other shapes", "a shape on the left",
     "a large shape and a small shape", "a shape in the top left among other shapes"],
)  # fmt: skip
def test_draws_are_distributed_as_the_scenes_that_got_the_caption(captioned, text):
    scenes, found = captioned
    caption = parse(text)
    rows = np.array(found.get(caption, []))
    assert len(rows) >= 15, "too rare for this test"
    forced, drawn = scenes[rows], truth.draw(np.random.default_rng(1), caption, 4000)
    assert same(forced.count, drawn.scenes.count, 4)
    # Over all objects of a scene, so that it does not matter which one the caption took.
    for name, size in (("shape", 8), ("colour", 8), ("texture", 3), ("size", 2)):
        pool = [getattr(s, name)[s.present] for s in (forced, drawn.scenes)]
        assert same(*pool, size), name
    for name in ("x", "y", "radius"):
        pool = [getattr(s, name)[s.present] for s in (forced, drawn.scenes)]
        assert ks_2samp(*pool).pvalue > 1e-5, name
    assert same(forced.background, drawn.scenes.background, 6)


@pytest.mark.parametrize(
    "text",
    ["a red shape", "a ring among other shapes on a dark background, lit from above",
     "a striped object and two small hearts", "a teal shape, a large star and a dotted shape"],
)  # fmt: skip
def test_tables_are_the_frequencies_of_draws(text):
    caption = parse(text)
    drawn = truth.draw(np.random.default_rng(2), caption, 6000)
    scenes = drawn.scenes
    tone = factors.is_dark(scenes.background)
    values = {"count": scenes.count - 1, "background": scenes.background, "tone": tone,
              "gradient": scenes.gradient, "light": scenes.light}  # fmt: skip
    found = [(values[name], truth.table(caption, name)) for name in values]
    for k in range(len(caption.objects)):
        for name in ("shape", "colour", "texture", "size"):
            own = np.take_along_axis(getattr(scenes, name), drawn.slots[:, k, None], 1)[:, 0]
            found.append((own, truth.table(caption, name, k)))
    for own, p in found:
        counts = np.bincount(own, minlength=len(p))
        assert p.sum() == pytest.approx(1) and not counts[p == 0].any()
        assert chisquare(counts[p > 0], p[p > 0] * len(own)).pvalue > 1e-5 or (p > 0).sum() == 1


def test_a_table_is_bayes_rule_over_all_combinations():
    """By enumeration: P(colour | heart) from the prior of every combination that is trained."""
    combinations = COMBINATIONS["train"]
    prior = np.array(factors.TEXTURE_PRIOR)[combinations[:, 2]]
    heart = combinations[:, 0] == factors.SHAPES.index("heart")
    expected = [prior[heart & (combinations[:, 1] == c)].sum() / prior[heart].sum() for c in range(8)]
    np.testing.assert_allclose(truth.table(parse("a heart"), "colour"), expected)


def test_a_relation_is_that_of_unconditional_pairs():
    """Of all pairs of a small and a large object, those in which the small one is left of the large one."""
    rng = np.random.default_rng(3)
    scenes = factors.draw_scenes(rng, 20_000, COMBINATIONS["train"])
    dx, dy = scenes.x[:, 1] - scenes.x[:, 0], scenes.y[:, 1] - scenes.y[:, 0]
    wanted = (scenes.count == 2) & (scenes.size[:, 0] == 0) & (scenes.size[:, 1] == 1) & (dx >= abs(dy))
    drawn = truth.draw(rng, parse("a small shape to the left of a large shape"), 2000)
    for name in ("x", "y", "radius"):
        found = np.take_along_axis(getattr(drawn.scenes, name), drawn.slots, 1)
        for k in (0, 1):
            assert ks_2samp(found[:, k], getattr(scenes, name)[wanted, k]).pvalue > 1e-5


def test_a_place_is_kept_and_has_no_table():
    caption = parse("a large red circle in the bottom right and a star")
    drawn = truth.draw(np.random.default_rng(0), caption, 500)
    x, y = (np.take_along_axis(v, drawn.slots, 1)[:, 0] for v in (drawn.scenes.x, drawn.scenes.y))
    assert (x > 0.6).all() and (y > 0.6).all()
    with pytest.raises(ValueError, match="place or a relation"):
        truth.table(caption, "size", 1)


def test_what_no_scene_shows_is_an_error():
    corner = Named(size=1, place=4)
    with pytest.raises(UserError, match="next to nothing"):
        truth.draw(np.random.default_rng(0), Caption(objects=(corner,) * 3), 10)
    with pytest.raises(UserError, match="held-out"):
        truth.draw(np.random.default_rng(0), parse("a yellow circle"), 10)
