"""The search for the scale of each noise level, of a model whose right scales are known."""

import ast
import dataclasses
import json

import difflax
import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.data.shapes import captions, factors, truth
from difflax.data.shapes.render import render
from difflax.diffusion.guidance import planned
from difflax.evaluation.ablation.arms import Arm
from difflax.evaluation.ablation.scale_report import write_scales
from difflax.evaluation.measurement import Design
from difflax.evaluation.shapes.overlap import overlaps
from difflax.generation.pipeline import Pipeline
from difflax.generation.settings import run_levels
from difflax.runs.guidance import with_guidance
from difflax.runs.scales import CONSTANT, FOUND, ScaleSearch, band_edges, parted, scales_study
from difflax.runs.scales_shown import bands_comparison, scale_tables
from difflax.runs.studied import Studied

# On one worker, so that the judge's programs are compiled once.
pytestmark = pytest.mark.xdist_group("scales")

STEPS = 4


class Known(Pipeline):
    """Draws true scenes of the prompt; another shape where the scale at low noise is below 3, and always the
    same background and size where that at high noise is above 2. So 3 is the best constant, and right are 1
    and 3.
    """

    def __call__(self, prompts, *, seed, sampler, num_steps, trajectory, guidance_scale=None):
        schedule = planned(self.defaults.guidance).schedule
        own = getattr(schedule, "scales", None)
        high, low = own if own is not None else (guidance_scale[0], guidance_scale[0])
        made = []
        for text, each in zip(prompts, seed, strict=True):
            wrong = "a star" if "heart" in text else "a heart"
            asked = captions.parse(text if low >= 3 else wrong)
            made.append(truth.draw(np.random.default_rng([*text.encode(), each]), asked, 1).scenes)
        scenes = factors.concatenate(made)
        if high > 2:
            same = {name: np.zeros_like(getattr(scenes, name)) for name in ("background", "size")}
            scenes = scenes.replace(**same)
        return np.asarray(render(scenes), np.float32)


@pytest.fixture(scope="module")
def subject():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("difflax.runs.studied.REAL_IMAGES", 4)
        own = Studied.of("embedded", "one object", 12, 4)
    devices = dataclasses.replace(own.pipeline.devices, batch_size=24)
    pipeline = Known(model=own.pipeline.model, defaults=own.pipeline.defaults, devices=devices)
    return dataclasses.replace(own, pipeline=pipeline)


SEARCH = ScaleSearch(bands=2, constants=(1.0, 3.0), of_literature=(3.0,), grid=(1.0, 3.0), passes=1)
ASKED = {"held_out_prompts": 6, "sampler": "ddim", "num_steps": STEPS}


@pytest.fixture(scope="module")
def study(subject, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scales")
    return scales_study(subject, SEARCH, folder, **ASKED), folder


def test_the_scales_that_are_right_are_found_and_better_on_other_prompts(study, subject):
    found, _ = study
    assert found.base == 3.0 and found.path[0] == (3.0, 3.0) and found.path[-1] == (1.0, 3.0)
    high, low = found.alone
    assert high.values[high.best] == 1.0 and high.decided and low.best == low.base
    assert found.names[0] == CONSTANT and found.names[-1] == FOUND
    tables = scale_tables(found, subject, SEARCH)
    right, distance = tables.values["accuracy"], tables.values["coverage_excess"]
    np.testing.assert_allclose(tables.values["overlap"], right * (1 - distance))
    assert right[0].mean() == right[-1].mean() == 1
    last = tables.differences("overlap")[-1]
    assert last.second == len(found.names) - 1 and last.decided and last.estimate.value > 0.05


def test_the_truth_overlaps_with_itself_and_what_is_always_wrong_with_nothing(study, subject):
    found, folder = study
    searched, _ = parted(subject, 6)
    arms = [Arm(settings={"guidance.scale": 1.0})]
    none = overlaps(searched.compare(folder / "search", arms, "ddim", STEPS))
    assert np.all(none == 0)
    assert overlaps(found.held_out)[-1].mean() == pytest.approx(1, abs=0.1)


def test_the_files_say_what_was_found_and_a_run_takes_the_schedule(study, subject):
    found, folder = study
    write_scales(scale_tables(found, subject, SEARCH), folder)
    text = (folder / "guidance.txt").read_text()
    document = json.loads((folder / "results.json").read_text())
    section = document["guidance"]["schedule"]
    assert section == found.section == ast.literal_eval(text)["schedule"]
    assert set(document["held_out"]["overlap"]["estimates"]) == set(found.names)
    pipeline = with_guidance(difflax.load("embedded"), text.strip(), "embedded")
    assert planned(pipeline.defaults.guidance).schedule.scales == (1.0, 3.0)
    alone = bands_comparison(found, subject)
    assert alone.lines == ["log-SNR below -0.81", "log-SNR above -0.81"]
    high, _ = alone.by_metric()["coverage_kept"]
    assert high.scales == (1.0, 3.0) and high.estimates[0].value > high.estimates[1].value + 0.05
    assert set(alone.by_metric()) == {
        "overlap",
        "accuracy",
        "coverage_kept",
        "coverage_excess",
        "residual_psnr",
    }
    table = (folder / "table.md").read_text()
    assert "| no winner |" in table and f"| {FOUND} |" in table
    assert (folder / "plot.png").stat().st_size > 10_000


def test_what_is_drawn_is_not_drawn_again(study, subject, monkeypatch):
    found, folder = study

    def forbidden(*arguments, **named):
        raise AssertionError("drawn again")

    monkeypatch.setattr(Known, "__call__", forbidden)
    again = scales_study(subject, SEARCH, folder, **ASKED)
    assert again.path == found.path and overlaps(again.held_out).tolist() == overlaps(found.held_out).tolist()
    other = dataclasses.replace(SEARCH, grid=(1.0, 3.0, 2.0))
    with pytest.raises(AssertionError, match="drawn again"):
        scales_study(subject, other, folder, **ASKED)


def _seeds(studied):
    seeds = range(studied.first_seed, studied.first_seed + studied.seeds)
    return Design(groups=(studied.group,), seeds=tuple(seeds), grid_prompts=1).seed.tolist()


def test_what_is_held_out_shares_neither_prompts_nor_noise_with_the_search(subject):
    searched, kept_out = parted(subject, 5)
    assert len(searched.group.prompts) == 7 and len(kept_out.group.prompts) == 5
    assert not set(searched.group.prompts) & set(kept_out.group.prompts)
    one, other = (set(_seeds(studied)) for studied in (searched, kept_out))
    assert len(one) == 28 and len(other) == 20 and not one & other


def test_bands_have_about_as_many_steps_each(subject):
    model, defaults = subject.pipeline.model, subject.pipeline.defaults
    for steps, bands in ((16, 6), (16, 16), (5, 2)):
        levels = run_levels(model, defaults, steps)
        edges = band_edges(levels, bands)
        assert list(edges) == sorted(set(edges))
        counts = np.bincount(np.searchsorted(edges, np.asarray(levels.log_snr)[:-1], side="right"))
        assert len(counts) == bands and counts.max() - counts.min() <= 1
    with pytest.raises(UserError, match="from 2 to the run's 5"):
        band_edges(levels, 6)
    with pytest.raises(UserError, match="at least 2 each"):
        parted(subject, 11)
