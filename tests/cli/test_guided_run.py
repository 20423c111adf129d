"""A run whose loss remembers, and images under guidance that needs more than the network itself."""

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
