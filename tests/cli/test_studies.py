"""The studies of scripts/studies.py: what they measure of a model that draws the truth, their tables, and
that nothing complete is made again.
"""

import csv
import dataclasses
import importlib.util
import itertools
import json
import shutil
import sys

import difflax
import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.data.shapes import captions, factors, truth
from difflax.data.shapes.factors import COLOURS, SHAPES, TEXTURES
from difflax.data.shapes.render import render
from difflax.data.shapes.splits import HELD_OUT_PAIRS
from difflax.diffusion.guidance import GUIDANCES
from difflax.evaluation.ablation.comparison import write_comparison
from difflax.evaluation.judges.shapes.reliability import SPOILED
from difflax.figures.png import read_metadata
from difflax.generation.pipeline import Pipeline
from difflax.runs import studies
from difflax.runs.methods import SHARES, Method, early_step, guidance_methods
from difflax.runs.studied import Studied
from PIL import Image

from tests.runs import ROOT, command, untrained_run

# On one worker, so that the run is made once.
pytestmark = pytest.mark.xdist_group("studies")

SMALL = ["--prompts=2", "--seeds=2"]
EARLY, LAST = 3, 6


@pytest.fixture(scope="module")
def run(tmp_path_factory, clip_folder):
    """The workdir of a run that has learned nothing, with an early checkpoint."""
    return untrained_run(clip_folder, tmp_path_factory.mktemp("untrained") / "run", (EARLY, LAST))


@pytest.fixture(scope="module", autouse=True)
def few_real_images():
    """Reading them all takes longer than a test may."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("difflax.runs.studied.REAL_IMAGES", 4)
        yield


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("studies_script", ROOT / "scripts" / "studies.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def study(script, monkeypatch, capsys):
    """Runs the script: exit status, output, errors."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["studies.py", *map(str, arguments)])
        status = script.main()
        return status, *capsys.readouterr()

    return call


class Truth(Pipeline):
    """Draws true scenes of the prompt, at guidance scale 4 in one colour, and in runs of one step grey."""

    def __call__(self, prompts, negative, scale, *, num_steps, sampler, seed):
        scenes = factors.concatenate(
            [
                truth.draw(np.random.default_rng([*text.encode(), each]), captions.parse(text), 1).scenes
                for text, each in zip(prompts, seed, strict=True)
            ]
        )
        if scale == 4:
            scenes = scenes.replace(colour=np.zeros_like(scenes.colour))
        made = np.asarray(render(scenes), np.float32)
        return np.full_like(made, 0.5) if num_steps == 1 else made


@pytest.fixture(scope="module")
def subject(run):
    """The truth in place of the run's model; the judge's programs are compiled once."""
    own = Studied.of(run, "short", 3, 6)
    pipeline = Truth(model=own.pipeline.model, defaults=own.pipeline.defaults, devices=own.pipeline.devices)
    devices = dataclasses.replace(pipeline.devices, batch_size=18)
    prompts = ("a heart", "a solid star", "a ring")
    group = dataclasses.replace(own.group, prompts=prompts)
    return dataclasses.replace(own, pipeline=dataclasses.replace(pipeline, devices=devices), group=group)


def table(folder):
    with open(folder / "table.csv") as file:
        return list(csv.DictReader(file))


def test_the_truth_is_aligned_varied_and_true_and_collapse_costs_coverage_alone(subject, tmp_path):
    methods = {
        "cfg": Method(label="CFG", section={"name": "cfg"}, scales=(1.0, 4.0)),
        "apg": Method(label="APG", section={"name": "apg"}, scales=(2.0,)),
    }
    found = studies.guidance_study(subject, methods, tmp_path, sampler="ddim", num_steps=2)
    write_comparison(found, tmp_path)
    rows = table(tmp_path)
    assert [(row["method"], row["guidance_scale"]) for row in rows] == [
        ("CFG", "1"),
        ("CFG", "4"),
        ("APG", "2"),
    ]
    whole, collapsed, other = rows
    for row in (whole, other):
        assert float(row["accuracy"]) == 1
        assert float(row["coverage_kept"]) == pytest.approx(1, abs=0.15)
        assert float(row["residual_psnr"]) > 38
    assert float(collapsed["accuracy"]) == 1 and float(collapsed["residual_psnr"]) > 38
    # One of about eleven factors that are open has no entropy left.
    lost = float(whole["coverage_kept"]) - float(collapsed["coverage_kept"])
    assert 0.05 < lost < 0.13
    for name in methods:
        stored = json.loads((tmp_path / name / "results.json").read_text())
        assert stored["provenance"]["config"]["guidance"] == {"name": name}
        assert (tmp_path / name / "table.csv").exists()


def test_steps_are_told_apart_and_long_runs_may_have_fewer_prompts(subject, tmp_path):
    asked = {"samplers": ["ddim"], "steps": (200, 1, 8), "scale": 1.0, "prompts_of_long_runs": 2}
    found = studies.steps_study(subject, tmp_path, **asked)
    write_comparison(found, tmp_path)
    rows = table(tmp_path)
    assert [(row["sampler"], row["steps"]) for row in rows] == [("ddim", "1"), ("ddim", "8"), ("ddim", "200")]
    assert [row["prompts"] for row in rows] == ["3", "3", "2"]
    assert float(rows[0]["accuracy"]) == 0 and rows[0]["coverage_kept"] == ""
    assert all(float(row["accuracy"]) == 1 for row in rows[1:])


def forbidden(*arguments, **named):
    raise AssertionError("drawn again")


def test_what_is_complete_is_not_drawn_again(subject, tmp_path, monkeypatch):
    methods = {"cfg": Method(label="CFG", section={"name": "cfg"}, scales=(1.0,))}
    asked = {"sampler": None, "num_steps": None}
    first = studies.guidance_study(subject, methods, tmp_path / "a", **asked)
    cells = {"samplers": ["ddim"], "scale": 1.0}
    steps = studies.steps_study(subject, tmp_path / "b", steps=(4,), **cells)
    monkeypatch.setattr(Truth, "__call__", forbidden)
    again = studies.guidance_study(subject, methods, tmp_path / "a", **asked)
    assert again.curves == first.curves
    assert studies.steps_study(subject, tmp_path / "b", steps=(4,), **cells).curves == steps.curves
    more = {**methods, "apg": Method(label="APG", section={"name": "apg"}, scales=(1.0,))}
    with pytest.raises(AssertionError, match="drawn again"):
        studies.guidance_study(subject, more, tmp_path / "a", **asked)
    with pytest.raises(AssertionError, match="drawn again"):
        studies.steps_study(subject, tmp_path / "b", steps=(4, 8), **cells)


def test_every_method_is_a_guidance_that_the_run_can_have(run, subject):
    methods = guidance_methods(early_step(run))
    assert {method.section["name"] for method in methods.values()} <= set(GUIDANCES)
    assert len({method.label for method in methods.values()}) == len(methods) == 7
    for method in methods.values():
        assert len(method.scales) == 13 and list(method.scales) == sorted(set(method.scales))
        guided = subject.guided(method.section).pipeline
        assert guided.defaults.guidance.with_scale(method.scales[-1]) is not None
        assert (guided.model.weak is not None) == (method.section["name"] == "autoguidance")
    assert methods["cfg_plus_plus"].scales == SHARES and max(SHARES) == 1 and min(SHARES) == 0
    assert methods["autoguidance"].section["weak"]["step"] == EARLY
    assert "autoguidance" not in guidance_methods(None)


def test_the_guidance_command(run, study, tmp_path, monkeypatch):
    shares = (0.0, 0.05, 1.0)
    monkeypatch.setattr("difflax.runs.methods.SHARES", shares)
    asked = ["--num_steps=2", "--methods=cfg_plus_plus", f"--output={tmp_path}"]
    status, out, errors = study("guidance", f"--workdir={run}", *SMALL, *asked)
    assert status == 0, errors
    rows = table(tmp_path)
    assert [float(row["guidance_scale"]) for row in rows] == list(shares)
    assert "| CFG++ (scale 0 to 1) | 0.05 |" in out
    assert {row["images"] for row in rows} == {"4"}
    assert Image.open(tmp_path / "plot.png").width > 1000


@pytest.mark.slow
def test_the_captions_command(run, study, tmp_path):
    """Runs of other shares are the same run with another word in its config: only the table is at stake."""
    for share in (0.0, 1.0):
        copy = tmp_path / f"run_{share}"
        shutil.copytree(run, copy)
        config = json.loads((copy / "config.json").read_text())
        config["data"]["long_captions"] = share
        (copy / "config.json").write_text(json.dumps(config))
    output = tmp_path / "out"
    runs = [f"--workdir={tmp_path / 'run_1.0'}", f"--workdir={tmp_path / 'run_0.0'}"]
    asked = [*SMALL, "--scales=1,2", "--num_steps=1", f"--output={output}"]
    status, _, errors = study("captions", *runs, *asked)
    assert status == 0, errors
    lines = [f"{kind} prompts, scale {scale}" for kind in ("short", "long") for scale in (1, 2)]
    places = [(row["asked"], row["long_captions_in_training_(%)"]) for row in table(output)]
    assert places == [(line, share) for line in lines for share in ("0", "100")]
    status, _, errors = study("captions", runs[0], runs[0], *asked)
    assert status == 2 and "share" in errors and errors.count("\n") == 1


@pytest.mark.slow
def test_the_distance_command(run, study, tmp_path):
    """Three lines, each about its own combinations, with as many pictures."""
    asked = ["--prompts=4", "--seeds=2", "--scales=1", "--num_steps=1", f"--output={tmp_path}"]
    status, _, errors = study("distance", f"--workdir={run}", *asked)
    assert status == 0, errors
    rows = table(tmp_path)
    assert [row["images"] for row in rows] == ["8"] * 3
    assert [row["prompts"] for row in rows] == ["4", "4", "2"]
    for distance, split in enumerate(studies.SPLITS_BY_DISTANCE.values()):
        groups = json.loads((tmp_path / split / "results.json").read_text())["groups"]
        for prompt in groups[0]["prompts"]:
            (thing,) = captions.parse(prompt).objects
            pairs = {
                frozenset(pair)
                for pair in itertools.combinations(
                    (SHAPES[thing.shape], list(COLOURS)[thing.colour], TEXTURES[thing.texture]), 2
                )
            }
            unseen = sum(frozenset(pair) in pairs for pair in HELD_OUT_PAIRS)
            # One change mends one pair, or two that share a part: at distance 2 there are two at least.
            assert (unseen == 0) == (distance == 0)
            assert distance < 2 or unseen >= 2


@pytest.mark.slow
def test_the_scales_command(run, study, tmp_path):
    """As small as can be: that it goes through, and that a run takes the schedule."""
    asked = ["--prompts=2", "--held_out_prompts=2", "--seeds=2", "--num_steps=2", "--bands=2", "--grid=1,3"]
    asked += ["--constants=2", "--of_literature=2", f"--output={tmp_path / 'out'}"]
    status, out, errors = study("scales", f"--workdir={run}", *asked)
    assert status == 0, errors
    assert "| found by search |" in out and "| power-cosine |" in out
    section = (tmp_path / "out" / "guidance.txt").read_text().strip()
    asked = ["--prompt=a red circle", "--num_images=1", "--num_steps=2", f"--output={tmp_path / 'images'}"]
    status, _, errors = command("sample", f"--workdir={run}", f"--guidance={section}", *asked)
    assert status == 0, errors


def test_the_gallery_command(run, study, tmp_path):
    path = tmp_path / "gallery.png"
    prompts = ["--prompt=a red circle", "--prompt=three hearts"]
    asked = ["--seeds=3,5", "--scales=0,2", "--guidance_scale=2", "--num_steps=2", f"--output={path}"]
    status, _, errors = study("gallery", f"--workdir={run}", *prompts, *asked)
    assert status == 0, errors
    facts = read_metadata(path)
    assert facts["prompts"] == ["a red circle", "three hearts"] and facts["seeds"] == [3, 5]


def test_the_gallery_shows_the_pictures_that_the_pipeline_makes(run):
    pipeline = difflax.load(str(run))
    prompts = ["a red circle", "three hearts"]
    asked = {"seeds": [3, 5], "scale": 2.0, "scales": [1.0, 2.0], "num_steps": 2}
    by_seed, by_scale = studies.gallery_blocks(pipeline, prompts, **asked)
    alone = pipeline(prompts[1], guidance_scale=2.0, num_steps=2, seed=5)[0]
    np.testing.assert_allclose(by_seed.images[1, 1], alone, atol=1e-5)
    np.testing.assert_allclose(by_scale.images[:, 1], by_seed.images[:, 0], atol=1e-6)
    assert by_scale.marked == 1 and np.ptp(by_scale.images[0], 0).max() > 0


def test_the_judge_command(study, tmp_path):
    path = tmp_path / "judge.md"
    status, said, errors = study("judge", "--scenes=8", f"--output={path}")
    assert status == 0, errors
    header, _, true, *spoiled = [line.strip("| ").split(" | ") for line in path.read_text().splitlines()]
    assert path.read_text() in said and len(spoiled) == len(SPOILED)
    clean, worst = (np.array(row[1:], float) for row in (true, spoiled[-1]))
    assert len(header) == len(clean) and clean.min() > 95
    assert worst.mean() < clean.mean()
    assert study("judge", "--scenes=0", f"--output={path}")[0] == 2


def test_the_prompts_of_the_gallery_are_understood(script):
    for prompt in script.SHOWN:
        captions.parse(prompt)


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("guidance", ["--methods=cfgg"], "did you mean 'cfg'"),
        ("guidance", ["--weak_step=7", "--methods=autoguidance"], "kept are"),
        ("guidance", ["--interval=1"], "low,high"),
        ("guidance", ["--seeds=1"], "at least 2"),
        ("guidance", ["--kind=shortt"], "did you mean 'short'"),
        ("steps", ["--samplers=ddimm"], "did you mean 'ddim'"),
        ("steps", ["--steps=0"], "num_steps"),
        ("scales", ["--held_out_prompts=2", "--bands=1"], "bands=1"),
        ("scales", ["--grid=1,1"], "each once"),
        ("scales", ["--held_out_prompts=1"], "at least 2 each"),
    ],
)
def test_bad_input_is_one_line_and_draws_nothing(name, arguments, says, run, study, tmp_path):
    status, _, errors = study(name, f"--workdir={run}", *SMALL, f"--output={tmp_path / 'out'}", *arguments)
    assert status == 2 and says in errors and errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_run_of_another_world_is_refused(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = json.loads((copy / "config.json").read_text())
    config["evaluation"] = {"name": "digits"}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="no judge that knows the truth"):
        Studied.of(copy, "short", 2, 2)
