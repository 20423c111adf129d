"""Workdirs: what earlier versions wrote still opens, and a config is parsed once."""

import contextlib
import json
import pathlib
import shutil
import sys

import difflax
import numpy as np
import pytest
from difflax.config import experiments, files
from difflax.config.experiments import parse
from difflax.core.types import UserError

from tests.config.test_resolve import EARLIER, STORED
from tests.runs import command
from tests.runs import small_run as small_run_of_today

# On one worker, so that what the tests share is made once.
pytestmark = pytest.mark.xdist_group("workdirs")


def small_run(clip, workdir, *more, steps):
    """Of the config as it was then, which had two levels."""
    own = ("--config.model.block_out_channels=(16,16)", "--config.training.checkpoint_every=4")
    return small_run_of_today(clip, workdir, *own, *more, steps=steps, folder=EARLIER)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, clip_folder):
    """A run of eight steps that was never stopped, and how often its config became an experiment."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    with counted_parses() as parses:
        status, _, errors = command(*small_run(clip_folder, workdir, steps=8))
    assert status == 0, errors
    return workdir, len(parses)


@pytest.fixture(scope="module")
def whole(trained):
    return trained[0]


@contextlib.contextmanager
def counted_parses():
    """The configs that become experiments in the block."""
    counted = []

    def counting(config, workdir=None):
        counted.append(workdir)
        return experiments.parse(config, workdir)

    with pytest.MonkeyPatch.context() as patch:
        for module in (sys.modules["difflax.runs.train"], files):
            patch.setattr(module, "parse", counting)
        yield counted


def earlier(workdir, clip_folder):
    """``config.json`` of that run as commit ca6f114 wrote it: what its file and overrides set, no more; but
    for its data, which are those of today.
    """
    stored = json.loads(json.dumps(STORED["shapes.py"]))
    now = json.loads((workdir / "config.json").read_text())

    def follow(old, new):
        for key, value in old.items():
            if isinstance(value, dict):
                follow(value, new[key])
            else:
                old[key] = new[key]

    follow(stored, now)
    stored["data"] = now["data"]
    assert len(json.dumps(stored)) < 0.6 * len(json.dumps(now))
    assert "log_every" in stored["training"] and "keep_best" not in stored["training"]
    return stored


def test_a_run_of_an_earlier_version_goes_on_samples_and_is_measured(whole, clip_folder, tmp_path):
    """It ends as the run that was never stopped, bit for bit."""
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    shutil.rmtree(workdir / "checkpoints" / "step_8")  # as if it had been stopped after the fourth
    old = earlier(workdir, clip_folder)
    (workdir / "config.json").write_text(json.dumps(old))
    prompt = "a large red circle in the top left"
    assert difflax.load(str(workdir))(prompt, num_steps=2).shape == (1, 32, 32, 3)
    status, _, errors = command(
        *("evaluate", f"--workdir={workdir}", f"--output={tmp_path / 'out'}", "--seeds=1", "--num_steps=2")
    )
    assert status == 0, errors
    assert command(*small_run(clip_folder, workdir, steps=8))[0] == 0
    again, unstopped = difflax.load(str(workdir)), difflax.load(str(whole))
    assert again.model.step == unstopped.model.step == 8
    np.testing.assert_array_equal(*(p(prompt, num_steps=2) for p in (again, unstopped)))


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"one_object_fraction": 0.75, "data_seed": 0, "data_dir": None},
    ],
)
def test_a_run_on_the_scenes_of_an_earlier_version_makes_images_and_no_more(
    fields, whole, clip_folder, tmp_path
):
    """Its network knows nothing of the data; its measures and its training would be of other ones."""
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    now = json.loads((workdir / "config.json").read_text())
    data = {"name": "shapes", "train": 96, "test": 64, "held_out": 64, **fields}
    old = {**now, "data": data}
    (workdir / "config.json").write_text(json.dumps(old))
    assert files.other_config(old, files.resolved_values(workdir)) == ""  # as its checkpoints have it
    one, other = (difflax.load(str(folder))("a red circle", num_steps=2) for folder in (workdir, whole))
    np.testing.assert_array_equal(one, other)
    for arguments, says in (
        (["evaluate", f"--workdir={workdir}", f"--output={tmp_path / 'out'}", "--seeds=1"], "are gone"),
        (small_run(clip_folder, workdir, steps=8), "with another config"),
    ):
        status, _, errors = command(*arguments)
        assert status == 2 and says in errors and errors.strip().count("\n") == 0, errors


def test_defaults_of_fields_that_the_stored_config_has_not_are_no_other_config(whole, clip_folder, tmp_path):
    """Other values of theirs are."""
    old = earlier(whole, clip_folder)
    (tmp_path / "config.json").write_text(json.dumps(old))
    other = {**old, "optimizer": {**old["optimizer"], "clip_norm": 2.0}}
    with pytest.raises(UserError, match=r"another config \(optimizer.clip_norm: 1.0 there, 2.0 here\)"):
        files.claim_workdir(tmp_path, parse(other))
    files.claim_workdir(tmp_path, parse({**old, "sampler": {"name": "heun"}}))  # nothing that is trained
    files.claim_workdir(tmp_path, parse(old))
    assert json.loads((tmp_path / "config.json").read_text()) == parse(old).resolved


def test_a_config_is_parsed_once_in_training_and_once_in_loading(trained):
    workdir, in_training = trained
    assert in_training == 1
    with counted_parses() as parses:
        difflax.load(str(workdir))
    assert len(parses) == 1


@pytest.mark.parametrize(("text", "says"), [("{", "is not valid JSON"), ("[]", "holds no mapping")])
def test_a_stored_config_that_is_damaged(text, says, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=says) as refused:
        files.read_workdir(tmp_path)
    assert "config.json" in str(refused.value) and "\n" not in str(refused.value)


def test_nothing_below_parsing_takes_a_config():
    """But for the room that makes objects of it, only the doors that parse know what a `ConfigDict` is."""
    house = pathlib.Path(difflax.__file__).parent
    sources = {path.relative_to(house).as_posix(): path.read_text() for path in house.rglob("*.py")}
    knows = {name for name, text in sources.items() if "ml_collections" in text}
    assert {name for name in knows if not name.startswith("config/")} == {"runs/train.py", "runs/plan.py"}
