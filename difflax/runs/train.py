"""`train`: from a config to a trained workdir."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from difflax.config.checks import check
from difflax.config.experiments import (
    AutoencoderExperiment,
    CLIPExperiment,
    DiffusionExperiment,
    FineTuningExperiment,
    parse,
)
from difflax.core.memory import check_memory
from difflax.core.types import UserError
from difflax.parallel.processes import first_process_first
from difflax.runs.autoencoder import prepare_autoencoder
from difflax.runs.clip import prepare_clip
from difflax.runs.diffusion import prepare_diffusion
from difflax.runs.finetune import prepare_finetune
from difflax.training.loop import fit

PREPARE = {
    AutoencoderExperiment: prepare_autoencoder,
    CLIPExperiment: prepare_clip,
    DiffusionExperiment: prepare_diffusion,
    FineTuningExperiment: prepare_finetune,
}
"""What prepares a run, by its kind."""


def train(
    config: ConfigDict | Mapping[str, Any], workdir: epath.PathLike, *, stop_at: int | None = None
) -> None:
    """Trains what the config names, or goes on with it; see `fit`."""
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
    with first_process_first():
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
    )


def check_sizes(experiment: Any) -> None:
    """Refuses a batch, or a network with its gradient, average and moments, that this machine cannot hold.

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
    check_memory(4.0 * 5 * count, f"training the {count:,} parameters of config.model")
