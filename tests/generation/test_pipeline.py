"""Images of a trained run: each a function of its own prompt and seed; one compilation for all scales."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys

import difflax
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
from difflax.core.types import UserError
from difflax.figures.grids import captioned_grid
from difflax.generation.devices import Devices
from difflax.training.runtime.manifest import write_manifest
from etils import epath
from PIL import Image

from tests.runs import ROOT, command, small_run

PROMPTS = ["a red circle", "a small blue square", "a large green cross", "a red circle"]
SEEDS = [3, 4, 5, 6]

# On one worker, so that what the tests share is made once.
pytestmark = pytest.mark.xdist_group("generation")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, clip_folder):
    workdir = tmp_path_factory.mktemp("generation") / "run"
    drawn = "--config.training.sample_every=6"
    status, _, errors = command(*small_run(clip_folder, workdir, drawn, steps=12))
    assert status == 0, errors
    return workdir


@pytest.fixture(scope="module")
def pipeline(workdir):
    return difflax.load(str(workdir))


@pytest.fixture(scope="module")
def stored(workdir):
    """The newest checkpoint, as Orbax reads it."""
    options = ocp.CheckpointManagerOptions(step_prefix="step")
    with ocp.CheckpointManager(workdir / "checkpoints", options=options) as manager:
        items = {"state": ocp.args.StandardRestore(), "constants": ocp.args.StandardRestore()}
        return manager.restore(12, args=ocp.args.Composite(**items))


@contextlib.contextmanager
def compilations():
    """The programs that XLA compiles, or reads from its cache, in the block."""
    compiled = []

    def listen(event, duration, **facts):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(facts.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


class TestAnImageIsOfItsOwnPromptAndSeed:
    def test_in_any_batch(self, pipeline):
        together = pipeline(PROMPTS, seed=SEEDS)
        assert together.shape == (4, 32, 32, 3)
        assert together.dtype == np.float32
        assert together.min() >= 0
        assert together.max() <= 1
        order = [2, 0, 3, 1]
        permuted = pipeline([PROMPTS[i] for i in order], seed=[SEEDS[i] for i in order])
        np.testing.assert_allclose(permuted, together[order], atol=1e-5)
        for i in (1, 3):
            np.testing.assert_allclose(pipeline(PROMPTS[i], seed=SEEDS[i])[0], together[i], atol=1e-5)
        others = pipeline(["a tiny triangle", PROMPTS[1], "", "b", "c"], seed=[9, SEEDS[1], 8, 7, 6])
        np.testing.assert_allclose(others[1], together[1], atol=1e-5)

    def test_split_into_batches(self, pipeline):
        whole = pipeline(PROMPTS, seed=SEEDS)
        parts = dataclasses.replace(pipeline, devices=Devices(batch_size=2))(PROMPTS, seed=SEEDS)
        np.testing.assert_allclose(parts, whole, atol=1e-5)

    def test_and_of_both(self, pipeline):
        images = pipeline(["a red circle", "a red circle", "a blue cross"], seed=[3, 4, 3], guidance_scale=8)
        assert np.abs(images[0] - images[1]).max() > 0.01
        assert np.abs(images[0] - images[2]).max() > 1e-3

    def test_or_of_its_noise(self, pipeline):
        noise = np.random.default_rng(0).normal(size=(2, 4, 4, 192)).astype(np.float32)
        one = pipeline(PROMPTS[:2], seed=1, latents=noise)
        np.testing.assert_allclose(pipeline(PROMPTS[:2], seed=2, latents=noise), one, atol=1e-5)
        with pytest.raises(UserError, match=r"\(2, 4, 4, 192\)"):
            pipeline(PROMPTS[:2], latents=noise[:1])


class TestGuidance:
    def test_scale_0_reads_no_prompt(self, pipeline):
        plain = pipeline(PROMPTS, seed=SEEDS, guidance_scale=0.0)
        empty = pipeline([""] * 4, seed=SEEDS, guidance_scale=1.0)
        np.testing.assert_allclose(plain, empty, atol=1e-5)
        other = pipeline(PROMPTS[::-1], seed=SEEDS, guidance_scale=0)
        np.testing.assert_allclose(plain, other, atol=1e-5)

    def test_scale_1_reads_no_negative_prompt(self, pipeline):
        one = pipeline(PROMPTS, seed=SEEDS, guidance_scale=1.0)
        other = pipeline(PROMPTS, "a blue cross", seed=SEEDS, guidance_scale=1.0)
        np.testing.assert_allclose(one, other, atol=1e-5)
        assert np.abs(one - pipeline(PROMPTS, seed=SEEDS, guidance_scale=0)).max() > 1e-4

    def test_the_negative_prompt_takes_the_place_of_the_null_condition(self, pipeline):
        default = pipeline(PROMPTS, seed=SEEDS, guidance_scale=6)
        np.testing.assert_allclose(pipeline(PROMPTS, "", seed=SEEDS, guidance_scale=6), default, atol=1e-5)
        negative = pipeline(PROMPTS, "a blue cross", seed=SEEDS, guidance_scale=6)
        assert np.abs(negative - default).max() > 1e-3
        # uncond + s (cond - uncond): at scale 0 the negative prompt is the prompt.
        negative = pipeline(PROMPTS, "a blue cross", seed=SEEDS, guidance_scale=0)
        prompted = pipeline(["a blue cross"] * 4, seed=SEEDS, guidance_scale=1)
        np.testing.assert_allclose(negative, prompted, atol=1e-5)
        each = pipeline(PROMPTS, ["", "a blue cross", "", ""], seed=SEEDS, guidance_scale=0)
        np.testing.assert_allclose(each[1], negative[1], atol=1e-5)

    def test_is_one_program(self, pipeline):
        pipeline(PROMPTS, seed=SEEDS, guidance_scale=2.0)
        pipeline(PROMPTS, "a blue cross", seed=SEEDS, guidance_scale=2.0)
        with compilations() as compiled:
            for scale in (0, 1, 1.5, 4, -1.0, 20.0):
                pipeline(PROMPTS, seed=SEEDS, guidance_scale=scale)
            pipeline(["", "x", "y", "z"], seed=[7, 7, 8, 9], guidance_scale=3)
            pipeline(PROMPTS, "a red cross", seed=11, guidance_scale=3)
        assert not compiled

    def test_is_the_same_program_for_other_numbers_of_steps(self, pipeline):
        pipeline(PROMPTS, seed=SEEDS, guidance_scale=2.0)
        with compilations() as compiled:
            for num_steps in (1, 7, 23, 50):
                pipeline(PROMPTS, num_steps=num_steps)
        # The table of noise levels has another length; what is compiled for it is arithmetic on that table.
        assert "jit(sample_batch)" not in compiled
        assert not {"jit(dot_general)", "jit(conv_general_dilated)"} & set(compiled)


class TestCheckpoint:
    def test_the_averaged_parameters_make_the_images(self, pipeline, stored):
        jax.tree.map(np.testing.assert_array_equal, pipeline.model.params, stored.state["ema_params"])
        distance = jax.tree.map(
            lambda a, b: float(np.abs(a - b).max()), pipeline.model.params, stored.state["params"]
        )
        assert max(jax.tree.leaves(distance)) > 1e-4

    def test_holds_the_null_condition_that_training_used(self, workdir, pipeline, stored, tmp_path):
        np.testing.assert_array_equal(pipeline.model.null.context, stored.constants["context"])
        plain = pipeline(PROMPTS[0], guidance_scale=0)
        prompted = pipeline(PROMPTS[0], guidance_scale=1)
        # Another text encoder beside the same checkpoint: prompts change, the null condition does not.
        copy = tmp_path / "copy"
        shutil.copytree(workdir, copy)
        [weights] = (copy / "text_encoder").glob("*.safetensors")
        tensors = safetensors.numpy.load_file(weights)
        changed = {name: tensor + 0.2 for name, tensor in tensors.items()}
        safetensors.numpy.save_file(changed, weights, {"format": "pt"})
        write_manifest(epath.Path(copy / "text_encoder"), {})
        other = difflax.load(str(copy))
        np.testing.assert_allclose(other(PROMPTS[0], guidance_scale=0), plain, atol=1e-6)
        assert np.abs(other(PROMPTS[0], guidance_scale=1) - prompted).max() > 1e-4

    def test_pictures_drawn_during_training(self, workdir, pipeline):
        assert [p.name for p in sorted((workdir / "samples").iterdir())] == [
            "step_0000006.png",
            "step_0000012.png",
        ]
        with Image.open(workdir / "samples" / "step_0000012.png") as picture:
            drawn = np.asarray(picture, np.int32)
            prompts = json.loads(picture.text["prompts"])
        assert len(set(prompts)) == len(prompts) == 8
        grid = captioned_grid(pipeline(prompts, seed=list(range(8))), prompts)
        grid = np.asarray(grid, np.int32)
        assert np.abs(drawn - grid).max() <= 1
        early = np.asarray(Image.open(workdir / "samples" / "step_0000006.png"), np.int32)
        assert np.abs(early - grid).max() > 1


def test_sample_command(workdir, pipeline, tmp_path):
    output = tmp_path / "samples"
    status, out, errors = command(
        *("sample", f"--workdir={workdir}", f"--output={output}", "--prompt=a red circle", "--trajectory"),
        *("--num_images=2", "--seed=7", "--guidance_scale=2", "--num_steps=6", "--sampler=ddim"),
        "--negative_prompt=a cross",
    )
    assert (status, errors) == (0, "")
    assert str(output / "grid.png") in out
    facts = {
        "guidance_scale": "2.0",
        "num_steps": "6",
        "sampler": "ddim",
        "negative_prompt": "a cross",
    }
    expected = pipeline(
        ["a red circle"] * 2, "a cross", guidance_scale=2, num_steps=6, sampler="ddim", seed=[7, 8]
    )
    for i, seed in enumerate((7, 8)):
        with Image.open(output / f"{i:04d}_seed{seed}.png") as picture:
            picture.load()
            assert facts.items() <= picture.text.items()
            assert picture.text["prompt"] == "a red circle"
            assert picture.text["seed"] == str(seed)
            assert np.abs(np.asarray(picture) / 255 - expected[i]).max() < 1 / 255
    with Image.open(output / "grid.png") as grid:
        grid.load()
        assert json.loads(grid.text["prompts"]) == ["a red circle"] * 2
    assert {"trajectory.png", "frequencies.png", "frequencies.svg"} <= {p.name for p in output.iterdir()}


def test_trajectory_ends_in_the_image(pipeline):
    made = pipeline.trajectory(PROMPTS[:2], num_steps=6, seed=SEEDS[:2])
    assert made.estimates.shape == (6, 2, 32, 32, 3)
    np.testing.assert_allclose(made.images, pipeline(PROMPTS[:2], num_steps=6, seed=SEEDS[:2]), atol=1e-5)
    # From noise to data: the last step lands on its estimate of x0.
    assert np.all(np.diff(made.log_snr) > 0)
    np.testing.assert_allclose(made.estimates[-1], made.images, atol=1e-2)


def test_ablate_compiles_its_sweep_once(workdir, tmp_path):
    def sweep(scales):
        with compilations() as compiled:
            status, out, _ = command(
                *("ablate", f"--workdir={workdir}", f"--guidance_scales={scales}", "--seeds=1"),
                f"--output={tmp_path / str(len(scales))}",
            )
        assert status == 0
        assert "prompt accuracy" in out
        return compiled

    assert sweep("0,1").count("jit(sample_batch)") == 1
    # `load` builds the network anew, so its program is met once more, for four scales as for two.
    assert sweep("0,1,2,8").count("jit(sample_batch)") == 1
    files = {p.name for p in (tmp_path / "7").iterdir()}
    assert {"report.html", "results.json", "table.csv"} <= files


ON_EIGHT_DEVICES = """
import sys, jax, numpy as np
jax.config.update("jax_num_cpu_devices", 8)
import difflax
from difflax.parallel.sharding import MeshShape
workdir, output = sys.argv[1:]
meshes = {"own": None, "fsdp": MeshShape(data=1, fsdp=8), "mixed": MeshShape(data=2, fsdp=2, tensor=2)}
made = {}
for name, shape in meshes.items():
    pipeline = difflax.load(workdir, mesh=shape)
    leaves = jax.tree.leaves(pipeline.model.params)
    held = sum(leaf.addressable_shards[0].data.size for leaf in leaves)
    made[f"{name} held"] = held / sum(leaf.size for leaf in leaves)
    made[name] = pipeline(["a red circle", "a small blue square", "a large green cross"], seed=[3, 4, 5])
np.savez(output, **made)
"""


@pytest.mark.slow
def test_images_of_eight_devices_are_those_of_one(workdir, pipeline, tmp_path):
    """On the run's own mesh (data), with split parameters, and with split products."""
    output = tmp_path / "made.npz"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", ON_EIGHT_DEVICES, workdir, output], check=True, env=environment)
    expected = pipeline(PROMPTS[:3], seed=SEEDS[:3])
    with np.load(output) as made:
        for name, low, high in (("own", 1, 1), ("fsdp", 1 / 8, 1 / 7), ("mixed", 1 / 4, 1 / 1.9)):
            np.testing.assert_allclose(made[name], expected, atol=1e-4, err_msg=name)
            assert low <= made[f"{name} held"] <= high, name


def together(count, *arguments):
    """Runs a command in so many processes of two devices each, over the loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = (
        "import sys, jax; jax.config.update('jax_num_cpu_devices', 2); from difflax.cli.main import run;"
        " sys.exit(run(sys.argv[1:]))"
    )
    address = (f"--coordinator=127.0.0.1:{port}", f"--processes={count}")
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, *arguments, *address, f"--process={index}"],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    said = [process.communicate(timeout=600) for process in running]
    assert [process.returncode for process in running] == [0] * count, said
    # Gloo tells on standard output whom it has found.
    return [re.sub(r"\[Gloo\].*\n", "", out) for out, _ in said]


@pytest.mark.slow
def test_two_processes_sample_and_sweep_together(workdir, tmp_path):
    """Parameters split over the devices of both; the first one writes what one process writes."""
    mesh = "--mesh=data=1,fsdp=4"
    sample = ("sample", f"--workdir={workdir}", *(f"--prompt={prompt}" for prompt in PROMPTS))
    sweep = ("ablate", f"--workdir={workdir}", "--guidance_scales=0,2", "--seeds=2")
    for name, command_line in (("sample", sample), ("sweep", sweep)):
        said = together(2, *command_line, mesh, f"--output={tmp_path / 'two' / name}")
        assert said[0] and not said[1]
        assert command(*command_line, f"--output={tmp_path / 'one' / name}")[0] == 0
    one, two = tmp_path / "one", tmp_path / "two"
    assert {p.relative_to(one) for p in one.rglob("*")} == {p.relative_to(two) for p in two.rglob("*")}
    for path in (one / "sample").glob("*.png"):
        with Image.open(path) as here, Image.open(two / "sample" / path.name) as there:
            assert np.abs(np.asarray(here, np.int32) - np.asarray(there, np.int32)).max() <= 1
    results = [json.loads((folder / "sweep" / "results.json").read_text()) for folder in (one, two)]
    for here, there in zip(*(result["curves"] for result in results), strict=True):
        assert (here["group"], here["metric"]) == (there["group"], there["metric"])
    # Again: both find what was measured.
    assert together(2, *sweep, mesh, f"--output={two / 'sweep'}")[0]
