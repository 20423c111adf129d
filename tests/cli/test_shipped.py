"""The model that comes with difflax shows what guidance gains and costs, and is as good as is said of it."""

import json

import numpy as np
import pytest
from difflax.config.embedded import SHIPPED
from difflax.runs.studied import Studied

from tests.runs import command

# On one worker, so that its programs are compiled once.
pytestmark = pytest.mark.xdist_group("shipped")

OFF, BEST, STRONG = 1.0, 3.0, 32.0


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A metric's estimates without guidance, at about the best scale and at a large one, of the prompts and
    seeds of ``difflax ablate``.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("difflax.runs.studied.REAL_IMAGES", 4)  # of which nothing is asked here
        model = Studied.of("embedded", "one object", prompts=20, seeds=8)
    result = model.sweep(tmp_path_factory.mktemp("sweep"), (OFF, BEST, STRONG), None, None)
    return lambda metric: result.curve(model.group.name, metric).estimates


def test_guidance_gains_alignment_and_too_much_loses_it(sweep):
    """The best scale lies inside: its band lies above those of the model without guidance and of much."""
    off, best, strong = sweep("accuracy")
    assert best.low > off.high
    assert best.low > strong.high


def test_guidance_costs_coverage(sweep):
    """What the prompt leaves open is farther from the truth the stronger the guidance."""
    off, best, strong = sweep("coverage_excess")
    assert off.value < best.value < strong.value
    assert off.high < strong.low


def test_much_guidance_costs_fidelity(sweep):
    _, best, strong = sweep("residual_psnr")
    assert best.low > strong.high


@pytest.mark.slow
def test_its_stored_numbers_are_those_of_a_fresh_evaluation(tmp_path):
    """Images depend on their seeds alone, so only rounding may turn one."""
    status, _, errors = command("evaluate", "--workdir=embedded", f"--output={tmp_path / 'out'}")
    assert status == 0, errors
    stored, fresh = (values(folder / "results.json") for folder in (SHIPPED, tmp_path / "out"))
    assert stored.keys() == fresh.keys()
    for key in (k for k in stored if k[1] in ("accuracy", "coverage_kept")):
        np.testing.assert_allclose(fresh[key], stored[key], atol=0.03, err_msg=str(key))


def values(path):
    """The values of a ``results.json`` at its one scale, by group and metric."""
    curves = json.loads(path.read_text())["curves"]
    return {(curve["group"], curve["metric"]): curve["estimates"][0]["value"] for curve in curves}
