"""FLOPs by counting layers, bytes by the shapes, and the plan of a small run on virtual devices."""

import dataclasses
import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from difflax.config.experiments import parse
from difflax.core.chips import CHIPS
from difflax.core.flops import count_flops
from difflax.core.types import Conditioning, UserError
from difflax.profiling.plan import Plan, _compile, topology_devices
from difflax.runs.plan import step_of
from difflax.training.runtime.compiled import trace_step

from tests.fixtures import full_width_sd3, make_shapes
from tests.parallel.mesh_run import MODEL
from tests.runs import ROOT, SMALL, load_config


def forward_flops(batch, edge, width, context, tokens):
    """Of `mesh_run`'s UNet, layer by layer: conv_in, a block with a transformer, two on the way up (whose
    first convolutions read what they skip), conv_out.
    """

    def conv(n_in, n_out, k=3):
        return 2 * edge**2 * k * k * n_in * n_out

    def linear(n_in, n_out, rows=1):
        return 2 * rows * n_in * n_out

    embedding = 4 * width
    n = edge**2
    time = linear(width, embedding) + linear(embedding, embedding)
    attention = 4 * linear(width, width, n) + 2 * 2 * n * n * width
    cross = 2 * linear(width, width, n) + 2 * linear(context, width, tokens) + 2 * 2 * n * tokens * width
    feed_forward = linear(width, 8 * width, n) + linear(4 * width, width, n)
    transformer = 2 * conv(width, width, 1) + attention + cross + feed_forward

    def block(n_in):
        shortcut = conv(n_in, width, 1) if n_in != width else 0
        return conv(n_in, width) + conv(width, width) + linear(embedding, width) + shortcut

    total = conv(3, width) + time + block(width) + 2 * block(2 * width) + transformer + conv(width, 3)
    return batch * total


def test_flops_are_those_of_the_layers():
    """The forward pass to a percent, and three times as much with the gradient, less the first layer's."""
    params = MODEL.abstract()
    x = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32)
    t = jax.ShapeDtypeStruct((4,), jnp.float32)
    context = Conditioning(context=jnp.zeros((4, 5, 32)))
    forward = jax.make_jaxpr(MODEL.apply)(params, x, t, context)
    expected = forward_flops(4, 8, 16, 32, 5)
    np.testing.assert_allclose(count_flops(forward), expected, rtol=0.01)
    loss = jax.make_jaxpr(jax.grad(lambda *args: MODEL.apply(*args).sum()))(params, x, t, context)
    np.testing.assert_allclose(count_flops(loss), 3 * expected, rtol=0.05)


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize(
    ("config", "name", "options", "tokens"),
    [
        ("sd15", "UNet2DConditionModel", {"sample_size": 64, "cross_attention_dim": 768}, 77),
        ("sdxl", "UNet2DConditionModel", None, 77),
        ("sd3", "SD3Transformer2DModel", full_width_sd3.CONFIGS["SD3-medium"], 333),
    ],
)
def test_flops_of_full_size_networks_are_those_that_pytorch_counts(config, name, options, tokens):
    """PyTorch's counter over diffusers' network and its backward pass, on the meta device: to 5%."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    from torch.utils.flop_counter import FlopCounterMode

    made = load_config(config).unlock()
    made.model.remat = "none"
    made.model.dtype = "float32"
    # What a CPU has by default computes its scores again in the backward pass, which PyTorch does not.
    made.model.attention_implementation = "xla"
    made.training.batch_size = 1
    step, abstract, batch, rows, mesh = step_of(parse(made), jax.devices()[:1], tokens=tokens)
    ours = count_flops(trace_step(step, abstract, mesh, batch, rows=rows).jaxpr)

    told = batch["conditioning"]
    with torch.device("meta"):
        model = getattr(diffusers, name)(**(make_shapes.read("sdxl_unet")[0] if options is None else options))
        model.set_attn_processor(plain_attention(name))
        x = torch.zeros(1, *np.moveaxis(batch["latent"], -1, 1).shape[1:])
        context = torch.zeros(told.context.shape)
        more = {}
        if config == "sdxl":
            more = {"added_cond_kwargs": {"text_embeds": torch.zeros(told.pooled.shape),
                                          "time_ids": torch.zeros(told.time_ids.shape)}}  # fmt: skip
        with FlopCounterMode(display=False) as counter:
            if config == "sd3":
                out = model(x, context, torch.zeros(told.pooled.shape), torch.zeros(1)).sample
            else:
                out = model(x, torch.zeros(1), context, **more).sample
            out.sum().backward()
    np.testing.assert_allclose(ours, counter.get_total_flops(), rtol=0.05)


def plain_attention(name):
    """diffusers' attention as plain products, which the counter knows."""
    from diffusers.models import attention_processor

    kind = "JointAttnProcessor2_0" if name.startswith("SD3") else "AttnProcessor"
    return getattr(attention_processor, kind)()


def test_loops_count_as_often_as_they_run_and_strides_only_what_they_touch():
    a = jnp.ones((8, 8))
    loop = jax.make_jaxpr(lambda x: jax.lax.scan(lambda c, _: (c @ a, None), x, length=5))(a)
    assert count_flops(loop) == 5 * 2 * 8**3

    def strided(w, x):
        return jax.lax.conv_general_dilated(
            x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ).sum()

    w, x = jnp.ones((4, 4, 3, 5)), jnp.ones((2, 16, 16, 3))
    forward = 2 * (2 * 8 * 8) * (4 * 4) * 3 * 5
    assert count_flops(jax.make_jaxpr(strided)(w, x)) == forward
    np.testing.assert_allclose(count_flops(jax.make_jaxpr(jax.grad(strided))(w, x)), 2 * forward)
    both = jax.make_jaxpr(jax.grad(strided, argnums=(0, 1)))(w, x)
    np.testing.assert_allclose(count_flops(both), 3 * forward)


def plan(**changes):
    made = Plan(
        devices=4, kind="TPU v5e", batch_size=64, parameters=10**9, optimizer=2 * 10**9, average=10**9,
        arguments=4 * 10**9, temporaries=8 * 10**9, peak=12 * 10**9, flops=1.97e12, accessed=8_190_000_000,
        collectives={"all-reduce": 10**8}, trace_seconds=0.0, compile_seconds=0.0, chip=CHIPS["v5e"],
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def test_the_roofline_is_the_longest_of_its_parts():
    made = plan()
    assert made.times == pytest.approx({"arithmetic": 0.01, "memory": 0.01, "collectives": 5e-4})
    assert made.step_seconds == pytest.approx(0.01) and made.hfu == pytest.approx(1.0)
    slow = plan(accessed=4 * 8_190_000_000)
    assert slow.hfu == pytest.approx(0.25) and any(
        "memory is the bottleneck" in text for text in slow.advice()
    )
    assert made.fits and made.largest_batch == int(64 * (16 * 2**30 - 5e9) / 7e9) // 4 * 4
    large = plan(peak=40 * 10**9)
    assert not large.fits and any("training.batch_size" in text for text in large.advice())


@dataclasses.dataclass(frozen=True)
class Refused:
    """A program that the compiler does not take."""

    message: str

    def compile(self):
        raise jax.errors.JaxRuntimeError(self.message)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries"
            " (120.08G) exceeds available HBM (15.75G).",
            "takes 120.08 GiB a device, which has 15.75; parameters, optimizer and average are 3 GiB;",
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used"
            " 20.43G of 15.75G hbm. Exceeded hbm capacity by 4.68G.\n\nTotal hbm usage >= 20.69G:\n",
            "takes 20.43 GiB a device, which has 15.75; parameters, optimizer and average are 3 GiB;",
        ),
        (
            "RESOURCE_EXHAUSTED: something else",
            "takes more than a device has; parameters, optimizer and average are 3 GiB;",
        ),
    ],
    ids=["temporaries", "all", "unknown"],
)
def test_a_program_too_large_for_the_chip_is_one_line(message, says):
    with pytest.raises(UserError, match=says) as caught:
        _compile(Refused(message), 3 * 2**30)
    assert "\n" not in str(caught.value) and "lower training.batch_size" in str(caught.value)


def test_another_error_of_the_compiler_is_its_own():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: a fault"):
        _compile(Refused("INTERNAL: a fault"), 0)


def test_a_small_plan_on_virtual_devices(tmp_path):
    """The command, in a process of its own: shares of the state by hand, its FLOPs by the layers."""
    arguments = [
        "plan", f"--config={ROOT / 'configs' / 'shapes.py'}", *SMALL, "--topology=cpu:4", "--tokens=24",
        "--config.mesh.data=1", "--config.mesh.fsdp=4", f"--output={tmp_path / 'plan.md'}",
        "--config.optimizer.name=adamw",  # two moments of every parameter
    ]  # fmt: skip
    program = "import sys; from difflax.cli.main import run; sys.exit(run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = dict(
        [part.strip() for part in line.strip("|").split("|")]
        for line in (tmp_path / "plan.md").read_text().splitlines()
        if line.startswith("|") and "---" not in line
    )
    assert rows["devices"].startswith("4 × ")
    numbers = {name: float(rows[name].removesuffix(" MB")) for name in ("parameters", "optimizer")}
    assert numbers["optimizer"] == pytest.approx(2 * numbers["parameters"], rel=0.02)
    assert "all-gather" in rows["collectives"]


def test_a_tpu_without_its_compiler_is_one_line():
    if importlib.util.find_spec("libtpu") is not None:
        assert len(topology_devices("v5e:2x2")) == 4
        assert {device.slice_index for device in topology_devices("2*v5e:2x2")} == {0, 1}
        return
    with pytest.raises(UserError, match="no TPU compiler for it here"):
        topology_devices("v5e:2x2")


@pytest.mark.parametrize("topology", ["v5e", "cpu:0", "gpu:3", "v5e:4"])
def test_topologies_that_are_none(topology):
    with pytest.raises(UserError, match="give v5e:4x4"):
        topology_devices(topology)
