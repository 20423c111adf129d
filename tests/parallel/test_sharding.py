"""The same seed gives the same losses on every mesh, and a mesh really splits the state."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from difflax.config.experiments import parse
from difflax.core.types import UserError
from difflax.models.autoencoder_kl import AutoencoderKLConfig, KLAutoencoder
from difflax.parallel.sharding import MeshShape, shardings
from difflax.text.clip_config import CLIPConfig
from difflax.text.joint import clip_network
from difflax.text.t5 import T5Config, t5_network
from difflax.training.ema import EMA
from difflax.training.state import init_state
from difflax.training.step import make_train_step

from tests.runs import ROOT, load_config
from tests.training import toy

# On one worker, so that what the tests share is made once.
pytestmark = pytest.mark.xdist_group("sharding")


def mesh_run(workdir, *meshes):
    """What the script of that name prints; one process trains on all these meshes of eight devices."""
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "parallel" / "mesh_run.py", workdir, *meshes],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """Of every axis a mesh; each takes its time to compile."""
    return mesh_run(tmp_path_factory.mktemp("meshes"), "one", "fsdp", "context", "mixed")


@pytest.mark.parametrize(
    ("mesh", "low", "high"),
    [
        ("fsdp", 1 / 8, 1 / 5),  # an eighth, but for arrays that do not divide
        ("context", 1, 1),  # splits no parameters
        ("mixed", 1 / 4, 1 / 1.9),
    ],
)
def test_eight_devices_give_the_losses_of_one(mesh, low, high, facts):
    compare_with_one(mesh, low, high, facts)


@pytest.mark.slow
def test_the_axes_that_are_mixed_give_them_apart(tmp_path):
    facts = mesh_run(tmp_path, "one", "data", "tensor")
    compare_with_one("data", 1, 1, facts)
    compare_with_one("tensor", 1 / 2, 0.95, facts)  # half of what the rules name


def compare_with_one(mesh, low, high, facts):
    assert facts["one"]["held"] == [1.0]
    np.testing.assert_allclose(facts[mesh]["losses"], facts["one"]["losses"], rtol=2e-5)
    held = facts[mesh]["held"]
    assert len(held) == 8
    assert low <= min(held) and max(held) <= high


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_each_device_holds_its_share_of_parameters_and_optimizer(devices, facts):
    """One in N bytes of what divides, all of the rest: a step, scalars, and three output channels. Where a
    run of so many devices was made, its state lies as it should.
    """
    found = facts["bytes"][str(devices)]
    for run in {1: ["one"], 8: ["fsdp"]}.get(devices, []):
        assert facts[run]["bytes"] == found
    divides = [any(n % devices == 0 for n in shape) for _, shape in found["whole"]]
    expected = sum(
        size // devices if split else size for (size, _), split in zip(found["whole"], divides, strict=True)
    )
    assert found["held"] == [expected] * devices
    total = sum(size for size, _ in found["whole"])
    assert expected < 1.02 * total / devices


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


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh needs to know of a device."""

    id: int
    slice_index: int
    process_index: int = 0
    platform: str = "gpu"
    device_kind: str = "one of several slices"


def test_only_the_data_axis_crosses_the_network_between_slices():
    chips = [Chip(id=i, slice_index=i % 2) for i in range(16)]
    mesh = MeshShape(data=4, fsdp=2, tensor=2).make(chips)
    slices = np.vectorize(lambda chip: chip.slice_index)(mesh.devices)
    assert slices.shape == (4, 2, 1, 2)
    assert (slices == slices[:, :1, :1, :1]).all()
    assert sorted(chip.id for chip in mesh.devices.flat) == list(range(16))
    with pytest.raises(UserError, match=r"config\.mesh\.data = 1 must be a multiple of the 2 slices"):
        MeshShape(data=1, fsdp=-1).make(chips)


@pytest.mark.parametrize(
    ("count", "shape", "axes"),
    [
        (8, MeshShape(data=1, fsdp=8), (1, 8, 1, 1)),
        (4, MeshShape(data=1, fsdp=8), (1, 4, 1, 1)),
        (2, MeshShape(data=1, fsdp=8, tensor=2), (1, 2, 1, 1)),
        (4, MeshShape(data=8), (4, 1, 1, 1)),
        (1, MeshShape(data=2, tensor=4), (1, 1, 1, 1)),
    ],
)
def test_a_mesh_fitted_to_another_number_of_devices(count, shape, axes):
    chips = [Chip(id=i, slice_index=0, platform="cpu") for i in range(count)]
    assert shape.fitted(chips).devices.shape == axes


KINDS = {
    "unet": lambda: parse(load_config("shapes")).network,
    "mmdit": lambda: parse(load_config("sd3_shapes")).network,
    "clip": lambda: clip_network(CLIPConfig()),
    "t5": lambda: t5_network(T5Config(feed_forward_proj="gated-gelu")),
    "autoencoder": lambda: KLAutoencoder(config=AutoencoderKLConfig()).network,
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_rules_find_the_attention_and_feed_forward_layers_of_every_network(kind):
    """Megatron's pairs: what widens is split by its outputs, what narrows by its inputs, so that each pair
    needs one sum. By the layers' published names.
    """
    mesh = jax.sharding.AbstractMesh((1, 1, 1, 2), ("data", "fsdp", "context", "tensor"))
    leaves = jax.tree_util.tree_flatten_with_path(shardings(KINDS[kind]().abstract(), mesh))[0]
    split = {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(place.spec) for path, place in leaves
    }
    attention = re.compile(r"((attn\w*|self_attn|SelfAttention)/\w+|attentions/0/to_\w+)(/0)?/kernel$")
    feed_forward = re.compile(r"(ff\w*/net/[02]|mlp|DenseReluDense)(/(proj|fc1|fc2|wi_0|wi_1|wo))?/kernel$")
    found = [name for name in split if attention.search(name) or feed_forward.search(name)]
    assert found
    narrow = ("to_out/0", "to_add_out", "out_proj", "fc2", "net/2", "/o", "/wo")
    for name in found:
        ends = name.removesuffix("/kernel").endswith(narrow)
        assert split[name] == (("tensor", None) if ends else (None, "tensor")), name


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
        def loss(self, params, batch, key, memory=(), part=None):
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
