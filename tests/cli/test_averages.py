"""``--ema_length``: pictures by an average of a length that is chosen after training."""

import difflax
import jax
import numpy as np
import pytest
from difflax.config.files import read_workdir
from difflax.evaluation.ablation.arms import Arm
from difflax.runs.arms import Studio
from difflax.runs.axes import Weights
from difflax.training.runtime.checkpoints import Checkpoints
from PIL import Image

from tests.runs import command, small_run

# On one worker, so that what the tests share is made once.
pytestmark = pytest.mark.xdist_group("averages")

KEPT = ("--config.ema.profiles=(0.05, 0.1)", "--config.ema.snapshot_every=2")
PROMPT = "a large red circle"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, clip_folder):
    made = tmp_path_factory.mktemp("run") / "run"
    status, _, errors = command(*small_run(clip_folder, made, *KEPT, steps=6))
    assert status == 0, errors
    return made


@pytest.fixture(scope="module")
def kept(workdir):
    """The averages of the last step as its checkpoint has them, by their lengths."""
    abstract = read_workdir(workdir).network.abstract()
    checkpoints = Checkpoints(workdir / "checkpoints")
    profiles = checkpoints.restore_part("profiles", (abstract, abstract))
    checkpoints.close()
    return dict(zip((0.05, 0.1), profiles, strict=True))


def close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)


@pytest.mark.parametrize("length", [0.05, 0.1])
def test_a_length_that_was_kept_is_loaded_as_it_was(length, workdir, kept):
    model = difflax.load(str(workdir), ema_length=length).model
    assert model.step == 6
    close(model.params, kept[length])


def test_the_weak_model_of_autoguidance_has_a_length_of_its_own(workdir, kept):
    section = "{'name': 'autoguidance', 'weak': {'ema_length': 0.1}}"
    pipeline = difflax.with_guidance(difflax.load(str(workdir), ema_length=0.05), section, str(workdir))
    close(pipeline.model.params, kept[0.05])
    close(pipeline.model.weak_params, kept[0.1])


def test_pictures_say_the_length(workdir, tmp_path):
    pictures = []
    for name, more in (("own", []), ("other", ["--ema_length=0.08"])):
        output = tmp_path / name
        status, _, errors = command(
            "sample", f"--workdir={workdir}", f"--prompt={PROMPT}", f"--output={output}", *more
        )
        assert status == 0, errors
        pictures.append(Image.open(output / "0000_seed0.png"))
    own, other = pictures
    assert other.text["ema_length"] == "0.08" and "ema_length" not in own.text
    assert np.any(np.asarray(own) != np.asarray(other))


def test_a_sweep_over_lengths_draws_what_each_length_draws(workdir):
    source = str(workdir)

    def open_weights(weights):
        return difflax.runs.load(weights.source, step=weights.step, ema_length=weights.ema_length)

    base = difflax.load(source)
    studio = Studio(base=base, weights=Weights(source=source), open=open_weights, of_run=True)
    arms = [Arm(settings={"ema": length}) for length in (None, 0.08)]
    studio.check(arms)
    own, other = (studio.draw([PROMPT], np.array([3]), [arm]) for arm in arms)
    np.testing.assert_allclose(own, base(PROMPT, seed=3), atol=1e-6)
    np.testing.assert_allclose(other, difflax.load(source, ema_length=0.08)(PROMPT, seed=3), atol=1e-6)
    assert np.any(own != other)


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--sweep.ema=0.3", "ema = 0.3 must be positive and at most 0.28"),
        ("--sweep.ema=0.08", "has no snapshots of power-function averages"),
    ],
)
def test_a_sweep_over_lengths_that_there_are_not(flag, says, tmp_path):
    status, _, errors = command("ablate", "--workdir=embedded", flag, f"--output={tmp_path / 'out'}")
    assert status == 2 and says in errors and errors.strip().count("\n") == 0, errors


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--workdir=embedded", "--ema_length=0.08"], "has no snapshots of power-function averages"),
        (["--pretrained=nowhere", "--ema_length=0.08"], "--ema_length: a checkpoint has one set of weights"),
        (["--workdir=embedded", "--ema_length=0.3"], "--ema_length = 0.3 must be positive and at most 0.28"),
    ],
)
def test_a_length_that_there_is_not(more, says, tmp_path):
    status, _, errors = command("sample", *more, f"--prompt={PROMPT}", f"--output={tmp_path / 'out'}")
    assert status == 2 and says in errors and errors.strip().count("\n") == 0, errors
