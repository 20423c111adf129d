"""The model that comes with difflax: made of a run, opened by name, refused where missing or damaged."""

import dataclasses
import json
import shutil
import subprocess
import sys
import zipfile

import difflax
import jax
import ml_dtypes
import numpy as np
import pytest
from difflax import runs
from difflax.config import embedded
from difflax.core.types import UserError
from difflax.runs import embedded as making
from difflax.runs.diffusion import clip_folder
from difflax.training.runtime.averages import trained_weights
from etils import epath

from tests.runs import ROOT, command, contents, small_run

# On one worker, so that the run is trained once.
pytestmark = pytest.mark.xdist_group("embedded")

PROMPTS = ["a circle", "a red shape"]
EARLY, LAST = 3, 6


@pytest.fixture(scope="module")
def run(tmp_path_factory, clip_folder):
    """The workdir of a small run with an early checkpoint."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    every = f"--config.training.checkpoint_every={EARLY}"
    status, _, errors = command(*small_run(clip_folder, workdir, every, steps=LAST))
    assert status == 0, errors
    return workdir


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    """The shipped model that is made of it."""
    place = tmp_path_factory.mktemp("package") / "embedded"
    making.make_embedded(run, place, command="difflax train …", early=EARLY)
    return place


@pytest.fixture
def shipped(folder, monkeypatch):
    """As if it had come with this installation."""
    monkeypatch.setattr(embedded, "SHIPPED", epath.Path(folder))
    return folder


def rounded(params):
    """The parameters as bfloat16 holds them, in their own type."""
    return jax.tree.map(lambda a: a.astype(ml_dtypes.bfloat16).astype(a.dtype), params)


def test_images_are_those_of_the_run_with_its_weights_rounded(run, shipped):
    """Bit for bit: nothing else is lost on the way."""
    trained = difflax.load(str(run))
    model = trained.model
    encoder = dataclasses.replace(model.text_encoder, params=rounded(model.text_encoder.params))
    model = dataclasses.replace(model, params=rounded(model.params), text_encoder=encoder)
    other = dataclasses.replace(trained, model=model)
    opened = difflax.load("embedded")
    assert opened.model.step == LAST
    asked = {"num_steps": 2, "seed": [1, 2], "guidance_scale": 2.0}
    made = opened(PROMPTS, **asked)
    np.testing.assert_array_equal(made, other(PROMPTS, **asked))
    assert np.abs(made - trained(PROMPTS, **asked)).max() > 0


def test_the_early_checkpoint_is_the_worse_model_of_autoguidance(run, shipped, tmp_path):
    guidance = f"{{'name': 'autoguidance', 'scale': 2.0, 'weak': {{'step': {EARLY}}}}}"
    model = difflax.with_guidance(difflax.load("embedded"), guidance, "embedded").model
    weak = model.weak
    assert weak.network is None  # it is the model's own, which is not compiled twice
    weights = trained_weights(epath.Path(run))
    early = weights.restore_params(model.network.abstract(), EARLY)
    weights.close()
    jax.tree.map(np.testing.assert_array_equal, weak.params, rounded(early))
    prompts = [f"--prompt={prompt}" for prompt in PROMPTS]
    asked = ["--workdir=embedded", f"--guidance={guidance}", "--num_steps=2", *prompts]
    status, out, errors = command("sample", *asked, "--trajectory", f"--output={tmp_path / 'out'}")
    assert status == 0, errors
    assert (tmp_path / "out" / "trajectory.png").exists() and "2 images" in out


def test_another_run_may_take_it_as_its_worse_model(run, shipped):
    guidance = "{'name': 'autoguidance', 'scale': 2.0, 'weak': {'workdir': 'embedded'}}"
    found = difflax.with_guidance(difflax.load(str(run)), guidance, str(run)).model.weak.params
    jax.tree.map(np.testing.assert_array_equal, found, difflax.load("embedded").model.params)


def test_it_is_measured_by_its_own_protocol(shipped, tmp_path):
    """And nothing is written into it."""
    before, output = contents(shipped), tmp_path / "out"
    status, out, errors = command(
        "ablate", "--workdir=embedded", "--guidance_scales=1", "--seeds=1", "--num_steps=2",
        f"--output={output}",
    )  # fmt: skip
    assert status == 0, errors
    assert "prompt accuracy" in out
    found = json.loads((output / "results.json").read_text())
    assert found["provenance"]["checkpoint"] == f"embedded, step {LAST}, averaged parameters"
    assert contents(shipped) == before


@pytest.mark.slow
def test_a_model_that_shows_nothing_decides_nothing(shipped, tmp_path):
    """All files are there, and the command says that the judge could read nothing."""
    output = tmp_path / "out"
    small = ["--seeds=1", "--restarts=2", "--points=3", "--num_steps=4"]
    asked = ["--prompt=a circle", "--prompt=a star", f"--output={output}"]
    status, out, errors = command("decisions", "--workdir=embedded", *small, *asked)
    assert status == 0, errors
    assert "shows nothing yet" in out
    found = json.loads((output / "decisions.json").read_text())
    assert found["steps"] == [0, 2, 3] and found["factors"] == {}
    names = {path.name for path in output.iterdir()}
    assert names == {*(f"decisions.{kind}" for kind in ("csv", "json", "svg", "png")), "restarts.png"}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--sampler=ddim", "--prompt=a circle"], "sampler ddim: it adds no noise"),
        (["--prompt=a photograph"], "a photograph"),
    ],
)
def test_decisions_that_cannot_be_measured(flags, says, shipped, tmp_path):
    small = ["--seeds=1", "--restarts=2", "--points=3", "--num_steps=4", f"--output={tmp_path / 'out'}"]
    status, _, errors = command("decisions", "--workdir=embedded", *small, *flags)
    assert status == 2 and says in errors and errors.count("\n") == 1


def test_results_come_beside_it(folder, tmp_path, monkeypatch):
    copy = tmp_path / "embedded"
    shutil.copytree(folder, copy)
    (tmp_path / "found.json").write_text('{"accuracy": 0.5}')
    making.store_results(copy, tmp_path / "found.json")
    monkeypatch.setattr(embedded, "SHIPPED", epath.Path(copy))
    stored = embedded.find_workdir("embedded") / "results.json"
    assert json.loads(stored.read_text()) == {"accuracy": 0.5}


def test_what_it_says_of_itself(run, shipped):
    """The record's last line is the run's, the time is that of all its steps, and its CLIP may be used."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    kept = (shipped / "metrics.jsonl").read_text().splitlines()
    assert json.loads(kept[-1]) == json.loads(lines[-1])
    hours = sum(json.loads(line)["step_seconds"] for line in lines) / 3600
    assert f"{hours:.2g} hours" in (shipped / "README.md").read_text()
    assert clip_folder("embedded", "config.text_encoder.path") == shipped / "clip"
    assert str(run.parent) not in (shipped / "config.json").read_text()


def test_a_long_record_keeps_its_ends(run, tmp_path):
    rows = [{"step": 10 * (i + 1), "step_seconds": 0.5, "loss": 1.0} for i in range(1000)]
    (tmp_path / "run").mkdir()
    making._write_record(rows, epath.Path(tmp_path / "run"))
    kept = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(kept) == making.RECORD_LINES and kept[0] == rows[0] and kept[-1] == rows[-1]
    assert making._hours(rows) == pytest.approx(10_000 * 0.5 / 3600)


def test_clip_is_left_out_where_it_does_not_fit_and_a_model_that_does_not_is_refused(
    run, folder, tmp_path, monkeypatch
):
    sizes = {name: len(data) for name, data in contents(folder).items()}
    features = sum(size for name, size in sizes.items() if name.startswith("clip/"))
    monkeypatch.setattr(making, "MOST_BYTES", sum(sizes.values()) - sizes["manifest.json"] - 1)
    made = making.make_embedded(run, tmp_path / "one", command="difflax train …", early=EARLY)
    assert not made.features and not (tmp_path / "one" / "clip").exists()
    monkeypatch.setattr(making, "MOST_BYTES", making.MOST_BYTES - features - 1000)
    with pytest.raises(UserError, match="leave the early checkpoint out"):
        making.make_embedded(run, tmp_path / "two", command="difflax train …", early=EARLY)
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize("early", [LAST, LAST + 1, 2])
def test_an_early_checkpoint_that_is_none(early, run, tmp_path):
    with pytest.raises(UserError, match=f"step {early}"):
        making.make_embedded(run, tmp_path / "one", command="difflax train …", early=early)
    assert not (tmp_path / "one").exists()


def test_nothing_is_trained_in_it(shipped, clip_folder):
    before = contents(shipped)
    status, _, errors = command(*small_run(clip_folder, "embedded"))
    assert status == 2 and "only read" in errors and errors.count("\n") == 1
    assert contents(shipped) == before


DOORS = {
    "sample": ["--prompt=a circle"],
    "ablate": [],
    "evaluate": [],
    "convert": [],
}


@pytest.mark.parametrize("door", DOORS)
def test_an_installation_without_one(door, tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "SHIPPED", epath.Path(tmp_path / "none"))
    output = f"--output={tmp_path / 'out'}"
    status, _, errors = command(door, "--workdir=embedded", output, *DOORS[door])
    assert status == 2 and "this installation has no 'embedded' model" in errors and errors.count("\n") == 1


def test_a_folder_of_that_name_is_another(run, tmp_path, monkeypatch):
    """It is written ./embedded, or given as a path."""
    (tmp_path / "embedded").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embedded, "SHIPPED", epath.Path(tmp_path / "none"))
    assert difflax.load("./embedded").model.step == LAST
    with pytest.raises(UserError, match="no 'embedded' model"):
        difflax.load("embedded")


DAMAGED = ("config.json", "text_encoder/model.safetensors", f"averages/step_{LAST}/parameters.safetensors")


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("missing", [False, True])
def test_a_damaged_one(name, missing, folder, tmp_path, monkeypatch):
    copy = tmp_path / "embedded"
    shutil.copytree(folder, copy)
    if missing:
        (copy / name).unlink()
    else:
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / name).write_bytes(data)
    monkeypatch.setattr(embedded, "SHIPPED", epath.Path(copy))
    with pytest.raises(UserError, match=r"is damaged .*install difflax again") as refused:
        difflax.load("embedded")
    assert name in str(refused.value) and "\n" not in str(refused.value)


def test_a_wheel_has_all_of_it(folder, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "difflax", source / "difflax", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(source / "difflax" / "embedded", ignore_errors=True)
    shutil.copytree(folder, source / "difflax" / "embedded")
    made = tmp_path / "made"
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, f"--wheel-dir={made}", str(source)], check=True, capture_output=True)
    (wheel,) = made.glob("difflax-*.whl")
    packed = {name: zipfile.ZipFile(wheel).read(name) for name in zipfile.ZipFile(wheel).namelist()}
    for name, data in contents(folder).items():
        assert packed[f"difflax/embedded/{name}"] == data


def test_some_of_its_groups_with_as_many_prompts_as_are_asked_for():
    groups = runs.evaluation("embedded", 3, ["counting", "one object, seen"])[3]
    assert [group.name for group in groups] == ["counting", "one object, seen"]
    assert all(len(group.prompts) == 3 for group in groups)


def test_a_group_that_is_not_there_is_one_line(tmp_path):
    flags = ("--workdir=embedded", f"--output={tmp_path}", "--group=one object", "--guidance_scales=1")
    status, _, errors = command("ablate", *flags)
    assert status == 2
    assert "--group='one object' is unknown" in errors and "one object, seen" in errors
