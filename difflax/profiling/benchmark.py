"""How long the UNet takes, beside another implementation on the same weights.

Three tasks, each the project's own code as every run uses it:

- ``train``: one optimizer step (`make_train_step`): forward, backward, AdamW, average of parameters;
- ``forward``: one pass of the network;
- ``sample``: one DDIM run under classifier-free guidance, conditional and unconditional in one batch.

The batch of the first two is spread over all local devices, the last one has one: on a CPU,
``JAX_NUM_CPU_DEVICES=2`` makes a device of every core of two, which keeps both busy where one program's
operations are too small for two.

Two machines are never alike, and one machine is not alike from minute to minute. So the two implementations
take turns, run by run, and what counts is the median of the ratios of neighbours. Before that they must agree
on numbers: the loss of a step, the mean size of an output, of a sample.
"""

import dataclasses
import json
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, PyTree

from difflax.core import streams
from difflax.core.types import Conditioning, Params, UserError
from difflax.diffusion.denoisers import NetworkInput, make_denoiser
from difflax.diffusion.guidance import ClassifierFreeGuidance, Guided
from difflax.diffusion.predictions import PREDICTIONS
from difflax.diffusion.samplers import SAMPLERS
from difflax.diffusion.samplers.base import sample
from difflax.diffusion.schedules import SCHEDULES
from difflax.diffusion.time_grids import TIME_GRIDS, sampling_levels
from difflax.models.functional import Functional, functional
from difflax.models.unet import UNet2DConditionModel
from difflax.parallel.sharding import MeshShape, put_local_batch
from difflax.pretrained.format.torch_names import to_torch
from difflax.training.ema import EMA
from difflax.training.objectives.base import Plain
from difflax.training.optimizers import AdamW
from difflax.training.state import TrainState, init_state
from difflax.training.step import abstract_state, compile_step, make_train_step

TASKS = ("train", "forward", "sample")
AGREEMENT = 1e-3
"""How far the two implementations' numbers may lie apart, relatively."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What is measured; the defaults are the reference case, 24.8 M parameters.

    Attributes:
        block_out_channels: channels of each level of the UNet; every level but the first has attention (a
            single level has it too).
        layers_per_block: residual blocks of a level.
        cross_attention_dim: channels of a token of text.
        attention_head_dim: heads of an attention layer, in spite of the name, which is diffusers'.
        norm_num_groups: groups of a group norm.
        batch_size: examples of a train step and of a forward.
        size: height and width of the latent images.
        channels: of the latent images.
        tokens: of a prompt.
        sample_batch_size: images of the sampling run.
        num_steps: of the sampling run.
        remat: what a backward pass computes again to save memory: "none", "dots" (all but matrix products and
            convolutions), "full" or "offload" (as dots, which go to the host's memory).
    """

    block_out_channels: tuple[int, ...] = (64, 128, 256)
    layers_per_block: int = 2
    cross_attention_dim: int = 256
    attention_head_dim: int = 8
    norm_num_groups: int = 32
    batch_size: int = 16
    size: int = 32
    channels: int = 4
    tokens: int = 77
    sample_batch_size: int = 1
    num_steps: int = 50
    remat: str = "none"

    @property
    def options(self) -> dict[str, Any]:
        """Of the UNet, by the names that both implementations know."""
        levels = len(self.block_out_channels)
        attention = [levels == 1 or level > 0 for level in range(levels)]
        down = [f"{'CrossAttn' * has}DownBlock2D" for has in attention]
        up = [f"{'CrossAttn' * has}UpBlock2D" for has in reversed(attention)]
        return {
            "in_channels": self.channels,
            "out_channels": self.channels,
            "block_out_channels": self.block_out_channels,
            "down_block_types": tuple(down),
            "up_block_types": tuple(up),
            "layers_per_block": self.layers_per_block,
            "cross_attention_dim": self.cross_attention_dim,
            "attention_head_dim": self.attention_head_dim,
            "norm_num_groups": self.norm_num_groups,
        }

    def model(self) -> Functional:
        """The UNet of the case."""
        return functional(lambda rngs: UNet2DConditionModel(**self.options, remat=self.remat, rngs=rngs))

    def inputs(self) -> dict[str, Float[np.ndarray, "..."]]:
        """Random inputs by name; images NHWC."""
        rng = np.random.default_rng(0)

        def draw(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape, np.float32)

        image, text = (self.size, self.size, self.channels), (self.tokens, self.cross_attention_dim)
        return {
            "x": draw(self.batch_size, *image),
            "timesteps": rng.integers(0, 1000, self.batch_size).astype(np.float32),
            "context": draw(self.batch_size, *text),
            "target": draw(self.batch_size, *image),
            "noise": draw(self.sample_batch_size, *image),
            "prompts": draw(2 * self.sample_batch_size, *text),
        }


@dataclasses.dataclass(frozen=True)
class Regression(Plain):
    """The objective of the benchmark: mean squared error to a fixed target."""

    model: Functional

    def loss(
        self, params: Params, batch: PyTree, key: Key[Array, ""], memory: PyTree = ()
    ) -> tuple[Float[Array, " b"], dict[str, Float[Array, ""]]]:
        condition = Conditioning(context=batch["context"])
        out = self.model.module(params)(batch["x"], batch["timesteps"], condition)
        return jnp.square(out - batch["target"]).mean((1, 2, 3)), {}


@runtime_checkable
class Engine(Protocol):
    """An implementation that can be timed."""

    def run(self, task: str) -> tuple[float, float]:
        """Seconds of one run of ``task``, and a number that other implementations must find too."""
        ...


class Difflax:
    """This project's implementation.

    Attributes:
        params: the weights at the start.
        compile_seconds, program_bytes: of each task's program: time to trace and compile, and the memory that
            it occupies while it runs (arguments, results and temporaries, as XLA plans them).
    """

    def __init__(self, case: Case, tasks: Sequence[str] = TASKS):
        model = case.model()
        optimizer = AdamW(schedule="constant", warmup_steps=0, learning_rate=1e-4, clip_norm=None).build(1)
        mesh: Mesh = MeshShape(data=-1).make(jax.local_devices())
        objective = Regression(model)
        abstract = abstract_state(objective, optimizer, mesh)
        self.params = random_params(model.abstract())
        state = init_state(jax.tree.map(jnp.array, self.params), optimizer)
        self._state = jax.device_put(state, jax.tree.map(lambda s: s.sharding, abstract))
        inputs = case.inputs()
        batch = {name: inputs[name] for name in ("x", "timesteps", "context", "target")}
        spread = put_local_batch(batch, mesh)

        def forward(params: Params, batch: PyTree) -> Array:
            condition = Conditioning(context=batch["context"])
            return model.module(params)(batch["x"], batch["timesteps"], condition)

        step = make_train_step(objective, optimizer, EMA(), 0)
        programs = {
            "train": (compile_step(step, abstract, mesh), (self._state, spread)),
            "forward": (jax.jit(forward), (self._state.params, spread)),
            "sample": (
                jax.jit(_sampler(model, case)),
                jax.device_put((self.params, inputs["noise"], inputs["prompts"]), jax.local_devices()[0]),
            ),
        }
        # What each task starts from, as trained so far like the other implementation's, and its number.
        self._tasks: dict[str, tuple[Callable[[], PyTree], Callable[[Any], float]]] = {
            "train": (lambda: self._state, self._trained),
            "forward": (lambda: self._state.params, _mean_size),
            "sample": (lambda: jax.device_put(self._state.params, jax.local_devices()[0]), _mean_size),
        }
        self.compile_seconds: dict[str, float] = {}
        self.program_bytes: dict[str, int] = {}
        self._programs, self._arguments = {}, {}
        for task in tasks:
            function, arguments = programs[task]
            start = time.perf_counter()
            self._programs[task] = function.lower(*arguments).compile()
            self.compile_seconds[task] = time.perf_counter() - start
            memory = self._programs[task].memory_analysis()
            self.program_bytes[task] = (
                memory.argument_size_in_bytes
                + memory.output_size_in_bytes
                + memory.temp_size_in_bytes
                - memory.alias_size_in_bytes
            )
            self._arguments[task] = arguments[1:]

    def run(self, task: str) -> tuple[float, float]:
        first, number = self._tasks[task]
        given = first()
        start = time.perf_counter()
        out = jax.block_until_ready(self._programs[task](given, *self._arguments[task]))
        return time.perf_counter() - start, number(out)

    def _trained(self, out: tuple[TrainState, dict[str, Array]]) -> float:
        self._state, metrics = out
        return float(metrics["loss"])


def _mean_size(out: Float[Array, "..."]) -> float:
    return float(jnp.abs(out).mean())


def random_params(abstract: Params) -> Params:
    """Weights on the host that keep the variance; none is zero, as gradients behind it would be."""
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 100.0
        return rng.standard_normal(leaf.shape, np.float32) / np.float32(np.sqrt(fan_in)) + np.float32(
            len(leaf.shape) == 1
        )

    return jax.tree.map(draw, abstract)


def _sampler(model: Functional, case: Case) -> Callable[[Params, Array, Array], Array]:
    """DDIM as Stable Diffusion's checkpoints have it, so that others can run the very same."""
    schedule, prediction = SCHEDULES["scaled_linear"](), PREDICTIONS["epsilon"]()
    levels = sampling_levels(schedule, TIME_GRIDS["trailing"](), case.num_steps, prediction_type=prediction)

    def run(params: Params, noise: Array, prompts: Array) -> Array:
        denoise = make_denoiser(
            model.module(params), schedule, prediction, network_input=NetworkInput(time_offset=-1.0)
        )
        positive, negative = jnp.split(prompts, 2)
        return sample(
            ClassifierFreeGuidance(scale=7.5).wrap(denoise),
            SAMPLERS["ddim"](),
            levels,
            noise,
            streams.sample_keys(jax.random.key(0), jnp.arange(len(noise))),
            conditioning=Guided(
                positive=Conditioning(context=positive), negative=Conditioning(context=negative)
            ),
        )

    return run


class Subprocess:
    """Another implementation, in a process of its own that answers JSON lines.

    It is started as ``python SCRIPT case.json weights.safetensors``, says hello with its versions, and
    answers ``{"task": name}`` by ``{"seconds": …, "value": …}``.

    Raises:
        UserError: it ends instead of answering.
    """

    def __init__(self, script: pathlib.Path, case: Case, params: Params, folder: pathlib.Path):
        facts = {**dataclasses.asdict(case), "options": case.options}
        (folder / "case.json").write_text(json.dumps(facts))
        weights = to_torch(params)
        tensors = {f"weights/{name}": np.ascontiguousarray(array) for name, array in weights.items()}
        tensors |= {f"inputs/{name}": array for name, array in case.inputs().items()}
        safetensors.numpy.save_file(tensors, folder / "weights.safetensors")
        self._process = subprocess.Popen(
            [sys.executable, script, folder / "case.json", folder / "weights.safetensors"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.facts = self._answer()

    def run(self, task: str) -> tuple[float, float]:
        answer = self._ask({"task": task})
        return answer["seconds"], answer["value"]

    def close(self) -> int:
        """Ends the process; returns the most memory that it ever held, in bytes."""
        peak = self._ask({"task": "end"})["peak_bytes"]
        self._process.communicate()
        return peak

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise UserError("the other implementation's process ended; its last lines say why")
        return json.loads(line)


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of the runs of one task, in the order they were made.

    Attributes:
        ours, theirs: of equal length, neighbours in time; ``theirs`` is empty if nothing was compared.
    """

    ours: tuple[float | int, ...]
    theirs: tuple[float | int, ...] = ()

    @property
    def ratio(self) -> float | None:
        """Theirs to ours, the median over neighbours: above 1, this project is faster."""
        return float(np.median(np.divide(self.theirs, self.ours))) if self.theirs else None


def measure(ours: Engine, theirs: Engine | None, tasks: Sequence[str], rounds: int) -> dict[str, Timing]:
    """Times ``rounds`` runs of every task after one that does not count, the implementations taking turns.

    Raises:
        UserError: they do not agree on the numbers of the first run.
    """
    timings = {}
    for task in tasks:
        engines = [ours] if theirs is None else [ours, theirs]
        first = [engine.run(task)[1] for engine in engines]
        if not np.allclose(first, first[0], rtol=AGREEMENT, atol=0):
            raise UserError(f"benchmark: {task} gives {first[0]:.6g} here and {first[1]:.6g} there")
        seconds = [[engine.run(task)[0] for engine in engines] for _ in range(rounds)]
        timings[task] = Timing(*map(tuple, zip(*seconds, strict=True)))
    return timings


def peak_bytes() -> int:
    """The most memory that this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
