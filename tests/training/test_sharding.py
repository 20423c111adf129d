"""The same seed gives the same losses on every mesh, and a mesh really splits the state."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from difflax.training.sharding import MeshShape, shardings
from difflax.types import UserError
from tests.runs import ROOT, small_run

MESHES = {
    "data": ("data=8",),
    "fsdp": ("data=1", "fsdp=8"),
    "all": ("data=2", "fsdp=2", "tensor=2"),
}


def train(clip, workdir, devices, mesh, *more):
    """A small run in a process of its own, on that many virtual devices: what `mesh_run` prints."""
    arguments = small_run(clip, workdir, *(f"--config.mesh.{axis}" for axis in mesh), steps=5)
    script = ROOT / "tests" / "training" / "mesh_run.py"
    done = subprocess.run(
        [sys.executable, script, str(devices), *arguments, *more],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["status"] == 0, done.stderr
    return facts


def losses(workdir):
    return [json.loads(row)["loss"] for row in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def one_device(tmp_path_factory, clip_folder):
    workdir = tmp_path_factory.mktemp("one") / "run"
    assert train(clip_folder, workdir, 1, ())["held"] == [1.0]
    return losses(workdir)


@pytest.mark.parametrize("mesh", MESHES)
def test_eight_devices_give_the_losses_of_one(mesh, one_device, clip_folder, tmp_path):
    facts = train(clip_folder, tmp_path / "run", 8, MESHES[mesh])
    np.testing.assert_allclose(losses(tmp_path / "run"), one_device, rtol=2e-5)
    # Copies on data, an eighth on fsdp (but for arrays that do not divide), between both on the mixed mesh.
    low, high = {"data": (1, 1), "fsdp": (1 / 8, 1 / 5), "all": (1 / 4, 1 / 1.9)}[mesh]
    assert len(facts["held"]) == 8
    assert low <= min(facts["held"])
    assert max(facts["held"]) <= high


def test_a_checkpoint_goes_on_upon_another_mesh(one_device, clip_folder, tmp_path):
    workdir = tmp_path / "run"
    train(clip_folder, workdir, 8, MESHES["fsdp"], "--stop_at=2")
    train(clip_folder, workdir, 8, MESHES["all"], "--stop_at=4")
    train(clip_folder, workdir, 1, ("data=1", "fsdp=1"))
    np.testing.assert_allclose(losses(workdir), one_device, rtol=2e-5)


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
