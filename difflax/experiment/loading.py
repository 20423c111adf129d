"""`load` and `from_pretrained`: from a workdir or a checkpoint to a pipeline."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from difflax.config import read_workdir_config
from difflax.diffusion.samplers import SAMPLERS
from difflax.experiment.diffusion import make_pipeline, read_text_encoder, weak_model
from difflax.experiment.networks import network
from difflax.experiment.pretrained import DTYPES, load_pretrained_run
from difflax.experiment.sections import make_diffusion, make_settings, model_name
from difflax.generation import Pipeline
from difflax.models.layers import choose
from difflax.pretrained.families import open_checkpoint
from difflax.training.checkpoints import Checkpoints
from difflax.training.sharding import MeshShape, placed_shapes
from difflax.types import Conditioning, UserError


def load(workdir: epath.PathLike, mesh: MeshShape | None = None) -> Pipeline:
    """The pipeline of a workdir, from its newest checkpoint's averaged parameters.

    Args:
        mesh: of the devices that make images; ``None``: that of the run, see `MeshShape.fitted`.

    Raises:
        UserError: no workdir, no checkpoint, or not of a diffusion model.
    """
    workdir = epath.Path(workdir)
    config = read_workdir_config(workdir)
    for name, kind in (("clip", "a CLIP"), ("autoencoder_kl", "an autoencoder")):
        if model_name(config) == name:
            raise UserError(
                f"{workdir} holds {kind}, which makes no images: give the workdir of a diffusion model"
            )
    if not (workdir / "checkpoints").exists():
        raise UserError(f"{workdir} has no checkpoint yet: train it first (difflax train)")
    settings = make_settings(config)
    shape = settings.mesh if mesh is None else mesh
    devices = shape.fitted() if mesh is None else shape.make()
    if model_name(config) == "pretrained":
        return dataclasses.replace(load_pretrained_run(config, workdir), mesh=devices, rules=shape.rules)
    parts = make_diffusion(config, workdir)
    checkpoints = Checkpoints(workdir / "checkpoints")
    model = network(config, parts.codec.latent_shape(*settings.source.image_shape[:2])[-1])
    params = checkpoints.restore_params(placed_shapes(model.abstract(), devices, shape.rules))
    null = checkpoints.restore_constants()
    step = checkpoints.latest
    checkpoints.close()
    pipeline = make_pipeline(config, params, read_text_encoder(workdir, parts), Conditioning(**null), workdir)
    weak = weak_model(parts.weak, workdir, devices)
    return dataclasses.replace(pipeline, step=step, mesh=devices, rules=shape.rules, **weak)


def from_pretrained(
    source: epath.PathLike,
    *,
    dtype: Any = "float32",
    variant: str | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
    batch_size: int | None = None,
    tile: int | None = None,
    config: epath.PathLike | None = None,
    tokenizer: epath.PathLike | None = None,
    prediction_type: str | None = None,
    t5: bool | None = None,
    t5_length: int | None = None,
    mesh: MeshShape | None = None,
) -> Pipeline:
    """The pipeline of a checkpoint; see `difflax.from_pretrained`. ``mesh``: of the devices that make images;
    ``None``: those of this process along ``data``.
    """
    kind = choose(DTYPES, jnp.dtype(dtype).name if not isinstance(dtype, str) else dtype, "dtype")
    checkpoint = open_checkpoint(
        source,
        dtype=kind,
        variant=variant,
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        config=config,
        tokenizer=tokenizer,
        prediction_type=prediction_type,
        t5=t5,
        t5_length=t5_length,
    )
    if tile is not None:
        codec = dataclasses.replace(checkpoint.codec, tile=tile // checkpoint.codec.config.downscale)
        checkpoint = dataclasses.replace(checkpoint, codec=codec)
    return Pipeline.of_checkpoint(
        checkpoint,
        samplers={name: cls() for name, cls in SAMPLERS.items()},
        num_steps=checkpoint.num_steps,
        batch_size=4 * jax.local_device_count() if batch_size is None else batch_size,
        **({} if mesh is None else {"mesh": mesh.make(), "rules": mesh.rules}),
    )
