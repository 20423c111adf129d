"""`train`: from a config to a trained workdir."""

from collections.abc import Mapping
from typing import Any

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
from difflax.core.types import UserError
from difflax.parallel.processes import alone_in, first_process_first
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
    """Trains what the config names, or goes on with it; see `fit`.

    Raises:
        UserError: something in the config is wrong, or another process trains in ``workdir``; and see `fit`.
    """
    workdir = epath.Path(workdir)
    experiment = parse(config, workdir)
    check(experiment)
    options, mesh = experiment.training, experiment.mesh.make()
    if options.batch_size % (mesh.shape["data"] * mesh.shape["fsdp"]):
        raise UserError(
            f"config.training.batch_size = {options.batch_size} must be a multiple of the"
            f" {mesh.shape['data'] * mesh.shape['fsdp']} devices of the mesh's data and fsdp axes"
        )
    with alone_in(workdir):
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
