"""A run whose loss remembers and trains a variance, images under guidance that needs more than the network
itself, and the likelihood of real images.
"""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax import runs
from difflax.config.files import read_workdir
from difflax.diffusion.predictions import V
from difflax.diffusion.schedules import ContinuousCosine
from difflax.diffusion.time_grids.run import Repaint, RunOptions
from scipy import stats

from tests.runs import command, small_run

# On one worker, so that what the tests share is made once.
pytestmark = pytest.mark.xdist_group("guided_run")

LOSS = {
    "name": "denoising",
    "noise": {"name": "paired"},
    "time_sampler": {"name": "running_loss", "bins": 4},
    "vlb_weight": 0.001,
}
SAMPLER = {"name": "ddpm", "variance": "learned_range", "num_steps": 4}
PERTURBED = {
    "name": "perturbation",
    "scale": {"shape": "linear", "start": 1.0, "end": 4.0},
    "interval": {"low": 1, "high": 2, "unit": "step"},
    "corrections": [{"name": "rescale", "strength": 0.5}],
    "weak": {"perturbation": {"kind": "identity", "layers": "mid_block"}},
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, clip_folder):
    folder = tmp_path_factory.mktemp("guided") / "run"
    line = small_run(clip_folder, folder, f"--config.loss={LOSS}", f"--config.guidance={PERTURBED}", steps=4)
    # A whole section stands before its fields.
    status, _, errors = command(*line[:2], f"--config.sampler={SAMPLER}", *line[2:])
    assert status == 0, errors
    return folder


def draw(workdir, out, prompt, **guidance):
    """Exit status and errors of a command that samples, by another guidance than the run's own if one is
    given.
    """
    by = [f"--guidance={guidance}"] if guidance else []
    given = ("sample", f"--workdir={workdir}", f"--prompt={prompt}", "--num_steps=4", f"--output={out}")
    status, _, errors = command(*given, *by)
    return status, errors


def test_guidance_by_a_perturbation_and_by_composed_prompts(workdir, tmp_path):
    assert draw(workdir, tmp_path / "perturbed", "a red circle") == (0, "")
    composed = {"name": "composed", "weights": [3.0, -1.0]}
    assert draw(workdir, tmp_path / "composed", "a red circle AND a blue square", **composed) == (0, "")
    status, errors = draw(workdir, tmp_path / "wrong", "a red circle", **composed)
    assert status == 2 and "AND" in errors and errors.count("\n") == 1
    weak = {"name": "autoguidance", "scale": 2.0, "weak": {"step": 4}}
    assert draw(workdir, tmp_path / "auto", "a red circle", **weak) == (0, "")
    weak["weak"] = {"step": 3}
    status, errors = draw(workdir, tmp_path / "none", "a red circle", **weak)
    assert status == 2 and "no checkpoint of step 3" in errors and errors.count("\n") == 1


@pytest.mark.slow
def test_bits_per_dimension_of_a_known_density(workdir):
    """A network that says 0 for v denoises standard normal latents, whose density scipy knows."""
    pipeline = runs.load(workdir)
    silent = jax.tree.map(np.zeros_like, pipeline.model.params)
    ideal = {"schedule": ContinuousCosine(), "prediction_type": V()}
    model = dataclasses.replace(pipeline.model, params=silent, **ideal)
    pipeline = dataclasses.replace(pipeline, model=model)
    found = runs.likelihood(pipeline, workdir, 8, 40)
    split = read_workdir(workdir).data.split("test")
    images = np.stack([split[i].image for i in range(8)]).astype(np.float32) / 127.5 - 1
    latents = np.asarray(model.autoencoder.encode({}, jnp.asarray(images)), np.float64)
    # A small cube of images as one of latents: by how much it grows, from the transform itself.
    size = model.autoencoder.patch_size
    square = np.eye(3 * size**2, dtype=np.float32).reshape(-1, size, size, 3)
    matrix = np.asarray(model.autoencoder.encode({}, jnp.asarray(square)), np.float64).reshape(
        len(square), -1
    )
    growth = np.linalg.slogdet(matrix)[1] / len(square)
    nats = stats.norm.logpdf(latents).mean((1, 2, 3)) + growth
    bits = -nats / np.log(2) - np.log2(2 / 255)
    np.testing.assert_allclose(found.bits_per_dimension, bits.mean(), atol=0.02)
    np.testing.assert_allclose(found.standard_error, stats.sem(bits), rtol=0.05)


@pytest.mark.slow
def test_bits_per_dimension_on_the_command_line(workdir, tmp_path):
    given = ("evaluate", f"--workdir={workdir}", "--num_steps=4", "--seeds=1", f"--output={tmp_path}")
    status, out, errors = command(*given, "--bits_per_dimension=4")
    assert (status, errors) == (0, "")
    found = json.loads((tmp_path / "results.json").read_text())["likelihood"]
    assert found["images"] == 4 and np.isfinite(found["bits_per_dimension"]) and found["standard_error"] > 0
    assert f"bits per dimension of 4 test images: {found['bits_per_dimension']:.3f} ±" in out
    assert "Bits per dimension" in (tmp_path / "report.html").read_text()
    for flags, says in (
        (("--bits_per_dimension=1000000",), "from 2 to 64"),
        (("--bits_per_dimension=1",), "from 2 to 64"),
    ):
        status, _, errors = command(*given, *flags)
        assert status == 2 and says in errors and errors.count("\n") == 1


@pytest.mark.slow
def test_a_mask_is_filled_with_jumps_back(workdir):
    """`sampler.repaint` makes a part anew in another way; what is known stays, and other runs as they are."""
    pipeline = runs.load(workdir)
    options = RunOptions(repaint=Repaint(jump=1, repeats=3))
    defaults = dataclasses.replace(pipeline.defaults, options=options)
    jumping = dataclasses.replace(pipeline, defaults=defaults)
    image = np.random.default_rng(0).uniform(size=(32, 32, 3)).astype(np.float32)
    mask = np.zeros((32, 32), np.float32)
    mask[:, 16:] = 1
    plain, jumped = (p("a red circle", image=image, mask=mask, seed=3)[0] for p in (pipeline, jumping))
    np.testing.assert_allclose(jumped[:, :16], image[:, :16], atol=2e-3)
    # Hardly trained, the network makes about the same grey either way.
    assert np.abs(jumped[:, 16:] - plain[:, 16:]).max() > 1e-3
    np.testing.assert_array_equal(jumping("a red circle", seed=3), pipeline("a red circle", seed=3))
