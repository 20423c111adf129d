"""Examples are made when they are read, each by its own numbers."""

import itertools
import time

import numpy as np
import pytest
from difflax.data.loader import Loader
from difflax.data.records import first_captions
from difflax.data.shapes.captions import DRAWS, Caption, Named, draw_caption, say
from difflax.data.shapes.examples import make_captions, make_examples
from difflax.data.shapes.streams import Draws, Streams, mix
from difflax.data.sources import Shapes
from difflax.text.tokenizer import train_bpe
from scipy.stats import chi2_contingency, chisquare, ks_2samp, kstest

from tests.data.test_loader import same, take
from tests.runs import count_tokens, load_config


def test_streams_are_splitmix64():
    """The first numbers of the published generator, started at 1234567 (Vigna's splitmix64.c)."""
    golden = 0x9E3779B97F4A7C15
    steps = np.array([(1234567 + k * golden) % 2**64 for k in range(1, 6)], np.uint64)
    assert mix(steps).tolist() == [
        6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431,
        16408922859458223821,
    ]  # fmt: skip


def test_streams_are_uniform_and_independent():
    drawn = Streams(0, "a", range(400)).random((400, 50))
    assert kstest(drawn.ravel(), "uniform").pvalue > 1e-5
    assert drawn.min() >= 0 and drawn.max() < 1
    # Along a row, and from a row to the next: also of another name and seed.
    beside = [Streams(0, "b", range(400)), Streams(1, "a", range(400)), Streams(2**64, "a", range(400))]
    pairs = [(drawn[:, :-1], drawn[:, 1:]), (drawn[:-1], drawn[1:])]
    pairs += [(drawn, other.random((400, 50))) for other in beside]
    for one, other in pairs:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(one.size)
    picks = Streams(0, "c", range(5000)).choice((3, 5, 8), 5000, p=(0.2, 0.5, 0.3))
    assert chisquare([np.sum(picks == v) for v in (3, 5, 8)], [1000, 2500, 1500]).pvalue > 1e-5
    assert set(Streams(0, "d", range(500)).integers(3, (500, 2)).ravel()) == {0, 1, 2}
    single = Streams(0, "e", [7]).random((1, 9), np.float32)
    assert single.dtype == np.float32 and (single * 2**24 == np.rint(single * 2**24)).all()


def test_examples_are_the_same_whatever_else_is_made():
    many = make_examples(3, "train", range(100))
    for rows in ([7], [99, 0, 7], range(5, 60)):
        for row, example in zip(rows, make_examples(3, "train", rows), strict=True):
            assert example.caption == many[row].caption and example.named == many[row].named
            np.testing.assert_array_equal(example.image, many[row].image)
    assert make_captions(3, "train", [7, 8]) == [many[7].caption, many[8].caption]
    assert make_examples(3, "train", [10**15])[0].image.shape == (32, 32, 3)


@pytest.mark.parametrize(("seed", "split"), [(4, "train"), (3, "test")])
def test_seeds_and_splits_have_other_examples(seed, split):
    one, other = (make_captions(s, n, range(100)) for s, n in ((3, "train"), (seed, split)))
    assert np.mean([a == b for a, b in zip(one, other, strict=True)]) < 0.1


def test_scenes_of_one_object_are_those_of_the_prior_that_have_one():
    alone = make_examples(3, "train", range(400), one_object=True)
    assert all(e.scene.count == 1 and e.named.counts == (1,) for e in alone)
    among = [e for e in make_examples(4, "train", range(800)) if e.scene.count == 1]
    for name in ("shape", "colour", "texture", "size"):
        tables = [np.bincount([getattr(e.scene, name)[0] for e in some]) for some in (alone, among)]
        assert chi2_contingency(tables).pvalue > 1e-4
    places = [[e.scene.x[0] for e in some] for some in (alone, among)]
    assert ks_2samp(*places).pvalue > 1e-4


def test_size_and_captions_change_no_scene():
    one, large, long = (
        make_examples(3, "train", range(20), **fields)
        for fields in ({}, {"size": 128}, {"long_captions": 1.0})
    )
    for a, b, c in zip(one, large, long, strict=True):
        assert a.caption == b.caption and b.image.shape == (128, 128, 3)
        np.testing.assert_array_equal(a.image, c.image)


def test_a_split_of_any_size_costs_nothing():
    start = time.process_time()
    records = Shapes(train=10**8).split("train")
    assert len(records) == len(records.captions) == 10**8
    assert records[10**8 - 1].caption == records.captions[-1]
    loader = Loader(records, batch_size=4, seed=0)
    straight = take(loader, 3)
    state = loader.get_state()
    after = take(loader, 2)
    assert time.process_time() - start < 5
    again = Loader(records, batch_size=4, seed=0)
    again.set_state(state)
    same(take(again, 2), after)
    rows = np.concatenate([batch["index"] for batch in straight])
    assert rows.max() > 10**7 and len(first_captions(records.captions, 8)) == 8
    with pytest.raises(IndexError):
        records[10**8]


def test_captions_are_those_of_the_records():
    records = Shapes(train=130).split("train")
    captions = list(records.captions)
    assert captions == [record.caption for record in records.__getitems__(range(130))]
    assert [records.captions[row] for row in (0, 129, -1)] == [captions[row] for row in (0, 129, -1)]


def test_many_examples_are_made_in_a_second():
    """Even with the checks of types that tests add, which take most of the time, one core makes as many as
    two slow cores train on: 64 in 0.3 s.
    """
    records = Shapes().split("train")
    records.__getitems__(range(64))
    start = time.process_time()
    records.__getitems__(range(1000, 1256))
    assert 256 / (time.process_time() - start) > 64 / 0.3


def test_no_caption_is_cut(tmp_path):
    """The longest of all fits the tokenizer of the project's CLIP, each of its words a token."""
    options = load_config("clip", "shapes").tokenizer
    captions = make_captions(0, "train", range(1500))
    tokenizer = train_bpe(captions, tmp_path, vocab_size=options.vocab_size, max_length=options.max_length)
    things = [Named(shape=3, colour=k, texture=1, size=1, place=8) for k in range(3)]
    longest = Caption(objects=tuple(things), background=2, light=1)
    rng = np.random.default_rng(0)
    assert max(count_tokens(tokenizer, say(longest, rng)) for _ in range(500)) == options.max_length


def test_a_caption_needs_fewer_numbers_than_are_drawn():
    """Every plan asks for at most three objects of five factors each, their order, scenery and words."""
    used = []
    for row in make_examples(0, "train", range(300), long_captions=1.0):
        draws = Draws(np.random.default_rng(len(used)).random(2 * DRAWS).tolist())
        draw_caption(draws, row.scene, long=True)
        say(row.named, draws)
        left = itertools.takewhile(lambda _: True, iter(draws.random, None))
        used.append(2 * DRAWS - len(list(left)))
    assert max(used) < 0.75 * DRAWS
