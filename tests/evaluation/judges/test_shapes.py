"""The judge of the shapes world reads what was drawn, and nothing where nothing was."""

import dataclasses

import numpy as np
import pytest
from difflax.data.shapes import factors
from difflax.data.shapes.render import render
from difflax.data.shapes.splits import COMBINATIONS
from difflax.evaluation.judges.shapes.reading import Reading, judge
from difflax.evaluation.judges.shapes.reliability import (
    blurred,
    noisy,
    reliability_markdown,
    saturated,
    shares_right,
)
from scipy import ndimage

# On one worker, so that its programs are compiled once.
pytestmark = pytest.mark.xdist_group("shapes_judge")

EVERY = np.concatenate([COMBINATIONS[split] for split in ("train", "held_out", "held_out_2")])


def true_pictures(number, seed, size=32):
    scenes = factors.draw_scenes(np.random.default_rng(seed), number, EVERY)
    return scenes, np.rint(render(scenes, size) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def true():
    scenes, pictures = true_pictures(192, seed=11)
    return scenes, pictures, judge(pictures)


def reads_all(scenes, reading, share):
    assert reading.readable.all() and not reading.stray.any()
    for name, right in shares_right(scenes, reading).items():
        assert right >= share, name


def test_every_factor_of_true_renders_is_read(true):
    scenes, _, reading = true
    reads_all(scenes, reading, 0.985)  # as much of 192 pictures as 99.5 % leave room for
    assert np.mean(reading.psnr > 45) > 0.95  # what 8 bits leave is 59 dB


@pytest.mark.slow
def test_every_factor_of_many_true_renders_is_read():
    scenes, pictures = true_pictures(4096, seed=12)
    reads_all(scenes, judge(pictures), 0.995)


def test_larger_pictures_are_read_like_small_ones():
    scenes, pictures = true_pictures(32, seed=13, size=128)
    reads_all(scenes, judge(pictures), 0.95)


def test_noise_and_blanks_show_nothing():
    rng = np.random.default_rng(0)
    flat = np.broadcast_to(rng.random((16, 1, 1, 3)), (16, 32, 32, 3))
    smooth = ndimage.zoom(rng.random((16, 4, 4, 3)), (1, 8, 8, 1), order=1).clip(0, 1)
    kinds = (rng.random((16, 32, 32, 3)), flat, smooth, np.full((4, 32, 32, 3), np.nan))
    assert not judge(np.concatenate(kinds).astype(np.float32)).readable.any()


def test_backgrounds_without_objects_count_none():
    scenes, _ = true_pictures(48, seed=14)
    reading = judge(render(scenes.replace(count=np.zeros(48, int))))
    assert not reading.readable.any() and not reading.scenes.count.any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "strength", "least"), [(noisy, 0.03, 0.98), (blurred, 0.4, 0.98), (saturated, 1.3, 0.95)]
)
def test_slightly_spoiled_pictures_are_still_read(true, spoil, strength, least):
    scenes, pictures, clean = true
    spoiled = spoil(pictures[:32] / 255, strength).clip(0, 1).astype(np.float32)
    reading = judge(spoiled)
    right = shares_right(scenes[:32], reading)
    assert min(right[name] for name in ("count", "shape", "colour", "texture", "size")) >= least
    assert np.mean(reading.psnr < clean.psnr[:32]) > 0.95  # and the residual tells
    assert (reading.confidence <= clean.confidence[:32] + 1e-6).mean() > 0.95


def test_what_was_read_draws_the_same_picture(true):
    """The residual that the judge reports is that of the renderer on what it says."""
    _, pictures, reading = true
    drawn = render(reading.scenes)
    error = np.mean((drawn - pictures / 255) ** 2, (1, 2, 3))
    np.testing.assert_allclose(error, reading.error, rtol=0.02, atol=1e-6)


def in_other_order(scenes):
    """Scenes of two objects with the one in front behind the other."""
    order = [1, 0, 2]
    names = ("shape", "colour", "texture", "x", "y", "radius", "rotation")
    return scenes.replace(**{name: getattr(scenes, name)[:, order] for name in names})


def test_the_order_of_depth_is_read():
    """Where two objects overlap, the one in front comes later: swapping them would change the picture."""
    scenes = factors.draw_scenes(np.random.default_rng(15), 2500, EVERY)
    scenes = scenes[scenes.count == 2]
    apart = abs(render(scenes) - render(in_other_order(scenes))).max((1, 2, 3))
    scenes = scenes[np.flatnonzero(apart > 0.1)[:32]]
    assert len(scenes) == 32
    true = render(scenes)
    read = judge(true).scenes
    both = read.count == 2
    assert both.mean() > 0.9
    assert (abs(render(read) - true).max((1, 2, 3)) < 0.1)[both].mean() > 0.9


def test_what_was_read_wrong_counts_as_wrong(true):
    """The shares fall by just what is changed, and a picture that is not readable has nothing right."""
    scenes, _, _ = true
    perfect = Reading.of_truth(scenes)
    assert set(shares_right(scenes, perfect).values()) == {1.0}
    colour = scenes.colour.copy()
    colour[:48, 0] = (colour[:48, 0] + 1) % len(factors.COLOURS)
    changed = shares_right(scenes, dataclasses.replace(perfect, scenes=scenes.replace(colour=colour)))
    assert changed.pop("colour") == pytest.approx(1 - 48 / scenes.count.sum())
    assert set(changed.values()) == {1.0}
    unread = dataclasses.replace(perfect, readable=np.zeros(len(scenes), bool))
    assert set(shares_right(scenes, unread).values()) == {0.0}
    assert reliability_markdown({"true": {"count": 0.5}}).splitlines()[-1] == "| true | 50.00 |"


def test_pictures_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="multiple of 32"):
        judge(np.zeros((1, 48, 48, 3), np.uint8))
