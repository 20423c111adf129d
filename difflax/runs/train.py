"""`train`: from a config to a trained workdir."""

from etils import epath
from ml_collections import ConfigDict

from difflax.config.files import to_json
from difflax.runs.autoencoder import prepare_autoencoder
from difflax.config.checks import check
from difflax.runs.clip import prepare_clip
from difflax.runs.diffusion import prepare_diffusion
from difflax.runs.finetune import prepare_finetune
from difflax.config.networks import NETWORKS
from difflax.config.sections import make_settings, model_name
from difflax.parallel.processes import first_process_first
from difflax.training.loop import fit
from difflax.core.types import UserError

KINDS = {
    "autoencoder_kl": prepare_autoencoder,
    "clip": prepare_clip,
    "pretrained": prepare_finetune,
    **dict.fromkeys(NETWORKS, prepare_diffusion),
}
"""What prepares a run, by ``config.model.name``."""


def train(config: ConfigDict, workdir: epath.PathLike, *, stop_at: int | None = None) -> None:
    """Trains what the config names, or goes on with it; see `fit`."""
    workdir = epath.Path(workdir)
    check(config, workdir)
    settings = make_settings(config)
    mesh = settings.mesh.make()
    if settings.options.batch_size % (mesh.shape["data"] * mesh.shape["fsdp"]):
        raise UserError(
            f"config.training.batch_size = {settings.options.batch_size} must be a multiple of the"
            f" {mesh.shape['data'] * mesh.shape['fsdp']} devices of the mesh's data and fsdp axes"
        )
    with first_process_first():
        prepared = KINDS[model_name(config)](config, settings, workdir)
    state = fit(
        workdir,
        to_json(config),
        objective=prepared.objective,
        optimizer=settings.optimizer.build(settings.options.steps),
        ema=settings.ema,
        mesh=mesh,
        rules=settings.mesh.rules,
        seed=settings.seed,
        options=settings.options,
        loader=prepared.loader,
        prepare=prepared.prepare,
        constants=prepared.constants,
        periodic=prepared.periodic,
        label=model_name(config),
        stop_at=stop_at,
        start=prepared.start,
        frozen=prepared.frozen,
    )
    if int(state.step) == settings.options.steps and prepared.finish is not None:
        prepared.finish(state)
