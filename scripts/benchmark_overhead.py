"""What a run pays for saving, logging and the check for steps to skip, on this machine, as shares of a step.

    python scripts/benchmark_overhead.py [--config=configs/shapes.py] [--seconds=900] [--output=overhead.md]

Each cost is the difference of two stretches of training that are alike but for the thing measured, taken in
turns, in changing order, so that whatever else the machine does falls on both; the table gives the median of
the differences and its 95% interval (a bootstrap over the pairs). A save and a log line are measured by
themselves, with the device's and the disk's work in the background until the end of the stretch, and spread
over the interval of the config.
"""

import argparse
import pathlib
import sys
import tempfile
import time

import jax
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent

LINES = 50
"""Steps whose metrics a line takes the mean of."""


def load_config(path):
    """The config of a file."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


class Run:
    """A run's compiled step, its state, and the parts of the loop around it; data are random numbers."""

    def __init__(self, config, workdir):
        from difflax.config.experiments import parse
        from difflax.parallel.sharding import put_local_batch
        from difflax.runs.plan import step_of
        from difflax.training.runtime.checkpoints import Checkpoints
        from difflax.training.runtime.compiled import CompiledStep
        from difflax.training.runtime.logs import Logger
        from difflax.training.runtime.throughput import Throughput

        step, abstract, example, rows, mesh = step_of(parse(config), jax.devices())
        rng = np.random.default_rng(0)

        def rows_like(leaf):
            shape = (rows, *leaf.shape[1:])
            if leaf.dtype == np.uint8:
                return rng.integers(0, 256, shape, np.uint8)
            return rng.normal(size=shape).astype(leaf.dtype)

        self.batch = put_local_batch(jax.tree.map(rows_like, example), mesh)
        self.state = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape) * 0.02, abstract)
        self.state = jax.tree.map(
            lambda value, leaf: jax.device_put(np.abs(value).astype(leaf.dtype), leaf.sharding),
            self.state,
            abstract,
        )
        self.bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(self.state))
        self.compiled = {"checked": CompiledStep(step, abstract, mesh)}
        self.compiled["checked"].compile(self.batch)
        self.compiled["unchecked"] = unchecked(step, abstract, mesh, self.batch)
        self.checkpoints = Checkpoints(pathlib.Path(workdir) / "checkpoints")
        self.logger = Logger(workdir, start=0, total=10**6, label="overhead")
        self.speed = Throughput(rows, mesh.size)
        self.number = 0

    def steps(self, count, *, kind="checked", log=False, save=False):
        """Seconds of so many steps, the device's work included, with a log line after the first, or a save
        before them that ends within them or is waited for.
        """
        from difflax.training.runtime.logs import mean_metrics

        began = time.perf_counter()
        if save:
            self.checkpoints.save(self.number, self.state, {"next_batch": 0}, {"config": "…"}, {})
        for number in range(count):
            self.number += 1
            self.state, metrics = self.compiled[kind](self.state, self.batch)
            self.logger.advance()
            if log and number == 0:
                numbers, _ = mean_metrics([metrics] * LINES)
                self.logger.scalars(self.number, {**numbers, **self.speed.line(self.number)})
                self.checkpoints.poll()
        jax.block_until_ready(self.state)
        if save:
            self.checkpoints.wait()
        return time.perf_counter() - began


def unchecked(step, abstract, mesh, batch):
    """The step, compiled to think that every loss and gradient is finite."""
    import jax.numpy as jnp
    from difflax.training.runtime.compiled import CompiledStep

    found, jnp.isfinite = jnp.isfinite, lambda x: jnp.ones_like(x, bool)
    try:
        made = CompiledStep(step, abstract, mesh)
        made.compile(batch)
    finally:
        jnp.isfinite = found
    return made


def pairs(one, other, seconds):
    """Differences of ``one()`` and ``other()`` in seconds, and the median of ``other()``."""
    found, base, first = [], [], True
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(found) < 5:
        order = (one, other) if first else (other, one)
        times = {function: function() for function in order}
        found.append(times[one] - times[other])
        base.append(times[other])
        first = not first
    return np.asarray(found), float(np.median(base))


def interval(values):
    """The median with its 95% bootstrap interval."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (4000, len(values))), axis=1)
    return float(np.median(values)), *np.quantile(medians, (0.025, 0.975)).tolist()


def main(argv):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default=str(ROOT / "configs" / "shapes.py"))
    parser.add_argument("--seconds", type=float, default=900, help="of measuring, a third for each cost")
    parser.add_argument("--save_steps", type=int, default=20, help="of a stretch with a save")
    parser.add_argument("--output", help="a Markdown file for the table")
    options = parser.parse_args(argv)
    config = load_config(options.config)
    with tempfile.TemporaryDirectory() as workdir:
        run = Run(config, workdir)
        for kind in run.compiled:
            run.steps(3, kind=kind, log=True)
        share, count = options.seconds / 3, options.save_steps
        check, step = pairs(lambda: run.steps(1), lambda: run.steps(1, kind="unchecked"), share)
        line, _ = pairs(lambda: run.steps(2, log=True), lambda: run.steps(2), share)
        save, _ = pairs(lambda: run.steps(count, save=True), lambda: run.steps(count), share)
        run.logger.close()
        run.checkpoints.close()
    every = {"check": 1, "line": config.training.log_every, "save": config.training.checkpoint_every}
    names = {
        "check": "check for steps to skip, every step",
        "line": f"a log line, every {every['line']} steps",
        "save": f"an asynchronous save of {run.bytes / 1e6:.0f} MB, every {every['save']} steps",
    }
    rows = ["| | pairs | costs, ms (95%) | share of the time (95%) |", "|---|---|---|---|"]
    for name, values in (("check", check), ("line", line), ("save", save)):
        middle, low, high = interval(values)
        whole = every[name] * step
        rows.append(
            f"| {names[name]} | {len(values)} | {middle * 1e3:.2f} ({low * 1e3:.2f} to {high * 1e3:.2f})"
            f" | {middle / whole:.2%} ({low / whole:.2%} to {high / whole:.2%}) |"
        )
    text = "\n".join([f"A step takes {step * 1e3:.1f} ms.", "", *rows]) + "\n"
    print(text)
    if options.output:
        pathlib.Path(options.output).write_text(text)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
