"""`plan`: the train step of a config, compiled for a machine that need not be there."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree
from ml_collections import ConfigDict

from difflax.config.checks import check
from difflax.config.experiments import DiffusionExperiment, Experiment, parse
from difflax.core.types import Conditioning, UserError
from difflax.generation.conditions import named
from difflax.profiling import plan as planning
from difflax.training.state import TrainState
from difflax.training.step import abstract_state, make_train_step

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
    return planning.plan(*step_of(parse(config), devices, tokens=tokens))


def step_of(
    experiment: Experiment, devices: Sequence[Any], *, tokens: int = TOKENS
) -> tuple[Callable, TrainState, PyTree, int, Mesh]:
    """The train step of an experiment on ``devices``, the shapes of its state, a batch of one row, how many
    rows a batch has, and the mesh.
    """
    check(experiment)
    experiment = experiment.from_scratch("difflax plan is for diffusion models that are trained from scratch")
    if devices[0].platform != "cpu" and experiment.model.options["attention_implementation"] is None:
        model = experiment.model.replace(attention_implementation="xla")  # what JAX chooses there, not here
        experiment = dataclasses.replace(experiment, model=model)
    training, mesh = experiment.training, experiment.mesh.make(devices)
    size, shares = training.batch_size, mesh.shape["data"] * mesh.shape["fsdp"]
    if size % shares:
        raise UserError(
            f"config.training.batch_size = {size} must be a multiple of {shares}, the batch's shares"
        )
    null, batch = _example(experiment, tokens)
    objective = experiment.objective(null)
    optimizer = experiment.optimizer.build(training.steps)
    step = make_train_step(
        objective, optimizer, experiment.ema, experiment.seed, accumulate=training.accumulate
    )
    profiles = len(experiment.ema.profiles)
    abstract = abstract_state(objective, optimizer, mesh, experiment.mesh.rules, profiles=profiles)
    return step, abstract, batch, size, mesh


def _example(experiment: DiffusionExperiment, tokens: int) -> tuple[Conditioning, PyTree]:
    """The condition of a dropped caption, and a batch of one row, all zeros."""
    model, source = experiment.model, experiment.data
    pooled, scored = None, bool(getattr(source, "score_key", ""))
    if model.reads_pooled:
        pooled = np.zeros((1, model.pooled_width(scored=scored)), np.float32)
    null = Conditioning(context=np.zeros((1, tokens, model.context_width), np.float32), pooled=pooled)
    image = np.zeros((1, *source.image_shape), np.uint8)
    conditioning = null
    frame = {name: np.zeros((1, 2), np.int32) for name in ("original_size", "corner")}
    for kind in named(model.conditions(null)):
        conditioning = kind.of_batch(
            conditioning, frame | {"score": np.zeros(1, np.float32)}, source.image_shape[:2]
        )
    batch: dict[str, PyTree] = {"conditioning": conditioning}
    if experiment.trained_autoencoder is not None:  # its latents are computed once, before training
        batch["latent"] = np.zeros((1, *experiment.latent_shape), np.float32)
    else:
        batch["image"] = image
    if experiment.loss.masked:
        batch["mask"] = image[..., :1]
    return null, batch
