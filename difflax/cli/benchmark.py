"""Times the UNet: train step, forward and a guided sampling run; beside PyTorch's diffusers, on the same
weights, where the [parity] extra is installed.

    difflax benchmark --output=docs/benchmarks.md
"""

import contextlib
import importlib.resources
import importlib.util
import pathlib
import sys
import tempfile
from collections.abc import Sequence

from absl import flags

from difflax.cli.fields import define_flag, read_fields
from difflax.core.descriptions import describe
from difflax.core.files import atomic_write, writable_file
from difflax.core.types import UserError

BELOW = "<!-- Written by hand from here on; difflax benchmark keeps it. -->"
PYTORCH = ("pytorch", "unet.py")
"""PyTorch's side, below `difflax.profiling`."""


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command; those of the case are named as its fields."""
    import dataclasses
    import typing

    from difflax.profiling.benchmark import TASKS, Case

    types, said = typing.get_type_hints(Case), describe(Case)
    for field in dataclasses.fields(Case):
        kind = types[field.name]
        bounds = {"lower_bound": 1} if kind is int else {}
        define_flag(values, field.name, kind, field.default, said[field.name], **bounds)
    flags.DEFINE_integer("rounds", 7, "runs of each task that count", lower_bound=1, flag_values=values)
    flags.DEFINE_multi_enum("task", list(TASKS), TASKS, "what is timed", flag_values=values)
    flags.DEFINE_bool(
        "pytorch", None, "compare with PyTorch; without it: if that is installed", flag_values=values
    )
    flags.DEFINE_string(
        "output",
        None,
        "Markdown file for the page, which is printed in any case; without it: none",
        flag_values=values,
    )


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    import jax

    from difflax.data.texts import read_text
    from difflax.evaluation.ablation.results import command_line
    from difflax.profiling import benchmark
    from difflax.profiling.benchmark_report import BenchmarkResult, markdown

    kept = ""
    if values.output:
        path = writable_file(values.output, f"--output={values.output}")
        kept = read_text(path).partition(BELOW)[2] if path.exists() else ""
    case = benchmark.Case(**read_fields(values, benchmark.Case))
    tasks = list(dict.fromkeys(values.task))
    compare = _compare(values.pytorch)
    # Compile times are part of the measurement: none are read from the cache.
    cached = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        ours = benchmark.Difflax(case, tasks)
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)
    with contextlib.ExitStack() as stack:
        theirs = None
        if compare:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            resource = importlib.resources.files("difflax.profiling").joinpath(*PYTORCH)
            script = stack.enter_context(importlib.resources.as_file(resource))
            theirs = benchmark.Subprocess(script, case, ours.params, pathlib.Path(folder))
        timings = benchmark.measure(ours, theirs, tasks, values.rounds)
        peaks = [benchmark.peak_bytes()] + ([] if theirs is None else [theirs.close()])
    page = markdown(
        BenchmarkResult(
            case=case,
            timings=timings,
            parameters=sum(leaf.size for leaf in jax.tree.leaves(ours.params)),
            compile_seconds=ours.compile_seconds,
            program_bytes=ours.program_bytes,
            peak_bytes=peaks,
            command=command_line(),
            other=None if theirs is None else theirs.facts,
        )
    )
    print(page)
    if values.output:
        with atomic_write(path, "w") as file:
            file.write(page + (f"{BELOW}{kept}" if kept else ""))


def _compare(wanted: bool | None) -> bool:
    """Whether PyTorch's side runs; where nobody said and it cannot, a line says so.

    Raises:
        UserError: it was asked for and is not there.
    """
    missing = [name for name in ("torch", "diffusers") if importlib.util.find_spec(name) is None]
    if not missing or wanted is False:
        return wanted is not False
    line = f"no {' and no '.join(missing)} here to compare with; pip install 'difflax[parity]'"
    if wanted:
        raise UserError(f"--pytorch: {line}")
    print(line, file=sys.stderr)
    return False
