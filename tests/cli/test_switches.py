"""Prompts that are switched on the way: runs that must be equal, and what the model that comes along does."""

import json

import difflax
import numpy as np
import pytest
from difflax.runs.studied import Studied
from difflax.runs.switches import SINCE, UNTIL, switch_study, switches

from tests.runs import command

# On one worker, so that its programs are compiled once.
pytestmark = pytest.mark.xdist_group("switches")

CALL = {"guidance_scale": 3.0, "num_steps": 6, "sampler": "ddim"}
PROMPTS = ["a red circle", "a blue square"]
ROUNDING = 2e-5


@pytest.fixture(scope="module", autouse=True)
def few_real_images():
    """Nothing here asks for them, and reading them all takes longer than the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("difflax.runs.studied.REAL_IMAGES", 4)
        yield


@pytest.fixture(scope="module")
def pipeline():
    return difflax.load("embedded")


def test_without_a_change_every_run_is_the_whole_run(pipeline):
    """DDIM has no memory: to stop at a level and to go on with the same prompt changes nothing."""
    whole = pipeline(["a star"] * 2, seed=[0, 1], **CALL)
    found = list(switches(pipeline, ["a star"] * 2, "a star", seeds=[0, 1], points=3, **CALL))
    assert [each.step for each in found] == [0, 2, 5]
    for each in found:
        np.testing.assert_allclose(each.until, whole, atol=ROUNDING)
        np.testing.assert_allclose(each.since, whole, atol=ROUNDING)


def test_at_pure_noise_one_prompt_is_given_all_the_way(pipeline):
    first = next(switches(pipeline, PROMPTS, "a star", seeds=[4, 7], points=2, **CALL))
    np.testing.assert_allclose(first.since, pipeline(PROMPTS, seed=[4, 7], **CALL), atol=ROUNDING)
    np.testing.assert_allclose(first.until, pipeline(["a star"] * 2, seed=[4, 7], **CALL), atol=ROUNDING)


def test_the_halves_of_a_run_belong_together(pipeline):
    """The second half of the first kind of run is that of a run that was stopped by hand."""
    [_, middle, _] = switches(pipeline, PROMPTS, "", seeds=[4, 7], points=3, **CALL)
    share = 0.67  # after two steps of six
    latents = pipeline(PROMPTS, seed=[4, 7], **CALL, denoising_end=1 - share)
    ended = pipeline(["", ""], seed=[4, 7], **CALL, latents=latents, denoising_start=1 - share)
    np.testing.assert_allclose(middle.until, ended, atol=ROUNDING)


def test_the_longer_the_prompt_is_given_the_more_of_it_is_right():
    """Of the model that comes along: all of the prompt against none of it, and what lies between."""
    subject = Studied.of("embedded", "one object", 6, 2)
    found = switch_study(subject, "", points=3, scale=3.0, sampler="ddim", num_steps=8)
    curves = {(curve.group, curve.metric.name): curve for curve in found.curves}
    until, since = (
        [estimate.value for estimate in curves[name, "accuracy"].estimates] for name in (UNTIL, SINCE)
    )
    assert until[0] <= 0.2 and since[0] >= 0.7
    assert until == sorted(until) and since == sorted(since, reverse=True)
    for curve in found.curves:
        for estimate in curve.estimates:
            assert estimate.count == 0 or estimate.low <= estimate.value <= estimate.high


def test_the_command(tmp_path):
    status, out, errors = command(
        *("switches", "--workdir=embedded", "--prompts=2", "--seeds=2", "--points=2", "--num_steps=2"),
        *("--other=a star", "--kind=one object", f"--output={tmp_path}"),
    )
    assert status == 0, errors
    assert "“a star”" in out
    facts = json.loads((tmp_path / "results.json").read_text())["facts"]
    assert facts["other prompt"] == "a star" and facts["sampler"] == "ddim"
    assert (tmp_path / "plot.png").is_file() and (tmp_path / "table.csv").is_file()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--pretrained=nowhere"], "give --workdir"),
        (["--workdir=embedded", "--kind=one objekt"], "one object"),
        (["--workdir=embedded", "--sampler=dim"], "ddim"),
        (["--workdir=embedded", "--points=1"], "points"),
    ],
)
def test_bad_input_is_one_line(flags, says, tmp_path):
    status, _, errors = command("switches", *flags, f"--output={tmp_path / 'out'}")
    assert status == 2 and says in errors and errors.count("\n") == 1
