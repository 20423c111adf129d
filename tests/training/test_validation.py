"""The validation loss against closed forms of Gaussian data, and against NumPy with the noise drawn apart."""

import dataclasses
import json
import shutil
import zlib

import difflax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.config.experiments import parse
from difflax.config.files import read_workdir
from difflax.core.types import Conditioning, UserError
from difflax.diffusion.denoisers import NetworkInput
from difflax.diffusion.loss.losses import MeanSquared
from difflax.diffusion.loss.time_samplers import Uniform
from difflax.diffusion.loss.weightings import Constant
from difflax.diffusion.predictions import PREDICTIONS
from difflax.diffusion.schedules import SCHEDULES, ContinuousCosine
from difflax.models.autoencoder import AUTOENCODERS
from difflax.models.functional import functional
from difflax.parallel.sharding import MeshShape
from difflax.runs.diffusion import prepare_diffusion
from difflax.training.objectives.denoising import Denoising
from difflax.training.state import TrainState
from difflax.training.validation import Validation
from etils import epath
from flax import nnx

from tests.runs import command, small_run

# On one worker, so that what the tests share is made once.
pytestmark = pytest.mark.xdist_group("validation")

MEAN, SPREAD, COUNT, SHAPE = 0.3, 0.5, 4096, (4, 4, 1)


def weights(kind, alpha, sigma, dots):
    """(a, b) of a network's output ``a x0 + b eps``, written down again."""
    return {"x0": (1, 0), "epsilon": (0, 1), "v": (-sigma, alpha), "flow_velocity": dots}[kind]


SCALES = {
    "rectified_flow": lambda t: (1 - t, t, (-1.0, 1.0)),
    "cosine": lambda t: (np.cos(np.pi / 2 * t), np.sin(np.pi / 2 * t), None),
}


class Posterior(nnx.Module):
    """The mean of the output given the noisy picture, exactly, times a parameter that is 1."""

    def __init__(self, kind, rngs):
        self.kind, self.factor = kind, nnx.Param(jnp.ones(()))

    def __call__(self, x, t, conditioning, dropout_key=None):
        t = t[:, None, None, None]
        if self.kind == "flow_velocity":
            alpha, sigma, a, b = 1 - t, t, -1.0, 1.0
        else:
            alpha, sigma = jnp.cos(jnp.pi / 2 * t), jnp.sin(jnp.pi / 2 * t)
            a, b = weights(self.kind, alpha, sigma, None)
        gain = (x - alpha * MEAN) / (alpha**2 * SPREAD**2 + sigma**2)
        return self.factor[...] * (a * (MEAN + alpha * SPREAD**2 * gain) + b * sigma * gain)


def denoising(kind, schedule):
    return Denoising(
        model=functional(lambda rngs: Posterior(kind, rngs)),
        autoencoder=AUTOENCODERS["identity"](channels=1),
        schedule=ContinuousCosine() if schedule == "cosine" else SCHEDULES[schedule](),
        prediction_type=PREDICTIONS[kind](),
        time_sampler=Uniform(),
        weighting=Constant(),
        penalty=MeanSquared(),
        network_input=NetworkInput(time_scale=1.0),
        caption_dropout=0.5,  # of which a validation loss knows nothing
        null=Conditioning(context=jnp.ones((1, 1, 1))),
    )


@pytest.fixture(scope="module")
def latents():
    return np.random.default_rng(0).normal(MEAN, SPREAD, (COUNT, *SHAPE)).astype(np.float32)


def measured(options, objective, latents, size=512, factor=1.0):
    losses = options.losses(objective, MeshShape().make())
    params = {"factor": jnp.float32(factor)}
    for first in range(0, len(latents), size):
        rows = np.arange(first, min(first + size, len(latents)), dtype=np.int32)
        told = Conditioning(context=jnp.zeros((len(rows), 1, 1)))
        batch = {"latent": jnp.asarray(latents[rows]), "conditioning": told}
        yield np.asarray(losses(params, batch, jnp.asarray(rows), None)), rows


@pytest.mark.parametrize("every_time", [False, True])
@pytest.mark.parametrize(
    ("kind", "schedule", "space"),
    [
        ("flow_velocity", "rectified_flow", None),
        ("epsilon", "cosine", None),
        ("v", "cosine", "x0"),
    ],
)
def test_the_exact_posterior_mean_leaves_the_posterior_variance(kind, schedule, space, every_time, latents):
    """``Var(a x0 + b eps | x_t) = (a sigma - b alpha)^2 s^2 / (alpha^2 s^2 + sigma^2)``, s^2 that of x0."""
    options = Validation(every=1, every_time=every_time, loss_space=space)
    found = options.means(measured(options, denoising(kind, schedule), latents))
    values = COUNT * np.prod(SHAPE) / (1 if every_time else len(options.times))
    expected = []
    for t in options.times:
        alpha, sigma, dots = SCALES[schedule](t)
        a, b = weights(space or kind, alpha, sigma, dots)
        variance = (a * sigma - b * alpha) ** 2 * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
        # A mean of squares of normal numbers, to within four of its standard deviations.
        assert found[f"validation_loss_at_{t:g}"] == pytest.approx(
            variance, rel=4 * np.sqrt(2 / values), abs=1e-6
        )
        expected.append(variance)
    assert found["validation_loss"] == pytest.approx(np.mean(expected), rel=4 * np.sqrt(2 / values))
    assert len(found) == 9


def noise(row, place, shape, seed=0):
    """Of an example at a time, by the streams as they are described: seed, name, place in the split, time."""
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(b"validation"))
    for part in (row, place, zlib.crc32(b"noise")):
        key = jax.random.fold_in(key, part)
    return np.asarray(jax.random.normal(key, shape), np.float64)


@pytest.mark.parametrize("every_time", [False, True])
def test_it_is_what_numpy_says(every_time, latents):
    """Of a network that is wrong; and whatever the size of the batches."""
    few = latents[:45]
    options = Validation(every=1, every_time=every_time, times=(0.1, 0.5, 0.9), seed=7)
    squares = {t: [] for t in options.times}
    for row, x0 in enumerate(few.astype(np.float64)):
        for place, t in enumerate(options.times):
            if not every_time and row % 3 != place:
                continue
            eps = noise(row, place, SHAPE, seed=7)
            x_t = (1 - t) * x0 + t * eps
            gain = (x_t - (1 - t) * MEAN) / ((1 - t) ** 2 * SPREAD**2 + t**2)
            made = 1.2 * (t * gain - MEAN - (1 - t) * SPREAD**2 * gain)
            squares[t].append(np.mean((made - (eps - x0)) ** 2))
    at = {f"validation_loss_at_{t:g}": np.mean(values) for t, values in squares.items()}
    at["validation_loss"] = np.mean(list(at.values()))
    for size in (45, 16, 1):
        losses = measured(options, denoising("flow_velocity", "rectified_flow"), few, size, 1.2)
        assert options.means(losses) == pytest.approx(at, rel=1e-5)


VALIDATED = ("--config.validation.every=2", "--config.data.test=20")


@pytest.fixture(scope="module")
def run(tmp_path_factory, clip_folder):
    """The workdir of a run of five steps that measures after the second, fourth and fifth."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    status, _, errors = command(*small_run(clip_folder, workdir, *VALIDATED, steps=5))
    assert status == 0, errors
    return workdir


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").open()]


def test_a_run_logs_it_as_its_own_model_has_it(run):
    """Each test image alone, through the network that the workdir holds: it predicts v on the cosine."""
    rows = {row["step"]: row for row in lines(run) if "validation_loss" in row}
    assert list(rows) == [2, 4, 5]
    experiment, model = read_workdir(run), difflax.load(str(run)).model
    network, records = model.network.module(model.params), experiment.data.split("test")
    squares = [[] for _ in range(8)]
    for row in range(20):
        place, record = row % 8, records[row]
        images = jnp.asarray(record.image[None], jnp.float32) / 127.5 - 1
        x0 = np.asarray(model.autoencoder.encode({}, images), np.float64)
        told = experiment.model.reading(model.text_encoder.encode([record.caption]))
        for kind in model.conditions:
            frame = {
                "original_size": np.array([record.image.shape[:2]], np.int32),
                "corner": np.zeros((1, 2), np.int32),
            }
            told = kind.of_batch(told, frame, record.image.shape[:2])
        eps, t = noise(row, place, x0.shape[1:])[None], place / 8
        alpha, sigma, _ = SCALES["cosine"](t)
        out = network(jnp.float32(alpha * x0 + sigma * eps), jnp.float32([1000 * t]), told)
        squares[place].append(np.mean((np.asarray(out) - (alpha * eps - sigma * x0)) ** 2))
    means = [np.mean(values) for values in squares]
    assert rows[5]["validation_loss"] == pytest.approx(np.mean(means), rel=1e-4)
    for place, mean in enumerate(means):
        assert rows[5][f"validation_loss_at_{place / 8:g}"] == pytest.approx(mean, rel=1e-4)


def losses(workdir):
    return [{k: v for k, v in row.items() if "loss" in k} for row in lines(workdir)]


@pytest.fixture(scope="module")
def unvalidated(tmp_path_factory, clip_folder):
    """The same run without, stopped after three steps."""
    workdir = tmp_path_factory.mktemp("unvalidated") / "run"
    status, _, errors = command(*small_run(clip_folder, workdir, *VALIDATED[1:], steps=5), "--stop_at=3")
    assert status == 0, errors
    return workdir


def test_it_changes_nothing_that_is_trained(run, unvalidated):
    assert [row["loss"] for row in losses(unvalidated)] == [row["loss"] for row in losses(run)[:3]]


@pytest.mark.slow
def test_it_goes_on_where_it_was(run, unvalidated, clip_folder, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(unvalidated, workdir)
    assert command(*small_run(clip_folder, workdir, *VALIDATED, steps=5))[0] == 0
    one, other = losses(run), losses(workdir)
    assert [row["loss"] for row in one] == [row["loss"] for row in other]
    assert one[3:] == other[3:]


@pytest.mark.parametrize("size", [pytest.param(4, marks=pytest.mark.slow), 32])
def test_batches_of_any_size_give_the_same(size, run, clip_folder, tmp_path):
    """Also of more than there are test images, whose last batch is filled up."""
    experiment = read_workdir(run)
    training = dataclasses.replace(experiment.training, batch_size=size)
    values = {**experiment.resolved, "text_encoder": {"path": str(clip_folder)}}
    other = dataclasses.replace(parse(values), training=training)
    task = prepare_diffusion(other, epath.Path(tmp_path / "run"))
    params = difflax.load(str(run)).model.params
    found = task.validation.action(5, TrainState(jnp.asarray(5), {}, (), params))
    assert found == pytest.approx({name: lines(run)[-1][name] for name in found}, rel=1e-5)


def test_what_cannot_be_measured(run, clip_folder, tmp_path):
    for more, says in (
        (["--config.validation.examples=21"], "the test split has 20: give at most so many"),
        (["--config.validation.examples=7"], "7 test examples cannot be dealt to 8 times"),
        (
            ["--config.network_input.time=log_sigma"],
            r"config.validation.times: at \[0.0\] this schedule, prediction or network_input is infinite",
        ),
    ):
        status, _, errors = command(*small_run(clip_folder, tmp_path / "run", *VALIDATED, *more))
        assert status == 2 and "\n" not in errors.strip()
        with pytest.raises(UserError, match=says):
            raise UserError(errors)


@pytest.mark.parametrize("times", [(), (0.5, 0.5)])
def test_no_times(times):
    with pytest.raises(ValueError, match="at least one, and each once"):
        Validation(times=times)
