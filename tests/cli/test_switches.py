"""Prompts that are switched on the way: runs that must be equal, and what the model that comes along does."""

import json

import difflax
import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.runs.studied import Studied
from difflax.runs.switches import SINCE, SWAPPED, UNTIL, switch_study, switches

from tests.fixtures import make_sdxl
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
        np.testing.assert_allclose(each.kept, whole, atol=ROUNDING)


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


@pytest.fixture(scope="module")
def two_encoders(tmp_path_factory):
    """A pipeline that reads prompts with two text encoders."""
    folder = make_sdxl.build("base", tmp_path_factory.mktemp("sdxl") / "base")
    return difflax.from_pretrained(str(folder), variant="fp16", batch_size=2)


def test_one_text_encoder_alone_reads_the_other_prompt(two_encoders):
    """At pure noise it is the run whose second encoder was told something else all the way."""
    call = {"guidance_scale": 3.0, "num_steps": 2}
    asked = {"seeds": [4, 7], "points": 2, **call}
    first = next(switches(two_encoders, PROMPTS, "a star", encoder="text_encoder_2", **asked))
    told = two_encoders(PROMPTS, prompt_2=["a star"] * 2, seed=[4, 7], **call)
    np.testing.assert_allclose(first.until, told, atol=ROUNDING)
    other = next(switches(two_encoders, PROMPTS, "a star", encoder="text_encoder", **asked))
    told = two_encoders(["a star"] * 2, prompt_2=PROMPTS, seed=[4, 7], **call)
    np.testing.assert_allclose(other.until, told, atol=ROUNDING)
    assert np.abs(first.until - other.until).max() > 1e-3
    for each in (first, other):
        np.testing.assert_allclose(each.since, two_encoders(PROMPTS, seed=[4, 7], **call), atol=ROUNDING)


def test_the_only_text_encoder_is_all_of_them_and_others_there_are_not(pipeline):
    asked = {"seeds": [4, 7], "points": 2, **CALL}
    one = next(switches(pipeline, PROMPTS, "a star", encoder="text_encoder", **asked))
    every = next(switches(pipeline, PROMPTS, "a star", **asked))
    np.testing.assert_array_equal(one.until, every.until)
    with pytest.raises(UserError, match="did you mean 'text_encoder'"):
        next(switches(pipeline, PROMPTS, "", encoder="text_encoder_2", **asked))


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
    # More changes where the other prompt was given all the way than where it was given for the last steps.
    for name in ("factors_changed", "shape_changed", "colour_changed"):
        first, *_, last = (estimate.value for estimate in curves[SWAPPED, name].estimates)
        assert 0 <= last < first
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
        (["--workdir=embedded", "--encoder=text_encoder_2"], "text_encoder"),
    ],
)
def test_bad_input_is_one_line(flags, says, tmp_path):
    status, _, errors = command("switches", *flags, f"--output={tmp_path / 'out'}")
    assert status == 2 and says in errors and errors.count("\n") == 1
