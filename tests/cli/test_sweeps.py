"""``difflax ablate --sweep.…``: any axes of a small run, each structurally different method compiled once,
and what cannot be swept said in one line before anything is drawn.
"""

import contextlib
import csv
import dataclasses
import json
import re
import warnings

import difflax
import jax
import numpy as np
import pytest
from difflax.core.types import UserError
from difflax.diffusion.samplers import DDIM
from difflax.diffusion.time_grids import Quadratic
from difflax.evaluation.ablation.arms import Arm
from difflax.evaluation.ablation.sweep import run_sweep
from difflax.evaluation.ablation.tables import records_csv, table_csv
from difflax.evaluation.measurement import PromptGroup
from difflax.generation.run import UnconditionalWarning
from difflax.runs.arms import Studio
from difflax.runs.axes import SWEPT_AXES, Weights
from difflax.runs.design import read_arms
from difflax.runs.dry_run import cost, evaluations_of

from tests.evaluation.known_sweep import provenance
from tests.fixtures import make_sdxl
from tests.runs import command, untrained_run

# On one worker, so that the run is made once.
pytestmark = pytest.mark.xdist_group("sweeps")

EARLY, LAST = 3, 6


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, clip_folder):
    """The workdir of a run that has learned nothing, with an early checkpoint."""
    return untrained_run(clip_folder, tmp_path_factory.mktemp("untrained") / "run", (EARLY, LAST))


@pytest.fixture(scope="module")
def studio(workdir):
    def load(weights):
        return difflax.runs.load(weights.source, step=weights.step)

    source = str(workdir)
    return Studio(base=difflax.load(source), weights=Weights(source=source), open=load, of_run=True)


@contextlib.contextmanager
def compilations():
    """How often the program that samples is compiled, or read from the cache, in the block."""
    compiled = []

    def listen(event, duration, **facts):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(facts.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


PROMPTS = ("a red circle", "a small blue square")
WEAK = {"name": "autoguidance", "weak": {"step": EARLY}}


def draw(studio, settings, seeds=(3, 4)):
    """The images of an arm."""
    arm = Arm(settings=settings)
    studio.check([arm])
    return studio.draw(list(PROMPTS), np.array(seeds), [arm] * 2)


def test_each_structurally_different_method_is_compiled_once(studio, tmp_path):
    """Strengths, bounds, rescaling, negative prompts, numbers of steps and weights are arrays of one program;
    and the dry run knows how many there are.
    """
    texts = {
        "guidance": f"cfg;apg;{WEAK}",
        "guidance.scale": "1;3",
        "guidance.schedule": "none;linear;{'name': 'cosine', 'floor': 1.0}",
        "guidance.interval": "none;(0.5,6);(1,2,step)",
        "guidance.rescale": "none;0.7",
        "negative_prompt": "none;blurry",
        "num_steps": "3;4",
        "null": "training;zeros",
        "time_grid": "trailing;quadratic",
        "step": f"{EARLY};{LAST}",
    }
    arms = read_arms(texts, design="random", number=14, seed=1)
    assert len({str(arm.settings["guidance"]) for arm in arms}) == 3
    studio.check(arms)
    assert cost(studio, arms, images=2).programs == 3
    given = {
        "arms": arms,
        "seeds": [0],
        "provenance": provenance(),
        "directory": tmp_path,
        "batch_size": 4,
        "show_progress": False,
    }
    group = PromptGroup(name="prompts", prompts=PROMPTS)
    with compilations() as compiled:
        result = run_sweep(studio.painter(), [group], **given)
    assert compiled.count("jit(sample_batch)") == 3
    assert len(result.arms) == 14 and result.axes[0].title == "method"
    assert len({image.tobytes() for image in result.samples["prompts"][:, 0]}) > 8
    with compilations() as compiled:
        again = run_sweep(studio.painter(), [group], **given)
    assert "jit(sample_batch)" not in compiled
    assert table_csv(again) == table_csv(result) and records_csv(again) == records_csv(result)


def test_every_image_of_a_batch_has_the_scale_of_its_arm(studio):
    arms = [Arm(settings={"guidance.scale": scale}) for scale in (0.0, 2.5)]
    together = studio.draw(list(PROMPTS), np.array([3, 4]), arms)
    for index, scale in enumerate((0.0, 2.5)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnconditionalWarning)
            alone = studio.base(PROMPTS[index], guidance_scale=scale, seed=3 + index)
        np.testing.assert_allclose(together[index : index + 1], alone, atol=1e-5)


def test_a_trajectory_ends_with_the_image_of_the_sweep(studio):
    arm, seeds = Arm(settings={"guidance.scale": 3.0, "sampler": "ddim"}), np.array([3, 4])
    estimates, log_snr = studio.follow(list(PROMPTS), seeds, arm)
    assert len(estimates) == len(log_snr) == 4 and np.all(np.diff(log_snr) > 0)
    np.testing.assert_allclose(estimates[-1], draw(studio, arm.settings), atol=1e-5)


def as_written(studio, workdir, name):
    """The same images by what a user would write without a sweep."""
    base, prompts, seeds = studio.base, list(PROMPTS), [3, 4]
    by = {
        "guidance": "{'name': 'apg', 'scale': 30.0}",
        "guidance.interval": "{'name': 'cfg', 'scale': 30.0, 'interval': {'low': 0.5, 'high': 6.0}}",
        "guidance.rescale": "{'name': 'cfg', 'scale': 30.0, 'corrections': [{'name': 'rescale'}]}",
        "guidance.schedule": "{'name': 'cfg', 'scale': 30.0, 'schedule': {'name': 'power_cosine'}}",
    }
    if name in by:
        return difflax.runs.with_guidance(base, by[name], workdir)(prompts, seed=seeds)
    if name == "step":
        return difflax.runs.load(workdir, step=EARLY)(prompts, seed=seeds)
    if name == "null":
        null = jax.tree.map(np.zeros_like, base.model.null)
        model = dataclasses.replace(base.model, null=null)
        return dataclasses.replace(base, model=model)(prompts, seed=seeds)
    if name == "time_grid":
        defaults = dataclasses.replace(base.defaults, time_grid=Quadratic())
        return dataclasses.replace(base, defaults=defaults)(prompts, seed=seeds)
    arguments = {
        "guidance.scale": {"guidance_scale": 30.0},
        "sampler": {"sampler": DDIM(eta=0.5)},
        "num_steps": {"num_steps": 3},
        "negative_prompt": {"negative_prompt": "blurry"},
    }
    return base(prompts, seed=seeds, **arguments[name])


CHANGES = {
    "guidance": {"guidance": {"name": "apg", "scale": 30.0}},
    "guidance.interval": {
        "guidance": {"name": "cfg", "scale": 30.0},
        "guidance.interval": [0.5, 6.0, "sigma"],
    },
    "guidance.rescale": {"guidance": {"name": "cfg", "scale": 30.0}, "guidance.rescale": 0.7},
    "guidance.schedule": {
        "guidance": "cfg",
        "guidance.schedule": "power_cosine",
        "guidance.scale": 30.0,
    },
    "guidance.scale": {"guidance.scale": 30.0},
    "sampler": {"sampler": {"name": "ddim", "eta": 0.5}},
    "num_steps": {"num_steps": 3},
    "negative_prompt": {"negative_prompt": "blurry"},
    "null": {"null": "zeros"},
    "time_grid": {"time_grid": "quadratic"},
    "step": {"step": EARLY},
}
"""Of every axis a setting that changes the images; what changes the weights of a checkpoint is elsewhere."""


@pytest.mark.parametrize("name", CHANGES)
def test_an_axis_does_what_its_setting_does_without_a_sweep(studio, workdir, name):
    images = draw(studio, CHANGES[name])
    np.testing.assert_allclose(images, as_written(studio, workdir, name), atol=2e-5)
    assert np.abs(images - draw(studio, {})).max() > 1e-4


def test_every_axis_is_here_or_changes_the_weights_of_a_checkpoint():
    """An average's length needs a run that kept snapshots, see ``test_averages.py``."""
    assert set(SWEPT_AXES) - set(CHANGES) == {"model", "dtype", "ema", "lora", "lora_scale"}


def test_the_null_condition_of_each_text_encoder(tmp_path):
    """Stable Diffusion XL, whose encoders' states stand side by side: what is said of one changes its part
    alone; what is said of all alike is the whole.
    """
    folder = str(make_sdxl.build("base", tmp_path / "base"))
    base = difflax.from_pretrained(folder, variant="fp16", batch_size=2)
    studio = Studio(base=base, weights=Weights(source=folder), open=lambda weights: base, of_run=False)

    def null(value):
        arm = Arm(settings={"null": value})
        studio.check([arm])
        return studio.setup(arm).pipeline.model.null

    zeros, empty = null("zeros"), null("empty")
    first, second = (tower.width for tower in base.model.text_encoder.towers)
    mixed = null({"text_encoder_2": "zeros", "rest": "empty"})
    np.testing.assert_array_equal(mixed.context[..., :first], empty.context[..., :first])
    assert mixed.context.shape[-1] == first + second and not np.any(mixed.context[..., first:])
    assert np.any(empty.pooled) and not np.any(mixed.pooled)  # that of the second
    whole = null({"text_encoder": "empty", "text_encoder_2": "empty"})
    np.testing.assert_array_equal(whole.context, empty.context)
    assert not np.any(null({"rest": "zeros"}).context) and not np.any(zeros.context)
    with pytest.raises(
        UserError, match="no such text encoder: name some of text_encoder, text_encoder_2, rest"
    ):
        null({"clip_l": "zeros"})


def test_an_arm_without_interval_and_rescaling_is_the_plain_method(studio):
    plain = {"guidance": "cfg", "guidance.scale": 3.0}
    nothing = {"guidance.schedule": None, "guidance.interval": None, "guidance.rescale": None}
    same = draw(studio, {**plain, **nothing})
    np.testing.assert_allclose(same, draw(studio, plain), atol=1e-5)


def test_outside_the_interval_the_unconditional_half_is_skipped(studio):
    def asked(settings):
        return evaluations_of(studio.call(Arm(settings={"num_steps": 4, "sampler": "ddim", **settings})))

    cfg = {"guidance": "cfg", "guidance.scale": 2.0}
    assert asked(cfg) == asked({**cfg, "guidance.interval": None}) == 8
    assert asked({**cfg, "guidance.interval": [1, 2, "step"]}) == 6
    assert asked({**cfg, "guidance.interval": [0, 0, "sigma"]}) == 4
    assert asked({"guidance": "none"}) == 4
    assert asked({**cfg, "sampler": "heun"}) == 14  # the last step of Heun's is Euler's
    assert asked({"guidance": {**WEAK, "scale": 2.0}}) == 8


def test_a_table_of_scales_is_swept_without_a_scale(studio):
    bands = {"name": "bands", "edges": [0.0], "scales": [3.0, 3.0]}
    of_bands = draw(studio, {"guidance": "cfg", "guidance.schedule": bands})
    np.testing.assert_allclose(of_bands, draw(studio, {"guidance": "cfg", "guidance.scale": 3.0}), atol=1e-5)
    arms = [Arm(settings={"guidance.schedule": bands}), Arm(settings={"guidance.schedule": "linear"})]
    assert cost(studio, arms, images=2).programs == 1
    scaled = Arm(settings={"guidance.schedule": "linear", "guidance.scale": 2.0})
    assert cost(studio, [*arms, scaled], images=2).programs == 2  # its scales come with the images
    with pytest.raises(UserError, match="has the scale of every noise level"):
        draw(studio, {"guidance.schedule": bands, "guidance.scale": 3.0})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sweep.guidance.schedule=linaer"], "did you mean 'linear'"),
        (["--sweep.guidance.schedule=(1,2)"], "give none, a name of constant"),
        (["--sweep.null={'text_encoder': 'zeroes'}"], "did you mean 'zeros'"),
        (["--sweep.null={'text_encoder_2': 'zeros'}"], "no such text encoder"),
        (["--sweep.guidance.scal=1"], "did you mean 'guidance.scale'"),
        (["--sweep.guidance.scale="], "no value is given"),
        (["--sweep.guidance.scale=1;x"], "give a finite number"),
        (["--sweep.guidance.scale=1,2"], "give a finite number"),
        (["--sweep.guidance.scale=1;2;1.0"], "guidance.scale: 1 is there twice"),
        (["--sweep.guidance.scale=1", "--guidance_scales=2"], "give one of them"),
        (["--sweep.guidance.interval=(3,1)"], "exceeds the upper one"),
        (["--sweep.guidance.interval=(1,2,seconds)"], "is unknown"),
        (["--sweep.guidance.rescale=1.5"], r"must lie in \[0, 1\]"),
        (["--sweep.guidance=cgf"], "did you mean 'cfg'"),
        (["--sweep.guidance={'name': 'cfg', 'scal': 3}"], "did you mean 'scale'"),
        (["--sweep.sampler=ddmi"], "is unknown"),
        (["--sweep.sampler=7"], "give a name of"),
        (["--sweep.time_grid=karas"], "is unknown"),
        (["--sweep.num_steps=1.5"], "whole number"),
        (["--sweep.negative_prompt=7"], "double quotes"),
        (["--sweep.null=ones"], "is unknown"),
        (["--sweep.num_steps=3", "--design=random"], "--arms=20"),
        (["--sweep.num_steps=3", "--arms=2"], "--design=random"),
        (["--sweep.num_steps=3;4", "--design=random", "--arms=3"], "the grid has 2 arms"),
        (["--sweep.guidance=none", "--sweep.guidance.scale=2"], "has no scale"),
        (["--sweep.guidance=autoguidance"], "the worse model to go away from"),
        (["--sweep.step=4"], r"has kept \[3, 6\]"),
        (["--sweep.dtype=bfloat16"], "of --pretrained"),
        (["--sweep.lora=nowhere.safetensors"], "no such file"),
        (["--sweep.model=nowhere"], "no such folder"),
        (["--sweep=nowhere.json"], "nowhere.json"),
    ],
)
def test_what_cannot_be_swept_is_one_line_before_anything_is_drawn(workdir, tmp_path, flags, message):
    output = tmp_path / "out"
    status, _, errors = command("ablate", f"--workdir={workdir}", f"--output={output}", *flags)
    assert status == 2 and errors.count("\n") == 1, errors
    assert re.search(message, errors), errors
    assert not list(output.rglob("*.npz"))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, 'either "axes" or "arms"'),
        ({"axes": {}, "arms": []}, 'either "axes" or "arms"'),
        ({"axis": {}}, "did you mean 'axes'"),
        ({"axes": {"sampler": "ddim;heun"}, "seed": -1}, "must be a whole number"),
        ({"axes": {"sampler": ["ddim", "ddim"]}}, "is there twice"),
        ({"axes": {"sampler": 3}}, "give a list of values"),
        ({"axes": ["sampler"]}, "no mapping of names"),
        ({"axes": {"sampler": "ddim"}, "design": "gird"}, "did you mean 'grid'"),
        ({"axes": {"null": [3]}, "design": "grid"}, "'3' is unknown"),
        ({"axes": {"guidance.interval": [[1, 2, 3]]}}, "'3' is unknown"),
        ({"arms": []}, "no arms"),
        ({"arms": [3]}, "no list of mappings"),
        ({"arms": [{"sampler": "ddim"}, {"sampler": "ddim"}]}, "is there twice"),
        ({"arms": [{"samplr": "ddim"}]}, r"arms\[0\]: samplr"),
        ({"arms": [{"num_steps": 3}], "design": "grid"}, "the whole design"),
    ],
)
def test_files_that_are_no_sweep_are_refused(tmp_path, document, message):
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=message):
        read_arms({}, file=path)


def test_a_file_names_axes_or_arms(tmp_path):
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps({"axes": {"guidance.scale": "1:2:0.5", "sampler": ["ddim"]}}))
    arms = read_arms({"num_steps": "3;4"}, file=path)
    assert len(arms) == 6 and arms[0].settings == {"guidance.scale": 1.0, "sampler": "ddim", "num_steps": 3}
    own = [{"guidance": "cfg", "guidance.scale": 2.0}, {"guidance": "apg"}]
    path.write_text(json.dumps({"arms": own}))
    assert [arm.settings for arm in read_arms({}, file=path)] == own
    with pytest.raises(UserError, match="whole design"):
        read_arms({"num_steps": "3"}, file=path)


def test_the_command_draws_measures_and_reports(workdir, tmp_path):
    flags = ("--sweep.guidance.scale=1;3", "--sweep.num_steps=2", "--seeds=1", "--trajectories=1")
    flags = ("ablate", f"--workdir={workdir}", f"--output={tmp_path / 'out'}", *flags)
    status, said, errors = command(*flags, "--dry_run")
    assert status == 0, errors
    assert "arms: 2 (" in said and "programs to compile: 1\n" in said
    assert not list((tmp_path / "out").rglob("*"))
    status, said, errors = command(*flags)
    assert status == 0, errors
    assert "prompt accuracy of 2 arms" in said
    rows = list(csv.DictReader((tmp_path / "out" / "table.csv").open()))
    assert {(row["guidance.scale"], row["num_steps"]) for row in rows} == {("1", "2"), ("3", "2")}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "How the images come about" in page and "step: 2 of 2\nlog-SNR:" in page
