"""What captions say and fix."""

import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.data.shapes import captions, factors
from difflax.data.shapes.captions import Caption, Named, parse, say
from difflax.data.shapes.examples import PROMPTS, evaluation_prompts, make_examples
from difflax.data.shapes.splits import COMBINATIONS, HELD_OUT_PAIRS, SPLITS
from difflax.data.shapes.truth import layout_holds


@pytest.fixture(scope="module")
def examples():
    return make_examples(0, "train", range(600))


def test_every_caption_reads_back_in_every_phrasing(examples):
    rng = np.random.default_rng(0)
    for example in examples:
        assert parse(example.caption) == example.named
        for text in (say(example.named), say(example.named, rng), say(example.named, rng)):
            assert parse(text) == example.named


def test_one_caption_has_many_phrasings():
    caption = parse("a small red circle left of a large shape on a dark background, lit from above")
    rng = np.random.default_rng(0)
    assert len({say(caption, rng) for _ in range(500)}) >= 50


def test_a_caption_is_true_of_its_scene(examples):
    """Some choice of the scene's objects has all that is named."""
    for example in examples:
        scene, named = example.scene, example.named
        assert int(scene.count) in named.counts
        ways = np.array(
            [p for p in permutations(int(scene.count), len(named.objects)) if fits(scene, named, p)]
        )
        repeated = scene_rows(scene, len(ways))
        assert len(ways) and layout_holds(named, repeated, ways).any()
        assert named.light in (None, scene.light) and named.background in (None, scene.background)
        assert named.tone in (None, factors.is_dark(scene.background))


def permutations(count, number):
    import itertools

    return itertools.permutations(range(count), number)


def fits(scene, named, rows):
    return all(
        getattr(thing, kind) in (None, getattr(scene, kind)[row])
        for thing, row in zip(named.objects, rows, strict=True)
        for kind in ("shape", "colour", "texture", "size")
    )


def scene_rows(scene, number):
    rows = factors.Scenes(**{k: np.asarray(v)[None] for k, v in vars(scene).items()})
    return rows[np.zeros(number, int)]


def test_long_captions_name_more():
    named = [
        np.mean([e.named.named for e in make_examples(1, "train", range(300), long_captions=s)])
        for s in (0.0, 1.0)
    ]
    assert named[0] < 4 < 6 < named[1]


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("three triangles", Caption(objects=(Named(shape=3),) * 3)),
        ("A picture of an orange shape", Caption(objects=(Named(colour=1),))),
        ("a small object in the top left corner", Caption(objects=(Named(size=0, place=0),))),
        ("two stars and a heart", Caption(objects=(Named(shape=4), Named(shape=4), Named(shape=5)))),
        ("a heart among other shapes", Caption(objects=(Named(shape=5),), more=True)),
        ("a circle to the left of a ring", Caption(objects=(Named(shape=0), Named(shape=1)), relation=0)),
    ],
)  # fmt: skip
def test_what_words_mean(text, caption):
    assert parse(text) == caption


@pytest.mark.parametrize(
    "text", ["", "a dog", "three circles and two stars", "a red", "two circles left of a star"]
)
def test_other_words_are_one_clear_error(text):
    with pytest.raises(UserError) as raised:
        parse(text)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 300


def test_splits_hold_out_combinations_at_their_distance():
    """Distance by its definition: how many parts must change until a trained combination is reached."""
    train = {tuple(c) for c in COMBINATIONS["train"]}
    words = (factors.SHAPES, tuple(factors.COLOURS), factors.TEXTURES)
    for split, distance in zip(SPLITS, (0, 0, 1, 2), strict=True):
        for c in COMBINATIONS[split]:
            assert min(sum(a != b for a, b in zip(c, t, strict=True)) for t in train) == distance
            own = {words[i][v] for i, v in enumerate(c)}
            assert any(set(pair) <= own for pair in HELD_OUT_PAIRS) == (distance > 0)
    assert sum(map(len, COMBINATIONS.values())) - len(COMBINATIONS["test"]) == 6 * 8 * 3
    # Every single word is trained, with many partners.
    for part, values in zip(np.array(sorted(train)).T, words, strict=True):
        assert np.bincount(part, minlength=len(values)).min() >= 8


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("split", SPLITS[1:])
def test_prompts_are_about_their_split(kind, split):
    prompts = evaluation_prompts(kind, 20, split=split)
    assert prompts == evaluation_prompts(kind, 20, split=split) and len(set(prompts)) == len(prompts)
    for caption in map(parse, prompts):
        for thing in caption.objects:
            wanted = [v if v is not None else -1 for v in (thing.shape, thing.colour, thing.texture)]
            match = [
                all(w in (-1, c) for w, c in zip(wanted, combination, strict=True))
                for combination in COMBINATIONS[split]
            ]
            assert any(match)


def test_a_relation_holds_for_centres():
    x, y = (
        np.array([[0.1, 0.9], [0.9, 0.1], [0.5, 0.6], [0.5, 0.6]]),
        np.array([[0.5, 0.6]] * 2 + [[0.1, 0.9], [0.9, 0.1]]),
    )
    assert [captions.RELATIONS[i] for i in captions.relation(x, y)] == list(captions.RELATIONS)
