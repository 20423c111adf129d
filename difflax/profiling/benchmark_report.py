"""What `difflax.profiling.benchmark` measured, as the Markdown of ``docs/benchmarks.md``."""

import dataclasses
import datetime
import importlib.metadata
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from difflax.profiling.benchmark import AGREEMENT, Case, Timing

TITLES = {
    "train": "train step, batch {batch_size}",
    "forward": "forward, batch {batch_size}",
    "sample": "{num_steps} DDIM steps with CFG, {sample_batch_size} image(s)",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """All that the page says.

    Attributes:
        parameters: of the network.
        compile_seconds, program_bytes: see `Difflax`.
        peak_bytes: of this process and of the other's, if there was one.
        other: facts that the other implementation gave of itself; ``None`` if nothing was compared.
    """

    case: Case
    timings: Mapping[str, Timing]
    parameters: int
    compile_seconds: Mapping[str, float]
    program_bytes: Mapping[str, int]
    peak_bytes: Sequence[int]
    command: str
    other: Mapping[str, Any] | None = None


def machine() -> str:
    """The device, in neutral words: the accelerator's kind, or the cores."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kind = platform.machine().replace("_", "-")
    return f"{cores} {kind} cores"


def settings() -> list[str]:
    """What the environment says about the compiler and the number of devices, as a shell would be told."""
    names = ("JAX_NUM_CPU_DEVICES", "XLA_FLAGS")
    return [f"{name}={shlex.quote(os.environ[name])}" for name in names if os.environ.get(name)]


def spread(seconds: Sequence[float]) -> str:
    """The median with the quartiles around it."""
    low, middle, high = np.quantile(seconds, (0.25, 0.5, 0.75))
    return f"{middle:.3g} s ({low:.3g} – {high:.3g})"


def markdown(result: BenchmarkResult, date: datetime.date | None = None) -> str:
    """The page."""
    case, other = result.case, result.other
    versions = {name: importlib.metadata.version(name) for name in ("difflax", "jax", "flax")}
    if other is not None:
        versions |= other["versions"]
    head = ["task", "difflax"] + ["PyTorch eager", "ratio"] * (other is not None)
    rows = []
    for task, timing in result.timings.items():
        row = [TITLES[task].format(**dataclasses.asdict(case)), spread(timing.ours)]
        if timing.ratio is not None:
            row += [spread(timing.theirs), f"{timing.ratio:.2f}"]
        rows.append(row)
    programs = [
        [task, f"{result.compile_seconds[task]:.0f} s", f"{result.program_bytes[task] / 2**20:.0f} MiB"]
        for task in result.timings
    ]
    rounds = len(next(iter(result.timings.values())).ours)
    peaks = [f"{bytes_ / 2**30:.1f} GiB" for bytes_ in result.peak_bytes]
    lines = [
        "# Benchmarks",
        "",
        f"Measured {date or datetime.date.today()} on {machine()}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ". Written by:",
        "",
        f"    {' '.join([*settings(), result.command])}",
        "",
        f"The UNet has {result.parameters / 1e6:.1f} M parameters, float32: block_out_channels"
        f" {case.block_out_channels}, layers_per_block {case.layers_per_block}, cross_attention_dim"
        f" {case.cross_attention_dim}, attention_head_dim {case.attention_head_dim}, on latents of"
        f" {case.size} × {case.size} × {case.channels} with {case.tokens} text tokens. A train step is"
        " forward, backward, AdamW and the moving average of the parameters.",
        "",
        *table(head, rows),
        "",
        f"Median of {rounds} runs (quartiles)."
        + (
            ""
            if other is None
            else " The two take turns run by run on the same weights and inputs, and agree on loss, output"
            f" and sample to {AGREEMENT:.1%}; the ratio is the median of theirs to ours over neighbouring"
            " runs, above 1 where difflax is faster. PyTorch ran diffusers' UNet on"
            f" {other['threads']} threads."
        ),
        "",
        *table(["program", "trace and compile", "memory by XLA's plan"], programs),
        "",
        f"Most memory held: {peaks[0]}"
        + (f" by difflax's process, {peaks[1]} by PyTorch's." if len(peaks) > 1 else "."),
        "",
    ]
    return "\n".join(lines)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
