"""What a train step will need on a machine, from its compiled program; the machine need not be there."""

import contextlib
import dataclasses
import math
import re
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from difflax.core.chips import Chip, chip
from difflax.core.flops import count_flops
from difflax.core.types import UserError
from difflax.profiling.hlo import CompiledProgram
from difflax.training.runtime.compiled import trace_step
from difflax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything of one device, in bytes, FLOPs and seconds.

    Attributes:
        devices: how many there are; ``kind``: their name.
        batch_size: of all devices together.
        parameters, optimizer, average: shares of the state.
        arguments: the state and the batch as the program takes them.
        temporaries: activations, gradients and what else the program holds for a while.
        peak: of memory.
        flops: of a step, see `count_flops`.
        accessed: bytes of the device's memory that are read and written.
        collectives: bytes that each kind of collective moves.
        trace_seconds, compile_seconds: what planning took.
        chip: ``None`` where its peak is not known.
    """

    devices: int
    kind: str
    batch_size: int
    parameters: int
    optimizer: int
    average: int
    arguments: int
    temporaries: int
    peak: int
    flops: float
    accessed: int
    collectives: dict[str, int]
    trace_seconds: float
    compile_seconds: float
    chip: Chip | None

    @property
    def times(self) -> dict[str, float]:
        """Seconds that the step's arithmetic, memory and collectives take at the chip's peaks."""
        if self.chip is None:
            return {}
        return {
            "arithmetic": self.flops / self.chip.flops,
            "memory": self.accessed / self.chip.bandwidth,
            "collectives": sum(self.collectives.values()) / self.chip.links,
        }

    @property
    def step_seconds(self) -> float | None:
        """The roofline (Williams et al. 2009, https://doi.org/10.1145/1498765.1498785): the longest of
        `times`, which run beside each other at best.
        """
        return max(self.times.values()) if self.times else None

    @property
    def hfu(self) -> float | None:
        """The share of the chip's peak that the roofline allows, recomputation included."""
        return self.times["arithmetic"] / self.step_seconds if self.step_seconds else None

    @property
    def fits(self) -> bool | None:
        """Whether the peak is below the chip's memory."""
        return None if self.chip is None else self.peak <= self.chip.memory

    @property
    def largest_batch(self) -> int | None:
        """An estimate: what does not belong to the state or the gradients grows with the batch."""
        if self.chip is None:
            return None
        fixed = self.parameters + self.optimizer + self.average + self.parameters
        growing = max(self.peak - fixed, 1)
        fit = self.batch_size * max(self.chip.memory - fixed, 0) / growing
        return int(fit) // self.devices * self.devices

    def advice(self) -> list[str]:
        """What to change, most useful first."""
        if self.chip is None:
            return []
        found = []
        state = self.parameters + self.optimizer + self.average
        if not self.fits and state > 0.5 * self.chip.memory:
            found.append(
                "the state alone fills half of a chip: raise mesh.fsdp, or optimizer.moments = bfloat16"
            )
        if not self.fits:
            found.append(
                f"lower training.batch_size (about {self.largest_batch} fit), model.remat = dots or full,"
                " training.accumulate, or model.dtype = bfloat16"
            )
        bottlenecks = {
            "collectives": "the links are the bottleneck: a larger batch, or less fsdp and more data in the"
            " mesh",
            "memory": "the memory is the bottleneck: model.dtype = bfloat16, or a larger batch a chip",
        }
        longest = max(self.times, key=self.times.get)
        found += [advice for part, advice in bottlenecks.items() if part == longest]
        if self.fits and self.peak < 0.5 * self.chip.memory:
            found.append(f"there is room for a batch of about {self.largest_batch}")
        return found


MAX_VIRTUAL = 1024
"""CPU devices; each takes memory and time to make."""


def topology_devices(topology: str) -> list[Any]:
    """The devices of a machine: ``"v5e:4x4"`` (any TPU slice that libtpu knows, without having one),
    ``"2*v5e:4x4"`` (so many slices), ``"cpu:8"`` (virtual, before JAX has started), or ``"here"``.

    Raises:
        UserError: there is no such machine, or libtpu is missing.
    """
    if topology == "here":
        return jax.devices()
    kind, _, shape = topology.partition(":")
    if kind == "cpu" and shape.isdecimal() and int(shape):
        if int(shape) > MAX_VIRTUAL:
            raise UserError(f"--topology={topology}: give at most {MAX_VIRTUAL:,} virtual devices")
        with contextlib.suppress(RuntimeError):  # JAX has started
            jax.config.update("jax_num_cpu_devices", int(shape))
        devices = jax.devices("cpu")
        if len(devices) < int(shape):
            raise UserError(f"--topology={topology}: JAX has started with {len(devices)} CPU devices already")
        return devices[: int(shape)]
    found = re.fullmatch(r"(?:([1-9]\d*)\*)?(v\d\w*:\d+(?:x\d+)+)", topology)
    if not found:
        raise UserError(f"--topology={topology!r}: give v5e:4x4 or another TPU slice, cpu:8, or here")
    from jax.experimental import topologies

    slices = {"num_slices": int(found[1])} if found[1] else {}
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=found[2], **slices)
        return list(description.devices)
    except Exception as error:  # libtpu raises what it likes
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"--topology={topology}: no TPU compiler for it here ({text}); pip install 'difflax[tpu]', or"
            " plan for virtual devices with cpu:8"
        ) from error


def plan(step: Callable, abstract: TrainState, batch: PyTree, rows: int, mesh: Mesh) -> Plan:
    """Compiles ``step`` for states and batches of these shapes on ``mesh``, and reads the program.

    Args:
        batch: a batch of any size, of whose values nothing is read.
        rows: of the global batch.
    """
    start = time.perf_counter()
    traced = trace_step(step, abstract, mesh, batch, rows=rows)
    lowered = traced.lower()
    between = time.perf_counter()
    compiled = _compile(lowered, bytes_per_device(abstract))
    end = time.perf_counter()
    memory = compiled.memory_analysis()
    program = CompiledProgram(compiled.as_text())
    kind = mesh.devices.flat[0].device_kind
    return Plan(
        devices=mesh.size,
        kind=kind,
        batch_size=rows,
        parameters=bytes_per_device(abstract.params),
        optimizer=bytes_per_device(abstract.opt_state),
        average=bytes_per_device(abstract.ema_params),
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        peak=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        flops=count_flops(traced.jaxpr) / mesh.size,
        accessed=program.accessed_bytes(),
        collectives=program.collective_bytes(),
        trace_seconds=between - start,
        compile_seconds=end - between,
        chip=chip(kind),
    )


def _compile(lowered: Any, state: int) -> Any:
    """The compiled program.

    Raises:
        UserError: TPU compilers give no program that exceeds the chip's memory.
    """
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text:
            raise
        found = re.search(r"[Uu]sed ([\d.]+)G of ([\d.]+)G|\(([\d.]+)G\) exceeds .*\(([\d.]+)G\)", text)
        sizes = [size for size in found.groups() if size] if found else []
        needed = "{} GiB a device, which has {}".format(*sizes) if sizes else "more than a device has"
        raise UserError(
            f"does not fit: the program takes {needed}; parameters, optimizer and average are"
            f" {state / 2**30:.2g} GiB; lower training.batch_size, or set model.remat = full,"
            " training.accumulate, model.dtype = bfloat16, or a larger mesh.fsdp"
        ) from error


def bytes_per_device(tree: PyTree) -> int:
    """What one device holds of arrays, or of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
