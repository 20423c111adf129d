"""The model that comes with difflax shows what guidance gains and costs, and is as good as is said of it."""

import json

import numpy as np
import pytest
from difflax.config.embedded import SHIPPED

from tests.runs import command

# On one worker, so that its programs are compiled once.
pytestmark = pytest.mark.xdist_group("shipped")

OFF, BEST, STRONG = 1.0, 4.0, 32.0
SEEN = "one object, seen"


def measured(*arguments, output):
    """The curves of a command's ``results.json``: group, metric and scale → (value, low, high)."""
    status, _, errors = command(*arguments, "--workdir=embedded", f"--output={output}")
    assert status == 0, errors
    return curves(json.loads((output / "results.json").read_text()))


def curves(results):
    return {
        (curve["group"], curve["metric"], estimate["guidance_scale"]): tuple(
            estimate[name] for name in ("value", "low", "high")
        )
        for curve in results["curves"]
        for estimate in curve["estimates"]
    }


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Three scales: off, about the best, and much."""
    scales = ",".join(map(str, (OFF, BEST, STRONG)))
    output = tmp_path_factory.mktemp("sweep") / "out"
    return measured("ablate", f"--guidance_scales={scales}", "--seeds=4", output=output)


def test_guidance_gains_alignment_and_too_much_loses_it(sweep):
    """The best scale lies inside: its band lies above those of the model without guidance and of much."""
    off, best, strong = (sweep[SEEN, "accuracy", scale] for scale in (OFF, BEST, STRONG))
    assert best[1] > off[2]
    assert best[1] > strong[2]


def test_guidance_costs_coverage(sweep):
    """What the prompt leaves open is farther from the truth the stronger the guidance."""
    off, best, strong = (sweep[SEEN, "coverage_excess", scale] for scale in (OFF, BEST, STRONG))
    assert off[0] < best[0] < strong[0]
    assert off[2] < strong[1]


def test_much_guidance_costs_fidelity(sweep):
    best, strong = (sweep[SEEN, "residual_psnr", scale] for scale in (BEST, STRONG))
    assert best[1] > strong[2]


@pytest.mark.slow
def test_its_stored_numbers_are_those_of_a_fresh_evaluation(tmp_path):
    """Images depend on their seeds alone, so only rounding may turn one."""
    stored = curves(json.loads((SHIPPED / "results.json").read_text()))
    fresh = measured("evaluate", output=tmp_path / "out")
    assert stored.keys() == fresh.keys()
    for key in (k for k in stored if k[1] in ("accuracy", "coverage_kept")):
        np.testing.assert_allclose(fresh[key][0], stored[key][0], atol=0.03, err_msg=str(key))
