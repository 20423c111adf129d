"""`plan`: the train step of a config, compiled for a machine that need not be there."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from difflax.config.checks import check
from difflax.runs.diffusion import make_objective
from difflax.config.networks import NETWORKS, network_kind
from difflax.config.sections import Diffusion, Settings, make_diffusion, make_settings, model_name
from difflax.models.size_conditioning import SCORED, SIZES
from difflax.models.autoencoder_kl import KLAutoencoder
from difflax.profiling import plan as planning
from difflax.training.state import TrainState
from difflax.training.step import abstract_state, make_train_step
from difflax.core.types import Conditioning, UserError

TOKENS = 77


def plan(config: ConfigDict, topology: str, *, tokens: int = TOKENS) -> planning.Plan:
    """The plan of a diffusion model's config for a ``topology``, see `topology_devices`. No file is read but
    the description of a trained autoencoder.

    Args:
        tokens: of a caption.

    Raises:
        UserError: the config or the topology is wrong, or the mesh and the batch do not fit them.
    """
    # First: the number of virtual devices is fixed when JAX starts.
    devices = planning.topology_devices(topology)
    return planning.plan(*step_of(config, devices, tokens=tokens))


def step_of(
    config: ConfigDict, devices: Sequence[Any], *, tokens: int = TOKENS
) -> tuple[Callable, TrainState, PyTree, int, Mesh]:
    """The train step of a config on ``devices``, the shapes of its state, a batch of one row, how many rows
    a batch has, and the mesh.
    """
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
    null, batch = _example(config, settings, parts, tokens)
    objective = make_objective(config, settings, parts, null)
    optimizer = settings.optimizer.build(settings.options.steps)
    step = make_train_step(
        objective, optimizer, settings.ema, settings.seed, accumulate=settings.options.accumulate
    )
    return step, abstract_state(objective, optimizer, mesh, settings.mesh.rules), batch, size, mesh


def _example(
    config: ConfigDict, settings: Settings, parts: Diffusion, tokens: int
) -> tuple[Conditioning, PyTree]:
    """The condition of a dropped caption, and a batch of one row, all zeros."""
    kind, model = network_kind(config), dict(config.model)
    width = model[kind.context_option]
    width = width if isinstance(width, int) else width[0]
    pooled = time_ids = None
    if kind.reads_pooled(model):
        pooled_width = model[kind.pooled_option]
        if model.get("addition_embed_type") == "text_time":
            numbers = SCORED if getattr(settings.source, "score_key", "") else SIZES
            pooled_width -= numbers * model["addition_time_embed_dim"]
            time_ids = np.zeros((1, numbers), np.float32)
        pooled = np.zeros((1, pooled_width), np.float32)
    null = Conditioning(context=np.zeros((1, tokens, width), np.float32), pooled=pooled)
    image = np.zeros((1, *settings.source.image_shape), np.uint8)
    batch: dict[str, PyTree] = {"conditioning": dataclasses.replace(null, time_ids=time_ids)}
    if isinstance(parts.autoencoder, KLAutoencoder):  # its latents are computed once, before training
        batch["latent"] = np.zeros((1, *parts.autoencoder.latent_shape(*image.shape[1:3])), np.float32)
    else:
        batch["image"] = image
    if parts.loss.masked:
        batch["mask"] = image[..., :1]
    return null, batch
