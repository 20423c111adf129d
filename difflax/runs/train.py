"""`train`: from a config to a trained workdir."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from difflax.config.checks import check
from difflax.config.embedded import refuse_embedded
from difflax.config.experiments import (
    AutoencoderExperiment,
    CLIPExperiment,
    DiffusionExperiment,
    FineTuningExperiment,
    parse,
)
from difflax.config.files import change_workdir, other_config, resolved_values
from difflax.core.events import Events
from difflax.core.memory import check_memory
from difflax.core.types import UserError
from difflax.parallel.processes import alone_in, first_process_first
from difflax.runs.autoencoder import prepare_autoencoder
from difflax.runs.clip import prepare_clip
from difflax.runs.diffusion import prepare_diffusion
from difflax.runs.finetune import prepare_finetune
from difflax.training.loop import fit
from difflax.training.runtime.checkpoints import stored_config

PREPARE = {
    AutoencoderExperiment: prepare_autoencoder,
    CLIPExperiment: prepare_clip,
    DiffusionExperiment: prepare_diffusion,
    FineTuningExperiment: prepare_finetune,
}
"""What prepares a run, by its kind."""


def train(
    config: ConfigDict | Mapping[str, Any],
    workdir: epath.PathLike,
    *,
    stop_at: int | None = None,
    change: bool = False,
) -> None:
    """Trains what the config names, or goes on with it; see `fit`.

    Args:
        change: go on with a run that began with another number of steps or learning rate, see `CHANGEABLE`.

    Raises:
        UserError: something in the config is wrong, or another process trains in ``workdir``; and see `fit`.
    """
    refuse_embedded(workdir)
    workdir = epath.Path(workdir)
    experiment = parse(config, workdir)
    check(experiment)
    options, mesh = experiment.training, experiment.mesh.make()
    if options.batch_size % (mesh.shape["data"] * mesh.shape["fsdp"]):
        raise UserError(
            f"config.training.batch_size = {options.batch_size} must be a multiple of the"
            f" {mesh.shape['data'] * mesh.shape['fsdp']} devices of the mesh's data and fsdp axes"
        )
    check_sizes(experiment)
    with alone_in(workdir):
        with first_process_first():
            _check_checkpoint(workdir, experiment.training.steps)
            if change:
                Events(workdir)("changed", change_workdir(workdir, experiment))
            task = PREPARE[type(experiment)](experiment, workdir)
        fit(
            workdir,
            dict(experiment.resolved),
            task,
            optimizer=experiment.optimizer.build(options.steps),
            ema=experiment.ema,
            mesh=mesh,
            rules=experiment.mesh.rules,
            seed=experiment.seed,
            options=options,
            label=experiment.name,
            stop_at=stop_at,
            learning_rates=experiment.optimizer.learning_rates(options.steps),
        )


def _check_checkpoint(workdir: epath.Path, steps: int) -> None:
    """Refuses a newest checkpoint that another run wrote, or that lies behind the run's end."""
    found = stored_config(workdir / "checkpoints")
    if found is None or not (workdir / "config.json").exists():
        return
    step, config = found
    where = workdir / "checkpoints" / f"step_{step}"
    if other := other_config(config, resolved_values(workdir)):
        raise UserError(
            f"{where} was written by a run with another config than config.json says ({other}): put back the"
            " workdir's own, or choose another --workdir"
        )
    if step > steps:
        raise UserError(
            f"config.training.steps = {steps}, but the run has got to {where}: give at least {step} steps, or"
            " another --workdir"
        )


def check_sizes(experiment: Any) -> None:
    """Refuses a batch, or a network with its gradient, averages and moments, that this machine cannot hold.

    Accelerators are asked by their compiler, which says what is missing (``difflax plan`` says it before).

    Raises:
        UserError: with what they would need.
    """
    batch_size, shape = experiment.training.batch_size, experiment.data.image_shape
    check_memory(
        4.0 * batch_size * math.prod(shape) / jax.process_count(),
        f"config.training.batch_size = {batch_size}: one batch",
    )
    network = getattr(experiment, "network", None)
    if network is None or jax.default_backend() != "cpu" or jax.process_count() > 1:
        return
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(network.abstract()))
    copies = 5 + len(experiment.ema.profiles)
    check_memory(4.0 * copies * count, f"training the {count:,} parameters of config.model")
