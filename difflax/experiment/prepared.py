"""What a kind of run gives to the common training loop."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import PyTree

from difflax.data.latents import WithoutImages
from difflax.data.loader import Loader
from difflax.experiment.sections import Settings
from difflax.generation import Pipeline
from difflax.training.loop import Periodic
from difflax.training.objectives import Objective
from difflax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a kind of model adds to the common loop; see `fit`."""

    objective: Objective
    loader: Any
    prepare: Callable[[dict[str, Any]], PyTree]
    constants: dict[str, Any]
    periodic: tuple[Periodic, ...] = ()
    finish: Callable[[TrainState], None] | None = None
    start: PyTree = None
    frozen: PyTree = None


def make_loader(settings: Settings, *, images: bool = True) -> Loader:
    """The training batches; ``images=False`` where what is known of the images replaces them."""
    split = settings.source.split("train")
    if not images:
        split = WithoutImages(split.captions)
    return Loader(split, batch_size=settings.options.batch_size, seed=settings.seed)


def picture_task(
    every: int,
    pipeline: Callable[[int, TrainState], Pipeline],
    prompts: Sequence[str],
    workdir: epath.Path,
) -> Periodic:
    """Draws the same prompts with the same seeds, as ``samples/step_N.png`` and for TensorBoard."""

    def draw(step: int, state: TrainState, logger: Any) -> None:
        from difflax.evaluation.grids import captioned_grid
        from difflax.evaluation.png import save_png

        images = pipeline(step, state)(list(prompts), seed=list(range(len(prompts))))
        grid = captioned_grid(images, prompts)
        (workdir / "samples").mkdir(exist_ok=True)
        save_png(workdir / "samples" / f"step_{step:07d}.png", grid, {"step": step, "prompts": list(prompts)})
        logger.picture(step, "samples", np.asarray(grid.convert("RGB")))

    return Periodic(every, draw)
