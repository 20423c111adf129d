"""Runs that start from a picture, against diffusers' pipelines at strengths, numbers of steps and schedulers
that do not come out even (`editing_cases`).
"""

import functools
import itertools

import difflax
import numpy as np
import pytest
from difflax.generation.ensemble import Ensemble

from tests.fixtures.make_stable_diffusion_3 import LENGTH
from tests.generation import editing_cases as runs

# On one worker, so that checkpoints are loaded and programs compiled once.
pytestmark = [pytest.mark.parity, pytest.mark.xdist_group("editing_runs")]

TOLERANCE = 1e-4
"""Of an image in [0, 1]; measured: see docs/sampling.md."""

GROUPS = [
    (kind, scheduler, list(cases))
    for (kind, scheduler), cases in itertools.groupby(runs.generated(), lambda c: (c.kind, c.scheduler))
]
FAST = {("sd3_image", "own"), ("sd3_mask", "own")}
"""The networks that compile in a few seconds."""


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    place = tmp_path_factory.mktemp("editing_runs")
    return functools.cache(lambda name, kind: runs.build(name, place / f"{name}-{kind}", kind))


@pytest.fixture(scope="module")
def ours_of(folder_of):
    @functools.cache
    def load(name, scheduler):
        options = {"t5_length": LENGTH} if name == "sd3_medium" else {}
        folder = str(folder_of(name, scheduler))
        return difflax.from_pretrained(folder, variant="fp16", batch_size=1, **options)

    return load


@pytest.fixture(scope="module")
def theirs_of(folder_of):
    pytest.importorskip("diffusers")
    return functools.cache(lambda name, kind: runs.loaded(name, folder_of(name, kind)))


def test_there_are_enough_of_every_kind():
    cases = [case for *_, group in GROUPS for case in group]
    assert len({str(case) for case in cases}) == len(cases) >= 60
    assert {case.kind for case in cases} == set(runs.KINDS)
    assert {case.share for case in cases} >= {*runs.STRENGTHS, *runs.SHARES}
    assert {case.steps for case in cases} == set(runs.STEPS)
    assert all(len(kind.schedulers) >= 3 for kind in runs.KINDS.values())


@pytest.mark.parametrize(
    "group",
    [pytest.param(g, marks=[] if g[:2] in FAST else [pytest.mark.slow], id="-".join(g[:2])) for g in GROUPS],
)
def test_images_are_those_of_diffusers(group, ours_of, theirs_of):
    kind, scheduler, cases = group
    names = [runs.KINDS[kind].checkpoint] + ["refiner"] * (runs.KINDS[kind].gives == "ensemble")
    theirs = {name: theirs_of(name, scheduler) for name in names}
    ours = [ours_of(name, scheduler) for name in names]
    errors = {}
    for case in cases:
        pipeline = Ensemble(*ours, handover=case.share) if len(ours) == 2 else ours[0]
        expected = runs.theirs(case, theirs)
        assert expected.std() > 0.05, case
        made = pipeline(runs.PROMPT, runs.NEGATIVE, **runs.arguments(case))
        errors[str(case)] = np.abs(made - expected).max()
    assert max(errors.values()) <= TOLERANCE, errors
