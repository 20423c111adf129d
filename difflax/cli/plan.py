"""Compiles a config's train step for a machine that need not be there: memory, FLOPs, time, what to change.

difflax plan --config=configs/shapes.py --topology=v5e:4x4 --config.mesh.fsdp=16 --config.mesh.data=1
"""

from collections.abc import Sequence

from absl import flags

from difflax.core.bounds import MAX_TOKENS
from difflax.core.files import atomic_write, writable_file


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command."""
    from difflax.cli.train import define_config

    define_config(values, argv)
    flags.DEFINE_string(
        "topology",
        "here",
        "machine to plan for: a TPU slice as v5e:4x4, so many slices as 2*v5e:4x4, so many virtual"
        " devices as cpu:8, or here",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "tokens", 77, "tokens of a caption", lower_bound=1, upper_bound=MAX_TOKENS, flag_values=values
    )
    flags.DEFINE_string(
        "output",
        None,
        "Markdown file for the table, which is printed in any case; without it: none",
        flag_values=values,
    )


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    from difflax.cli.train import read_config
    from difflax.runs.plan import plan

    if values.output:
        writable_file(values.output, f"--output={values.output}")
    page = table(plan(read_config(values), values.topology, tokens=values.tokens))
    print(page)
    if values.output:
        with atomic_write(values.output, "w") as file:
            file.write(page)


def table(plan) -> str:
    """Markdown."""

    def size(count: float) -> str:
        return f"{count / 1e9:.3f} GB" if count >= 1e9 else f"{count / 1e6:.3f} MB"

    rows = {
        "devices": f"{plan.devices} × {plan.kind}",
        "batch": str(plan.batch_size),
        "parameters": size(plan.parameters),
        "optimizer": size(plan.optimizer),
        "average of parameters": size(plan.average),
        "activations, gradients and other temporaries": size(plan.temporaries),
        "peak": size(plan.peak),
        "FLOPs of a step": f"{plan.flops / 1e12:.4g} TFLOP",
        "collectives": ", ".join(f"{name} {size(n)}" for name, n in plan.collectives.items()) or "none",
    }
    if plan.chip is not None:
        rows |= {
            "fits": f"{'yes' if plan.fits else 'no'}, of {size(plan.chip.memory)}",
            "largest batch, about": str(plan.largest_batch),
            **{f"{name} at the peak": f"{seconds * 1e3:.2f} ms" for name, seconds in plan.times.items()},
            "roofline: step": f"{plan.step_seconds * 1e3:.2f} ms",
            "roofline: HFU": f"{plan.hfu:.0%}",
        }
    rows["traced, compiled"] = f"{plan.trace_seconds:.0f} s, {plan.compile_seconds:.0f} s"
    lines = ["| a device | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    return (
        "\n".join([*lines, *([""] if plan.advice() else []), *(f"- {text}" for text in plan.advice())]) + "\n"
    )
