"""`plan`: the train step of a config, compiled for a machine that need not be there."""

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from difflax.experiment.checks import check
from difflax.experiment.diffusion import make_objective
from difflax.experiment.networks import NETWORKS, network_kind
from difflax.experiment.sections import make_diffusion, make_settings, model_name
from difflax.training import planning
from difflax.training.step import abstract_state, make_train_step
from difflax.types import Conditioning, UserError

TOKENS = 77


def plan(config: ConfigDict, topology: str, *, tokens: int = TOKENS) -> planning.Plan:
    """The plan of a diffusion model's config for a ``topology``, see `topology_devices`; reads no files.

    Args:
        tokens: of a caption.

    Raises:
        UserError: the config or the topology is wrong, or the mesh and the batch do not fit them.
    """
    # First: the number of virtual devices is fixed when JAX starts.
    devices = planning.topology_devices(topology)
    check(config)
    if model_name(config) not in NETWORKS:
        raise UserError("difflax plan is for diffusion models")
    if devices[0].platform != "cpu" and config.model.get("attention_implementation") is None:
        config = config.copy_and_resolve_references()
        with config.unlocked():
            config.model.attention_implementation = "xla"  # what JAX chooses there, not here
    settings, parts = make_settings(config), make_diffusion(config)
    mesh = settings.mesh.make(devices)
    size, shares = settings.options.batch_size, mesh.shape["data"] * mesh.shape["fsdp"]
    if size % shares:
        raise UserError(
            f"config.training.batch_size = {size} must be a multiple of {shares}, the batch's shares"
        )

    kind = network_kind(config)
    width = config.model[kind.context_option]
    null = Conditioning(
        context=jnp.zeros((1, tokens, width if isinstance(width, int) else width[0])),
        pooled=jnp.zeros((1, config.model[kind.pooled_option]))
        if kind.reads_pooled(dict(config.model))
        else None,
    )
    objective = make_objective(config, settings, parts, null)
    optimizer = settings.optimizer.build(settings.options.steps)
    image = np.zeros((1, *settings.source.image_shape), np.uint8)
    mask = {"mask": image[..., :1]} if parts.loss.masked else {}
    batch = {"image": image, "conditioning": null, **mask}
    step = make_train_step(
        objective, optimizer, settings.ema, settings.seed, accumulate=settings.options.accumulate
    )
    return planning.plan(
        step, abstract_state(objective, optimizer, mesh, settings.mesh.rules), batch, size, mesh
    )
