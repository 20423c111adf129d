"""Images of a trained run: each a function of its own prompt and seed; one compilation for all scales."""

import difflax
import jax
import numpy as np
import pytest
from difflax import generation
from difflax.evaluation.png import read_metadata

from tests.runs import command, small_run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, clip_folder):
    workdir = tmp_path_factory.mktemp("generation") / "run"
    assert command(*small_run(clip_folder, workdir, steps=20))[0] == 0
    return workdir


@pytest.fixture(scope="module")
def pipeline(workdir):
    return difflax.load(str(workdir))


PROMPTS = ["a red circle", "a small blue square", "a large green cross", "a red circle"]


def test_an_image_does_not_depend_on_its_batch(pipeline):
    together = pipeline(PROMPTS, seed=[3, 4, 5, 6])
    assert together.shape == (4, 32, 32, 3)
    assert together.dtype == np.float32
    assert together.min() >= 0
    assert together.max() <= 1
    alone = pipeline(PROMPTS[1], seed=4)
    np.testing.assert_allclose(alone[0], together[1], atol=1e-5)
    order = [2, 0, 3, 1]
    permuted = pipeline([PROMPTS[i] for i in order], seed=[3 + i for i in order])
    np.testing.assert_allclose(permuted, together[order], atol=1e-5)
    assert np.abs(together[0] - together[3]).max() > 0.01  # the same prompt, another seed


def test_the_ends_of_the_scale(pipeline):
    plain = pipeline(PROMPTS, guidance_scale=0.0)
    np.testing.assert_allclose(plain, pipeline([""] * 4, guidance_scale=1.0), atol=1e-5)
    # At scale 1 the negative prompt has no part.
    one = pipeline(PROMPTS, guidance_scale=1.0)
    np.testing.assert_allclose(one, pipeline(PROMPTS, "a blue cross", guidance_scale=1.0), atol=1e-5)
    assert np.abs(one - plain).max() > 1e-3


def test_scales_seeds_prompts_and_steps_compile_nothing(pipeline):
    pipeline(PROMPTS, guidance_scale=2.0)
    compiled = generation._sample_batch._cache_size()
    with jax.log_compiles(False):
        pipeline(PROMPTS, guidance_scale=0.0)
        pipeline(PROMPTS[::-1], guidance_scale=5.5, seed=9)
        pipeline(PROMPTS, "a blue cross", guidance_scale=1, num_steps=7)
    assert generation._sample_batch._cache_size() == compiled


def test_sample_and_ablate_commands(workdir, tmp_path):
    status, out, errors = command(
        "sample",
        f"--workdir={workdir}",
        "--prompt=a red circle",
        "--num_images=2",
        "--seed=7",
        "--guidance_scale=2",
        "--trajectory",
        f"--output={tmp_path / 'samples'}",
    )
    assert (status, errors) == (0, "")
    files = {p.name for p in (tmp_path / "samples").iterdir()}
    assert {"0000_seed7.png", "0001_seed8.png", "grid.png", "trajectory.png"} <= files
    facts = read_metadata(tmp_path / "samples" / "0001_seed8.png")
    assert (facts["prompt"], facts["seed"], facts["guidance_scale"]) == ("a red circle", 8, 2.0)

    before = generation._sample_batch._cache_size()
    status, out, _ = command(
        "ablate",
        f"--workdir={workdir}",
        "--guidance_scales=0,1,2,4",
        "--seeds=2",
        f"--output={tmp_path / 'ablation'}",
    )
    assert status == 0
    assert "prompt accuracy" in out
    assert generation._sample_batch._cache_size() <= before + 1
    assert {"report.html", "results.json", "table.csv"} <= {p.name for p in (tmp_path / "ablation").iterdir()}
