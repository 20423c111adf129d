"""A run whose loss remembers, and images under guidance that needs more than the network itself."""

import json

import pytest
from tests.runs import command, small_run

# On one worker, so that what the tests share is made once.
pytestmark = pytest.mark.xdist_group("guided_run")

LOSS = (
    "--config.loss.noise={'name': 'paired'}",
    "--config.loss.time_sampler={'name': 'running_loss', 'bins': 4}",
)
PERTURBED = {
    "name": "perturbation",
    "scale": {"shape": "linear", "start": 1.0, "end": 4.0},
    "interval": {"low": 1, "high": 2, "unit": "step"},
    "corrections": [{"name": "rescale", "strength": 0.5}],
    "weak": {"perturbation": {"kind": "identity", "layers": "down_blocks"}},
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, clip_folder):
    folder = tmp_path_factory.mktemp("guided") / "run"
    guidance = f"--config.guidance={PERTURBED}"
    assert command(*small_run(clip_folder, folder, *LOSS, guidance, steps=4))[0] == 0
    return folder


def with_guidance(workdir, **section):
    """The run's config with another guidance, which resuming allows."""
    config = json.loads((workdir / "config.json").read_text())
    config["guidance"] = section
    (workdir / "config.json").write_text(json.dumps(config))


def draw(workdir, out, *prompts):
    arguments = [f"--prompt={prompt}" for prompt in prompts]
    status, _, errors = command(
        "sample", f"--workdir={workdir}", *arguments, "--num_steps=4", f"--output={out}"
    )
    return status, errors


def test_guidance_by_a_perturbation_and_by_composed_prompts(workdir, tmp_path):
    assert draw(workdir, tmp_path / "perturbed", "a red circle") == (0, "")
    with_guidance(workdir, name="composed", weights=[3.0, -1.0])
    assert draw(workdir, tmp_path / "composed", "a red circle AND a blue square") == (0, "")
    status, errors = draw(workdir, tmp_path / "wrong", "a red circle")
    assert status == 2 and "AND" in errors and errors.count("\n") == 1
    with_guidance(workdir, name="autoguidance", scale=2.0, weak={"step": 4})
    assert draw(workdir, tmp_path / "auto", "a red circle") == (0, "")
    with_guidance(workdir, name="autoguidance", scale=2.0, weak={"step": 3})
    status, errors = draw(workdir, tmp_path / "none", "a red circle")
    assert status == 2 and "no checkpoint of step 3" in errors and errors.count("\n") == 1
