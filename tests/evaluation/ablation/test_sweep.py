"""The sweep measures what its formula says, pairs its images, compiles once, and resumes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.evaluation import metrics as m
from difflax.evaluation.ablation.arms import arms_of_scales
from difflax.evaluation.measurement import Instruments, PromptGroup

from tests.evaluation.known_sweep import (
    DRAWN,
    SCALES,
    SEEDS,
    SEEN,
    UNSEEN,
    draw,
    image_features,
    provenance,
    right,
    sweep,
)


def accuracy(prompts, scale):
    return np.mean([right(prompt, seed, scale) for prompt in prompts for seed in DRAWN[prompt]])


def test_accuracy_is_that_of_the_formula(result):
    for group, prompts in (("seen", SEEN), ("<unseen> & new", UNSEEN)):
        curve = result.curve(group, "accuracy")
        expected = [accuracy(prompts, scale) for scale in SCALES]
        np.testing.assert_allclose([e.value for e in curve.estimates], expected)
        assert all(e.low <= e.value <= e.high for e in curve.estimates)
        assert curve.scales[curve.best] == SCALES[int(np.argmax(expected))]


def test_what_was_not_asked_is_left_out(result):
    boxes = [prompt for prompt in SEEN if "box" in prompt]
    curve = result.curve("seen", "corners")
    np.testing.assert_allclose(curve.estimates[1].value, accuracy(boxes, 1.0))
    assert curve.estimates[1].count == len(boxes) * len(SEEDS)
    with pytest.raises(KeyError):
        result.curve("<unseen> & new", "corners")


def test_set_metrics_are_those_of_all_images_of_the_group(result):
    prompts, seeds = np.repeat(SEEN, len(SEEDS)), np.concatenate([DRAWN[p] for p in SEEN])
    images = draw(list(prompts), seeds, 4.0)
    features = image_features(images)
    real = draw([prompt for prompt in SEEN for _ in range(24)], np.arange(144), 2.0)
    distance = m.frechet_distance(
        m.fit_gaussian(m.normalize(features)), m.fit_gaussian(m.normalize(image_features(real)))
    )
    index = np.repeat(np.arange(len(SEEN)), len(SEEDS))
    by_prompt = [m.pixel_diversity(images[index == p]) for p in range(len(SEEN))]
    expected = {
        "frechet_distance": distance,
        "feature_diversity": m.feature_diversity(features, index).mean(),
        "pixel_diversity": np.mean(by_prompt),
        "hsv_saturation": m.hsv_saturation(images).mean(),
    }
    for name, value in expected.items():
        assert result.curve("seen", name).estimates[-1].value == pytest.approx(value, rel=1e-4), name


def test_reference_lines(result):
    levels = result.curve("seen", "accuracy").references
    assert levels["chance"] == pytest.approx(1 / 3)
    assert levels["real images"] == 1.0
    assert result.curve("<unseen> & new", "accuracy").references == {}
    # Two halves of one set of real images are nearer to each other than unconditional images are to them.
    frechet = result.curve("seen", "frechet_distance")
    assert 0 < frechet.references["real images"] < frechet.estimates[0].value


def test_scales_as_good_as_the_best_are_named(result):
    """Every image is right from scale 2 on, so 2 and 4 tie; at 0 a third is right."""
    assert result.curve("seen", "accuracy").near_best == (False, False, True, True)


def test_every_scale_draws_the_same_prompts_and_seeds_in_batches_of_one_size(tmp_path):
    asked = {}

    def generate(prompts, seeds, scale):
        assert len(prompts) == len(seeds) == 7
        asked.setdefault(scale, []).extend(zip(prompts, seeds.tolist(), strict=True))
        return draw(prompts, seeds, scale)

    sweep(tmp_path, generate)
    pairs = [(prompt, seed) for prompt in (*SEEN, *UNSEEN) for seed in DRAWN[prompt]]
    assert sorted(asked) == list(SCALES)
    assert all(drawn[: len(pairs)] == pairs for drawn in asked.values())


def test_the_batch_size_changes_nothing(tmp_path, result):
    other = sweep(tmp_path, batch_size=64)
    for ours, theirs in zip(result.measured, other.measured, strict=True):
        np.testing.assert_allclose(
            [[e.value, e.low, e.high] for e in ours.estimates],
            [[e.value, e.low, e.high] for e in theirs.estimates],
            rtol=1e-6,
        )
    np.testing.assert_array_equal(result.samples["seen"], other.samples["seen"])


def test_one_compilation_serves_the_sweep(tmp_path):
    """Tracing happens once a compilation: shapes, dtypes and the scale's type stay the same throughout."""
    traced = []

    @jax.jit
    def compiled(seeds, scale):
        traced.append((seeds.shape, scale.dtype))
        shade = jnp.clip(0.1 * scale + 0.001 * seeds, 0, 1)
        return jnp.broadcast_to(shade[:, None, None, None], (len(seeds), 8, 8, 3))

    sweep(tmp_path, lambda prompts, seeds, scale: compiled(seeds, jnp.float32(scale)))
    assert len(traced) == 1


def test_a_stopped_sweep_goes_on(tmp_path, result):
    class PowerCut(Exception):
        pass

    def fails_at_2(prompts, seeds, scale):
        if scale == 2.0:
            raise PowerCut
        return draw(prompts, seeds, scale)

    with pytest.raises(PowerCut):
        sweep(tmp_path, fails_at_2)
    drawn = set()

    def generate(prompts, seeds, scale):
        drawn.add(scale)
        return draw(prompts, seeds, scale)

    resumed = sweep(tmp_path, generate)
    assert drawn == {2.0, 4.0}
    for ours, theirs in zip(result.measured, resumed.measured, strict=True):
        assert ours.estimates == theirs.estimates
    for name, column in result.records.items():
        np.testing.assert_array_equal(column, resumed.records[name])


def test_more_scales_can_be_added_later(tmp_path):
    sweep(tmp_path, scales=[1, 4])
    more = sweep(tmp_path, scales=[0, 1, 4])
    assert more.scales == (0.0, 1.0, 4.0)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut short"])
def test_a_damaged_scale_is_measured_again(tmp_path, result, damage):
    sweep(tmp_path)
    (tmp_path / "cells" / f"{arms_of_scales([1])[0].key}.npz").write_bytes(damage)
    again = sweep(tmp_path)
    assert again.curve("seen", "accuracy").estimates == result.curve("seen", "accuracy").estimates


def test_another_sweep_in_the_folder_is_refused_and_left_alone(tmp_path):
    sweep(tmp_path, scales=[1])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="another checkpoint, seeds"):
        sweep(tmp_path, scales=[1, 2], seeds=[0, 1], provenance=provenance(checkpoint="runs/test, step 2"))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": []}, "guidance_scales"),
        ({"scales": [1.0, float("nan")]}, "guidance_scales"),
        ({"scales": [1.0, 1]}, "guidance_scales"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"seeds": [-1]}, "seeds"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"grid_prompts": 0}, "grid_prompts=0"),
        ({"groups": [PromptGroup(name="empty", prompts=())]}, "'empty'"),
        ({"groups": [PromptGroup(name="twice", prompts=("a red ball", "a red ball"))]}, "'twice'"),
        (
            {"groups": [PromptGroup(name="x", prompts=("a",)), PromptGroup(name="x", prompts=("b",))]},
            "own name",
        ),
        ({"groups": [PromptGroup(name="odd", prompts=("a",), real_prompts=("a",))]}, "real_prompts"),
    ],
)
def test_user_mistakes_are_named_and_nothing_is_written(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        sweep(tmp_path, **changes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [np.nan, -0.1, 1.5])
def test_bad_images_are_named(tmp_path, bad):
    def generate(prompts, seeds, scale):
        images = draw(prompts, seeds, scale)
        images[np.array(prompts) == "a blue box", 0, 0, 0] = bad
        return images

    with pytest.raises(ValueError, match=f"'a blue box', seed {DRAWN['a blue box'][0]}"):
        sweep(tmp_path, generate)


def test_without_instruments_saturation_and_pixel_diversity_remain(tmp_path):
    bare = sweep(tmp_path, instruments=Instruments())
    assert list(bare.by_metric()) == ["pixel_diversity", "hsv_saturation", "clipped_fraction"]


def test_one_grey_image_a_scale_is_enough(tmp_path):
    def grey(prompts, seeds, scale):
        return np.full((len(prompts), 8, 8, 1), 0.5, np.float32)

    lonely = PromptGroup(name="one", prompts=("a red ball",))
    bare = sweep(tmp_path, grey, groups=[lonely], seeds=[0], instruments=Instruments())
    assert list(bare.by_metric()) == ["clipped_fraction"]
    assert np.isnan(bare.measured[0].estimates[0].low)
