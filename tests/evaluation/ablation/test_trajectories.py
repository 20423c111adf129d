"""Trajectories of chosen cells: which are chosen, and that the page shows each with its step and settings."""

import dataclasses

import numpy as np
import pytest
from difflax.evaluation.ablation import trajectories
from difflax.evaluation.ablation.arms import Arm, axes_of
from difflax.evaluation.ablation.sections.steps import trajectory_section
from difflax.evaluation.ablation.sections.tiles import tiles
from difflax.evaluation.ablation.trajectories import chosen_arms, follow_arms, read_trajectories

from tests.evaluation.known_sweep import DRAWN, SCALES, SEEN, draw
from tests.evaluation.test_report import parse

STEPS = 20


def follow(prompts, seeds, arm):
    """Grey that clears up over the steps."""
    images = draw(prompts, seeds, arm.settings["guidance.scale"])
    shares = np.linspace(0, 1, STEPS)[:, None, None, None, None]
    return 0.5 + shares * (images - 0.5), np.linspace(-5.0, 5.0, STEPS)


@pytest.fixture(scope="module")
def found(result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("followed")
    follow_arms(follow, result, 2, folder)
    return read_trajectories(folder, result)


def test_the_best_arm_no_guidance_and_the_largest_scale_are_followed(result):
    best = result.of("seen", "accuracy").best
    chosen = chosen_arms(result, "seen")
    assert set(chosen) == {best, SCALES.index(1.0), SCALES.index(4.0)}
    assert "best" in chosen[best] and "guidance off" in chosen[SCALES.index(1.0)]


def test_of_several_arms_without_guidance_the_one_most_like_the_best(result):
    settings = [("heun", 1.0), ("ddim", 1.0), ("ddim", 8.0), ("heun", 8.0)]
    arms = tuple(Arm(settings={"sampler": name, "guidance.scale": scale}) for name, scale in settings)
    accuracy = result.of("seen", "accuracy")
    right = [dataclasses.replace(accuracy.estimates[0], value=value) for value in (0.1, 0.2, 0.9, 0.3)]
    measured = (dataclasses.replace(accuracy, estimates=tuple(right), near_best=()),)
    other = dataclasses.replace(result, arms=arms, measured=measured)
    assert chosen_arms(other, "seen") == {1: "guidance off", 2: "best, largest scale"}


def test_a_sweep_without_scales_follows_the_first_and_the_last(result):
    arms = tuple(Arm(settings={"num_steps": number}) for number in (5, 10, 20, 40))
    other = dataclasses.replace(result, arms=arms, axes=axes_of(arms))
    assert {0, 3, result.of("seen", "accuracy").best} == set(chosen_arms(other, "seen"))


def test_what_is_kept_are_the_estimates_of_the_sweeps_own_prompts_and_noise(found, result):
    first = found[0]
    arm = next(arm for arm in result.arms if arm.key == first.arm)
    seeds = np.array([DRAWN[prompt][0] for prompt in SEEN[:2]])
    np.testing.assert_array_equal(first.seeds, seeds)
    assert len(first.steps) == trajectories.STEPS_KEPT and (first.steps[0], first.steps[-1]) == (1, STEPS)
    estimates, log_snr = follow(list(SEEN[:2]), seeds, arm)
    np.testing.assert_allclose(first.images / 255, estimates[first.steps - 1], atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(first.log_snr, log_snr[first.steps - 1])


def test_every_image_says_its_step_its_seed_and_its_settings(found, result):
    page = parse(trajectory_section(result, found)[0])
    titles = [value for name, value in page.attributes if name == "title"]
    assert len(titles) == trajectories.STEPS_KEPT * 2 * len(found)
    seed = DRAWN[SEEN[1]][0]
    said = [f"prompt: {SEEN[1]}", f"seed: {seed}", f"step: {STEPS} of {STEPS}", "guidance.scale: 4"]
    assert any(all(part in title for part in said) for title in titles)
    assert trajectory_section(result, []) == []


def test_rows_of_other_steps_are_aligned_by_their_share_of_the_run(found, result):
    halved = {name: getattr(found[0], name)[::2] for name in ("steps", "log_snr", "images")}
    shorter = dataclasses.replace(found[0], **halved)
    said = trajectory_section(result, [shorter, found[1]])[0]
    assert "of the run" in said and "step: 1 of" in said


def test_a_damaged_file_is_left_out(result, tmp_path):
    follow_arms(follow, result, 1, tmp_path)
    paths = sorted((tmp_path / trajectories.TRAJECTORY_FOLDER).iterdir())
    paths[0].write_bytes(b"PK")
    assert len(read_trajectories(tmp_path, result)) == len(paths) - 1


def test_a_tile_has_the_seed_that_its_image_was_drawn_with(result):
    """A number that `difflax sample --seed` takes: no two prompts of an arm share it."""
    page = parse(tiles(result, result.groups[0], None))
    titles = [value for name, value in page.attributes if name == "title"]
    for prompt in SEEN:
        assert any(f"prompt: {prompt}\nseed: {DRAWN[prompt][0]}\n" in title for title in titles)
