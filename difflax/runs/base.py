"""What several kinds of run give to the common training loop: batches and pictures."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from difflax.config.experiments import DiffusionExperiment, Experiment, FineTuningExperiment
from difflax.data.loader import Loader
from difflax.data.records import Records
from difflax.evaluation.spot import spot_check
from difflax.generation.pipeline import Pipeline
from difflax.parallel.sharding import local_rows
from difflax.training.loop import Periodic
from difflax.training.state import TrainState


def make_loader(experiment: Experiment, records: Records | None = None) -> Loader:
    """The batches of this process, those of its devices, of ``records`` or the training split."""
    size = experiment.training.batch_size
    if records is None:
        records = experiment.data.split("train")
    return Loader(
        records,
        batch_size=size,
        seed=experiment.seed,
        buckets=getattr(records, "buckets", None),
        epoch=getattr(records, "epoch", None),
        local_rows=local_rows(experiment.mesh.make(), size),
        max_bad_examples=experiment.training.max_bad_examples,
    )


def picture_task(
    every: int,
    pipeline: Callable[[int, TrainState], Pipeline],
    prompts: Sequence[str],
    workdir: epath.Path,
) -> Periodic:
    """Draws the same prompts with the same seeds, as ``samples/step_N.png`` and for TensorBoard. All
    processes draw, the first one writes.
    """

    def draw(step: int, state: TrainState, logger: Any) -> None:
        from difflax.figures.grids import captioned_grid
        from difflax.figures.png import save_png

        images = pipeline(step, state)(list(prompts), seed=list(range(len(prompts))))
        if jax.process_index() != 0:
            return
        grid = captioned_grid(images, prompts)
        (workdir / "samples").mkdir(exist_ok=True)
        save_png(workdir / "samples" / f"step_{step:07d}.png", grid, {"step": step, "prompts": list(prompts)})
        logger.picture(step, "samples", np.asarray(grid.convert("RGB")))

    return Periodic(every, draw)


def measuring_task(
    experiment: DiffusionExperiment | FineTuningExperiment, pipeline: Callable[[int, TrainState], Pipeline]
) -> Periodic:
    """Measures pictures of the first prompts of ``config.evaluation`` at the run's own guidance, see
    `spot_check`. All processes draw and measure.
    """
    training, protocol = experiment.training, experiment.evaluation

    @functools.cache
    def instruments():
        # Made when they are first needed: the judge remembers what is true of each prompt.
        group = protocol.groups(experiment.data)[0]
        group = dataclasses.replace(group, prompts=group.prompts[: training.evaluate_prompts])
        return group, protocol.judge()

    def measure(step: int, state: TrainState) -> dict[str, float | None]:
        group, judge = instruments()

        def draw(prompts, seeds):
            return pipeline(step, state)(prompts, seed=seeds.tolist())

        return spot_check(draw, group, protocol.seeds, judge)

    return Periodic(training.evaluate_every, measure)
