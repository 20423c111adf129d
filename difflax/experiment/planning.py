"""`plan`: the train step of a config, compiled for a machine that need not be there."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from difflax.experiment.checks import check
from difflax.experiment.diffusion import make_objective
from difflax.experiment.sections import make_diffusion, make_settings, model_name
from difflax.models.unet import reads_pooled
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
    check(config)
    if model_name(config) == "clip":
        raise UserError("difflax plan is for diffusion models")
    devices = planning.topology_devices(topology)
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

    def shapes(rows: int) -> Conditioning:
        width = config.model.cross_attention_dim
        pooled = None
        if reads_pooled(dict(config.model)):
            pooled = (rows, config.model.projection_class_embeddings_input_dim)
        context = (rows, tokens, width if isinstance(width, int) else width[0])
        return Conditioning(context=context, pooled=pooled)

    def made(rows: int, make) -> Conditioning:
        wanted = shapes(rows)
        return Conditioning(
            context=make(wanted.context, jnp.float32),
            pooled=None if wanted.pooled is None else make(wanted.pooled, jnp.float32),
        )

    objective = make_objective(config, settings, parts, made(1, jnp.zeros))
    optimizer = settings.optimizer.build(settings.options.steps)
    batch = {
        "image": jax.ShapeDtypeStruct((size, *settings.source.image_shape), jnp.uint8),
        "conditioning": made(size, jax.ShapeDtypeStruct),
    }
    if parts.loss.masked:
        batch["mask"] = jax.ShapeDtypeStruct((size, *settings.source.image_shape[:2], 1), jnp.uint8)
    step = make_train_step(objective, optimizer, settings.ema, settings.seed)
    return planning.plan(step, abstract_state(objective, optimizer, mesh), batch, mesh)
