"""The same seed gives the same losses on every mesh, and a mesh really splits the state."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from difflax.models.placement import split_tokens
from difflax.training.ema import EMA
from difflax.training.sharding import MeshShape, shardings
from difflax.training.state import init_state
from difflax.training.step import make_train_step
from difflax.types import UserError
from tests.runs import ROOT
from tests.training import toy

# On one worker, so that what the tests share is made once.
pytestmark = pytest.mark.xdist_group("sharding")


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """What `mesh_run` prints; one process trains on all meshes of eight virtual devices."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "training" / "mesh_run.py", tmp_path_factory.mktemp("meshes")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("mesh", "low", "high"),
    [
        ("data", 1, 1),
        ("fsdp", 1 / 8, 1 / 5),  # an eighth, but for arrays that do not divide
        ("tensor", 1 / 2, 0.95),  # half of what the rules name
        ("context", 1, 1),  # splits no parameters
        ("mixed", 1 / 4, 1 / 1.9),
    ],
)
def test_eight_devices_give_the_losses_of_one(mesh, low, high, facts):
    assert facts["one"]["held"] == [1.0]
    np.testing.assert_allclose(facts[mesh]["losses"], facts["one"]["losses"], rtol=2e-5)
    held = facts[mesh]["held"]
    assert len(held) == 8
    assert low <= min(held) and max(held) <= high


def test_the_loss_changes_from_step_to_step(facts):
    assert np.ptp(facts["one"]["losses"]) > 0.01


def test_a_checkpoint_goes_on_upon_another_mesh(facts):
    found = facts["checkpoints"]
    np.testing.assert_allclose(found["moved"], found["whole"], rtol=2e-5)
    assert len(found["whole"]) == 6


def test_rules_split_heads_and_channels():
    mesh = jax.sharding.AbstractMesh((1, 2, 2), ("data", "fsdp", "tensor"))
    shapes = {
        "attn1": {"to_q": {"kernel": (64, 32)}, "to_out": {"0": {"kernel": (32, 64)}}},
        "conv1": {"kernel": (3, 3, 5, 64), "bias": (7,)},
        "step": (),
    }
    tree = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, np.float32), shapes, is_leaf=lambda x: isinstance(x, tuple)
    )
    placed = jax.tree.map(lambda sharding: tuple(sharding.spec), shardings(tree, mesh))
    assert placed["attn1"]["to_q"]["kernel"] == ("fsdp", "tensor")
    assert placed["attn1"]["to_out"]["0"]["kernel"] == ("tensor", "fsdp")
    assert placed["conv1"]["kernel"] == (None, None, None, "fsdp")
    assert placed["conv1"]["bias"] == (None,)
    assert placed["step"] == ()


def test_a_mesh_that_does_not_fit_says_so():
    with pytest.raises(UserError, match="devices"):
        MeshShape(data=3, fsdp=2).make(jax.devices()[:1])
    with pytest.raises(ValueError, match="at most one -1"):
        MeshShape(data=-1, fsdp=-1)


def test_tokens_are_split_over_the_context_axis():
    mesh = jax.sharding.AbstractMesh((1, 1, 4, 1), ("data", "fsdp", "context", "tensor"))

    def constraints(shape):
        with jax.sharding.use_abstract_mesh(mesh):
            return str(jax.make_jaxpr(split_tokens)(jax.ShapeDtypeStruct(shape, np.float32)))

    assert "context" in constraints((2, 64, 8))
    assert "context" not in constraints((2, 63, 8))  # does not divide
    assert "sharding" not in str(jax.make_jaxpr(split_tokens)(jax.ShapeDtypeStruct((2, 64, 8), np.float32)))


@pytest.mark.parametrize(
    "rules",
    [(("(", (None,)),), (("kernel", ("nowhere",)),)],
    ids=["expression", "axis"],
)
def test_rules_that_are_none(rules):
    with pytest.raises(ValueError, match="rules"):
        MeshShape(rules=rules)


def test_parts_of_a_batch_give_its_gradient(tmp_path):
    """Four parts of two examples give the gradient of eight, where the loss has no noise."""

    class Silent(toy.Regression):
        def loss(self, params, batch, key, memory=()):
            x = batch["image"].astype(np.float32)[:, 0, :, 0] / 255
            error = self.model.apply(params, x) - x[:, ::-1]
            return (error**2).mean(-1), {"largest": abs(error).max()}

    made = Silent()
    batch = {"image": toy.Pixels().images[:8]}
    key = jax.random.key(0)
    state = init_state(made.init(key), optax.sgd(0.1))
    whole, parts = (
        jax.jit(make_train_step(made, optax.sgd(0.1), EMA(), 0, accumulate=count))(state, batch)
        for count in (1, 4)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), whole[0].params, parts[0].params
    )
    np.testing.assert_allclose(whole[1]["loss"], parts[1]["loss"], rtol=1e-6)


def test_a_batch_that_does_not_divide_into_parts_says_so():
    made = toy.Regression()
    batch = {"image": toy.Pixels().images[:8]}
    params = made.init(jax.random.key(0))
    with pytest.raises(UserError, match=r"not divided by training\.accumulate = 3"):
        jax.jit(make_train_step(made, optax.sgd(0.1), EMA(), 0, accumulate=3))(
            init_state(params, optax.sgd(0.1)), batch
        )
