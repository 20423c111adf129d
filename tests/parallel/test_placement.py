"""A mesh changes no output and no gradient, and really splits the activations."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from difflax.parallel.placement import gather_tokens, split_tokens
from jax.sharding import PartitionSpec as P

from tests.parallel.placement_run import KINDS, MESHES
from tests.runs import ROOT

# On one worker, so that what the tests share is made once.
pytestmark = pytest.mark.xdist_group("placement")


@pytest.fixture(scope="module")
def facts():
    """What `placement_run` prints; one process computes on all meshes of eight virtual devices."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "parallel" / "placement_run.py"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("kind", KINDS)
def test_output_and_gradient_are_those_of_one_device(kind, mesh, facts):
    """To what float32 loses in sums of another order; one device has its blocks written out."""
    assert max(facts["loops"][f"{kind} {mesh}"]) < 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_that_are_written_out_give_those_too(kind, facts):
    """Several axes at once: with an image's rows split beside its channels, convolutions were wrong by 0.05,
    their gradients by 0.3.
    """
    assert max(facts["written out"][f"{kind} mixed"]) < 2e-5


@pytest.mark.slow
def test_batch_and_tokens_that_do_not_divide_change_nothing(facts):
    assert max(facts["ragged"]) < 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["fsdp", "context"])
def test_eight_devices_hold_an_eighth_of_the_activations(axis, facts):
    """Of a program with its blocks in a loop. Left to itself the compiler holds a third of them under fsdp,
    and nearly all under context.
    """
    one, split = facts["sizes"]["data"], facts["sizes"][axis]
    assert split["bytes"] < one["bytes"] / 6
    tokens = "8,256,16"
    assert tokens in one["shapes"] and tokens not in split["shapes"]


def placed(function, shape, **axes):
    """The specification that ``function`` gives an array of ``shape`` on a mesh of these axes, if any."""
    array = jax.ShapeDtypeStruct(shape, np.float32)
    if axes:
        mesh = jax.sharding.AbstractMesh(tuple(axes.values()), tuple(axes))
        with jax.sharding.use_abstract_mesh(mesh):
            equations = jax.make_jaxpr(function)(array).eqns
    else:
        equations = jax.make_jaxpr(function)(array).eqns
    return equations[0].params["sharding"].spec if equations else None


class TestSplit:
    def test_examples_over_data_and_fsdp_and_tokens_over_context(self):
        said = placed(split_tokens, (8, 64, 8), data=2, fsdp=2, context=4, tensor=1)
        assert said == P(("data", "fsdp"), "context", None)
        said = placed(split_tokens, (8, 64, 8), data=2, fsdp=1, context=1, tensor=2)
        assert said == P("data", P.UNCONSTRAINED, None)

    def test_a_text_is_split_by_examples_alone(self):
        said = placed(lambda a: split_tokens(a, of_image=False), (8, 64, 8), data=2, context=4)
        assert said == P("data", P.UNCONSTRAINED, None)

    def test_what_does_not_divide_is_left_alone(self):
        mesh = {"data": 2, "context": 4}
        assert placed(split_tokens, (3, 64, 8), **mesh) == P(P.UNCONSTRAINED, "context", None)
        assert placed(split_tokens, (4, 63, 8), **mesh) == P("data", P.UNCONSTRAINED, None)
        assert placed(split_tokens, (3, 63, 8), **mesh) is None

    @pytest.mark.parametrize("function", [split_tokens, gather_tokens])
    def test_nothing_is_said_without_a_mesh_or_on_one_device(self, function):
        assert placed(function, (2, 64, 8)) is None
        assert placed(function, (2, 64, 8), data=1, fsdp=1, context=1, tensor=1) is None

    def test_tokens_are_gathered_only_where_they_are_split(self):
        said = placed(gather_tokens, (2, 64, 8), data=1, context=4)
        assert said == P(P.UNCONSTRAINED, None, P.UNCONSTRAINED)
        assert placed(gather_tokens, (2, 64, 8), data=2, context=1) is None
