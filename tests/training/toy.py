"""A run that compiles in a moment: a linear model on numbers, with the loop's own state, loader and files.

As a script it is a process of its own, as the command line is:

    python toy.py WORKDIR STEPS [key=value of TrainingOptions …]

It ends with the exit status of `difflax.cli.main.run`. ``DIFFLAX_TOY_PAUSE`` seconds pass between two steps;
``DIFFLAX_TOY_DEVICES`` virtual devices are used; process ``DIFFLAX_TOY_HANGS`` never gets its fourth batch.
"""

import dataclasses
import os
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from difflax.data.loader import Loader
from difflax.data.records import Record
from difflax.models.functional import functional
from difflax.parallel.sharding import MeshShape, local_rows
from difflax.training.ema import EMA
from difflax.training.loop import Task, TrainingOptions, fit
from difflax.training.objectives.base import WHOLE, Plain
from flax import nnx

SIZE = 8


class Net(nnx.Module):
    """y = W x + b."""

    def __init__(self, rngs):
        self.proj = nnx.Linear(SIZE, SIZE, rngs=rngs)

    def __call__(self, x):
        return self.proj(x)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regression(Plain):
    """Learns to reverse noisy pixels. A picture that is 255 everywhere stands for a broken example: its loss
    is not a number.
    """

    model: object = dataclasses.field(default_factory=lambda: functional(lambda rngs: Net(rngs)))

    def loss(self, params, batch, key, memory=(), part=WHOLE):
        x = batch["image"].astype(jnp.float32)[:, 0, :, 0] / 255
        noise = jax.random.normal(part.own(key), x.shape) * 0.01
        error = self.model.apply(params, x + noise) - x[:, ::-1]
        broken = jnp.where(jnp.min(x, -1) == 1, jnp.nan, 1.0)
        return jnp.mean(error**2, -1) * broken, {}


class Pixels:
    """Random rows of pixels; those of ``broken`` are 255 everywhere."""

    flip = 0.0

    def __init__(self, rows=48, broken=()):
        self.images = np.random.default_rng(0).integers(0, 255, (rows, 1, SIZE, 1), np.uint8)
        self.images[list(broken)] = 255
        self.captions = [f"row {i}" for i in range(rows)]

    def __len__(self):
        return len(self.captions)

    def __getitem__(self, row):
        return Record(self.images[row], self.captions[row])

    def __getitems__(self, rows):
        return [self[row] for row in rows]


class Slow(Loader):
    """A loader that takes its time."""

    pause = 0.0

    def __next__(self):
        time.sleep(self.pause)
        hangs = os.environ.get("DIFFLAX_TOY_HANGS") == str(jax.process_index())
        if hangs and self.get_state()["next_batch"] == 3:
            time.sleep(3600)
        return super().__next__()


def train(
    workdir,
    options,
    *,
    records=None,
    mesh=MeshShape(),
    loader=Loader,
    constants=None,
    start=None,
    measured=None,
    ema=EMA(decay=0.9),
    **more,
):
    """`fit` on the toy."""
    made = mesh.make()
    return fit(
        workdir,
        {"toy": True},
        Task(
            objective=Regression(),
            loader=loader(
                records or Pixels(),
                batch_size=options.batch_size,
                seed=0,
                local_rows=local_rows(made, options.batch_size),
                max_bad_examples=options.max_bad_examples,
            ),
            prepare=lambda batch: {"image": batch["image"]},
            constants=constants or {},
            start=start,
            measured=measured,
        ),
        optimizer=optax.adam(1e-2),
        ema=ema,
        mesh=made,
        seed=0,
        options=options,
        **more,
    )


def options(steps, **more):
    """A log line every step, a checkpoint every third."""
    return TrainingOptions(**{"steps": steps, "batch_size": 8, "log_every": 1, "checkpoint_every": 3, **more})


def main(argv):
    """See the module."""
    from difflax.cli.main import ending
    from difflax.parallel.processes import initialize

    if "DIFFLAX_TOY_DEVICES" in os.environ:
        jax.config.update("jax_num_cpu_devices", int(os.environ["DIFFLAX_TOY_DEVICES"]))
    workdir, steps, *rest = argv
    more = {key: int(value) for key, _, value in (item.partition("=") for item in rest)}

    def run():
        initialize()
        Slow.pause = float(os.environ.get("DIFFLAX_TOY_PAUSE", 0))
        train(workdir, options(int(steps), record_order=True, **more), loader=Slow)

    return ending(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
