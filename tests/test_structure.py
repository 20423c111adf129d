"""The shape of the code, held so that it does not grow back: the counts of ``scripts/structure.py``."""

import importlib.util
import sys

import pytest

from tests.runs import ROOT

# On one worker, so that the counting is done once.
pytestmark = pytest.mark.xdist_group("structure")

LIMITS = {
    "modules outside the import contract": 0,
    "circles among modules": 0,
    "own frames between pipeline(…) and the network": 9,
    "files of these frames": 6,
    "fields of Pipeline": 3,
    # Two networks and an attention with diffusers' options; the doors to configs and checkpoints.
    "functions of more than 12 parameters": 5,
    "files that know SD3, beside its own": 3,
    "files that know SDXL's sizes, beside its own": 2,
    "files that know an image that is edited, beside its own": 2,
    "isinstance a thousand lines": 1.5,
    "string comparisons a thousand lines": 2.5,
    "names of classes and constants in several files": 0,
}


@pytest.fixture(scope="module")
def counts():
    """Every count by its name."""
    spec = importlib.util.spec_from_file_location("structure", ROOT / "scripts" / "structure.py")
    structure = importlib.util.module_from_spec(spec)
    sys.modules["structure"] = structure  # where dataclasses look for the module's types
    spec.loader.exec_module(structure)
    return {count.name: count for count in structure.measure(ROOT)}


@pytest.mark.parametrize("name", LIMITS)
def test_no_more_than(name, counts):
    assert counts[name].value <= LIMITS[name], "\n".join([f"{counts[name].value:g}:", *counts[name].where])


def test_everything_that_is_counted_has_a_limit(counts):
    assert set(counts) == set(LIMITS)
