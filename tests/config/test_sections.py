"""Every member of the mathematics is chosen by name, in a config and on the command line."""

import json

import numpy as np
import pytest
from absl import flags
from difflax.cli import main, train
from difflax.config.checks import check
from difflax.config.experiments import parse as parsed
from difflax.core.types import UserError
from difflax.diffusion.guidance import CORRECTIONS, GUIDANCES
from difflax.diffusion.loss.losses import PENALTIES
from difflax.diffusion.loss.noises import NOISES
from difflax.diffusion.loss.time_samplers import TIME_SAMPLERS
from difflax.diffusion.loss.weightings import UNCERTAINTIES, WEIGHTINGS
from difflax.diffusion.predictions import PREDICTIONS
from difflax.diffusion.samplers import SAMPLERS
from difflax.diffusion.schedules import SCHEDULES
from difflax.diffusion.time_grids import TIME_GRIDS

from tests.diffusion.members import TABLES
from tests.runs import ROOT

NEEDED = {
    "autoguidance": {"weak": {"step": 10}},
    "perturbation": {"weak": {"perturbation": {"layers": "down_blocks"}}},
}
SECTIONS = {
    "schedule": {name: TABLES.get(name, {}) for name in SCHEDULES},
    "prediction": {name: {} for name in PREDICTIONS},
    "loss.weighting": {name: {} for name in WEIGHTINGS},
    "loss.penalty": {name: {} for name in PENALTIES},
    "loss.noise": {name: {} for name in NOISES},
    "loss.uncertainty": {name: {} for name in UNCERTAINTIES},
    "loss.time_sampler": {name: {} for name in TIME_SAMPLERS},
    "sampler.time_grid": {name: {} for name in TIME_GRIDS},
    "sampler": {name: {"time_grid": {"name": "even", "t_max": 0.9}} for name in SAMPLERS},
    "guidance": {name: NEEDED.get(name, {}) for name in GUIDANCES if name != "two_condition"},
}


def parse(*overrides):
    """The config that ``difflax train`` reads."""
    arguments = [f"--config={ROOT / 'configs' / 'shapes.py'}", "--workdir=unused", *overrides]
    values = main.parse(train, "train", arguments)
    assert isinstance(values, flags.FlagValues)
    return train.read_config(values)


@pytest.mark.parametrize(
    ("section", "name"), [(section, name) for section, names in SECTIONS.items() for name in names]
)
def test_by_name_on_the_command_line(section, name):
    """``--config.section={'name': …}`` sets a whole section; the objects are then built and checked."""
    fields = json.loads(json.dumps(SECTIONS[section][name]))
    parsed(parse(f"--config.{section}={ {'name': name, **fields} }"))


@pytest.mark.parametrize("section", SECTIONS)
def test_an_unknown_name_is_refused_with_the_nearest(section):
    known = next(iter(SECTIONS[section]))
    with pytest.raises(UserError, match=f"did you mean '{known}'") as refused:
        parse(f"--config.{section}={ {'name': known + 'x'} }")
    assert "\n" not in str(refused.value)


def guidance(**fields):
    parts = parsed(parse(f"--config.guidance={fields}"))
    levels = parts.sampler.levels(parts.schedule, parts.prediction)
    return parts.guidance.plan.resolve(parts.schedule, levels), levels


def test_a_guidance_with_everything():
    made, levels = guidance(
        name="cfg",
        scale={"shape": "linear", "start": 1.0, "end": 5.0},
        interval={"low": 2, "high": 9, "unit": "step"},
        corrections=[{"name": name} for name in CORRECTIONS],
    )
    corrected = made.guidance
    assert [type(c) for c in corrected.corrections] == list(CORRECTIONS.values())
    scale = corrected.guidance.scale
    np.testing.assert_allclose([scale(levels[i]) for i in (0, len(levels.t) - 2)], [1.0, 5.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("guidance={'name': 'cfg', 'interval': {'low': 3.0, 'high': 1.0}}", "must not exceed"),
        ("guidance={'name': 'cfg', 'interval': {'low': 1.0, 'high': 2.0, 'unit': 'snr'}}", "unit"),
        ("guidance={'name': 'cfg', 'scale': (1.0, 2.0)}", "one entry for each"),
        ("guidance={'name': 'cfg', 'scale': {'shape': 'cosinus'}}", "cosine"),
        ("guidance={'name': 'cfg', 'corrections': [{'name': 'rescal'}]}", "did you mean 'rescale'"),
        ("guidance={'name': 'autoguidance'}", "config.guidance.weak"),
        ("guidance={'name': 'perturbation', 'weak': {'perturbation': {'kind': 'blurr'}}}", "kind"),
        ("guidance={'name': 'two_condition'}", "reads the image it edits"),
        ("sampler={'name': 'ddim', 'restart': {'low': 4, 'high': 2}}", "low < high"),
        ("sampler={'name': 'ddim', 'restart': {'low': 4, 'high': 99}}", "restart"),
        ("sampler={'name': 'ddim', 'repaint': {'jump': 0}}", "repaint.jump must be at least 1"),
        ("sampler={'name': 'ddim', 'repaint': {}, 'restart': {'low': 2, 'high': 4}}", "exclude each other"),
        ("sampler={'name': 'ddim', 'num_steps': 0}", "at least 1"),
        ("sampler={'name': 'ddpm', 'variance': 'learned_range'}", "config.loss.vlb_weight"),
        ("loss={'name': 'denoising', 'vlb_weight': -1.0}", "vlb_weight"),
        ("sampler={'name': 'ddim', 'schedule': {'name': 'cosin'}}", "cosine"),
        ("loss.noise={'name': 'offset', 'strength': -1.0}", "negative"),
        ("loss={'name': 'denoising', 'masked': True}", "alpha_mask"),
        (
            "loss={'name': 'denoising', 'time_sampler': {'name': 'running_loss'},"
            " 'uncertainty': {'name': 'learned'}}",
            "choose one",
        ),
    ],
)
def test_bad_sections_are_refused_before_compilation(override, says):
    with pytest.raises(UserError, match=says) as refused:
        check(parsed(parse(f"--config.{override}")))
    assert "\n" not in str(refused.value)


def test_a_scale_that_is_no_number_is_refused():
    config = parse()
    config.guidance.scale = float("nan")
    with pytest.raises(UserError, match="finite"):
        check(parsed(config))


def test_sampling_under_another_schedule_keeps_the_noise_to_signal_ratios():
    config = parse(
        "--config.sampler={'name': 'ddim', 'num_steps': 8, 'schedule': {'name': 'cosine'},"
        " 'variance_exploding': True, 'time_grid': {'name': 'trailing'}, 'restart': {'low': 2, 'high': 5}}"
    )
    config.sampler.time_grid = {"name": "even", "t_max": 0.98}
    parts = parsed(config)
    levels = parts.sampler.levels(parts.schedule, parts.prediction)
    assert levels.t.shape == (9 + 4,) and np.isnan(levels.t).all() and (levels.alpha == 1).all()
    again = np.asarray(levels.sigma)
    np.testing.assert_array_equal(again[2:6], again[6:10])
