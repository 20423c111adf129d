"""`load` and `from_pretrained`: from a workdir or a checkpoint to a pipeline."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh

from difflax.config.embedded import find_workdir
from difflax.config.experiments import DiffusionExperiment, Experiment, FineTuningExperiment
from difflax.config.files import read_workdir
from difflax.config.pretrained import DTYPES, STORED, PretrainedOptions
from difflax.core.spelling import choose
from difflax.core.types import Conditioning, UserError
from difflax.data.sources import Source
from difflax.generation.conditions import named
from difflax.generation.devices import Devices
from difflax.generation.pipeline import Pipeline
from difflax.parallel.sharding import MeshShape, sharded_shapes, shardings
from difflax.pretrained.families.base import Checkpoint
from difflax.pretrained.families.family import CHANNELS
from difflax.pretrained.open import open_checkpoint
from difflax.pretrained.open_file import FileOptions
from difflax.runs.diffusion import make_pipeline, read_text_encoder, weak_model
from difflax.runs.parameters import averaged_params
from difflax.training.objectives.base import network_params
from difflax.training.runtime.averages import trained_weights
from difflax.training.runtime.manifest import check_copy
from difflax.training.tunings import Tuning


def load(
    workdir: epath.PathLike,
    mesh: MeshShape | None = None,
    step: int | None = None,
    *,
    ema_length: float | None = None,
) -> Pipeline:
    """The pipeline of a workdir, from the averaged parameters of its newest checkpoint.

    Args:
        workdir: the folder of a training run, or ``"embedded"``: the model that comes with difflax
            (``"./embedded"`` is a folder of that name).
        mesh: of the devices that make images; ``None``: that of the run, see `MeshShape.fitted`.
        step: another of the checkpoints that the run has kept, or of its snapshots with ``ema_length``.
        ema_length: makes images with the power-function average of that length (sigma_rel), see
            `difflax.training.runtime.snapshots`; the run must have kept some (``config.ema.profiles``).

    Raises:
        UserError: no workdir, no such checkpoint or snapshot, or not of a diffusion model.
    """
    workdir = find_workdir(workdir)
    experiment = read_workdir(workdir)
    workdir = epath.Path(workdir)
    load_run = LOAD.get(type(experiment))
    if load_run is None:
        raise UserError(
            f"{workdir} holds {experiment.makes}, which makes no images: give the workdir of a diffusion"
            " model"
        )
    shape = experiment.mesh if mesh is None else mesh
    devices = Devices(shape.fitted() if mesh is None else shape.make(), shape.rules)
    return load_run(experiment, workdir, devices, step, ema_length)


def load_diffusion(
    experiment: DiffusionExperiment,
    workdir: epath.Path,
    devices: Devices,
    step: int | None = None,
    ema_length: float | None = None,
) -> Pipeline:
    """The pipeline of a workdir of such a run, from the averaged parameters of a step, see `load`."""
    weights = trained_weights(workdir)
    null = Conditioning(**weights.restore_constants())
    weights.close()
    places = sharded_shapes(experiment.network.abstract(), devices.mesh, devices.rules)
    params, step = averaged_params(experiment, workdir, places, step=step, ema_length=ema_length)
    encoder = read_text_encoder(workdir, experiment.text_encoder)
    pipeline = make_pipeline(experiment, params, encoder, null, workdir)
    weak = weak_model(experiment.guidance.weak, workdir, devices.mesh)
    model = dataclasses.replace(pipeline.model, step=step, weak=weak)
    return dataclasses.replace(pipeline, model=model, devices=devices)


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
    zero_terminal_snr: bool | None = None,
    t5: bool | None = None,
    t5_length: int | None = None,
    mesh: MeshShape | None = None,
) -> Pipeline:
    """A Stable Diffusion 1.x, 2.x, XL, 3 or 3.5 checkpoint, ready to make images; see
    `difflax.generation.pipeline.Pipeline`.

    Args:
        source: a folder in diffusers' layout, a Hub id, or a ``.safetensors`` file in the original layout.
        dtype: of computation and parameters, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        variant: of the weights, ``"fp16"``; with a single file, of those of ``config``.
        revision, cache_dir, local_files_only: of the Hub, see `difflax.pretrained.format.hub.download`.
        batch_size: images in one call of the network; 4 a device by default.
        tile: edge of the tiles, in pixels, in which larger images are decoded; ``None`` decodes in one piece.
        config, tokenizer, prediction_type, zero_terminal_snr: of a single file, see
            `difflax.pretrained.open_file.FileOptions`.
        t5, t5_length: of Stable Diffusion 3's third text encoder: ``False`` leaves it out; tokens a prompt,
            256 by default.
        mesh: of the devices that make images; ``None``: those of this process along ``data``.

    Raises:
        difflax.UserError: a checkpoint that cannot be had, is damaged, or is not supported.
    """
    try:
        name = jnp.dtype(dtype).name
    except TypeError:  # no type of numbers at all, which `choose` says
        name = str(dtype)
    kind = choose(DTYPES, name, "dtype")
    checkpoint = open_checkpoint(
        source,
        dtype=kind,
        variant=variant,
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        single=FileOptions(
            config=config,
            tokenizer=tokenizer,
            prediction_type=prediction_type,
            zero_terminal_snr=zero_terminal_snr,
        ),
        t5=t5,
        t5_length=t5_length,
    )
    if tile is not None:
        autoencoder = dataclasses.replace(
            checkpoint.autoencoder, tile=tile // checkpoint.autoencoder.config.downscale
        )
        checkpoint = dataclasses.replace(checkpoint, autoencoder=autoencoder)
    size = 4 * jax.local_device_count() if batch_size is None else batch_size
    devices = Devices(batch_size=size) if mesh is None else Devices(mesh.make(), mesh.rules, size)
    return Pipeline.of_checkpoint(checkpoint, devices=devices)


def read_checkpoint(options: PretrainedOptions, workdir: epath.Path, mesh: Mesh | None = None) -> Checkpoint:
    """The checkpoint with float32 parameters, ready for the tuning: the workdir's copy, or that of ``path``.
    The denoising network of a folder is read straight to its places on ``mesh``.

    Raises:
        UserError: it cannot be had, is damaged or is not supported.
    """
    place = None if mesh is None else functools.partial(shardings, mesh=mesh)
    third = {"t5": options.t5, "t5_length": options.t5_length}
    stored = workdir / STORED
    if stored.exists():
        check_copy(stored)
        checkpoint = open_checkpoint(stored, place=place, **third)
    else:
        checkpoint = open_checkpoint(
            options.path,
            variant=options.variant or None,
            revision=options.revision or None,
            single=FileOptions(config=options.config or None),
            place=place,
            **third,
        )
    for name in CHANNELS.keys() & set(checkpoint.conditions):
        raise UserError(
            f"config.model.path = {options.path!r} {CHANNELS[name].does}, and is not trained here: take a"
            " checkpoint whose UNet reads the noisy image alone"
        )
    if options.time_shift and checkpoint.sampling.time_shift((1, 1)) is None:
        raise UserError(
            f"config.model.time_shift = {options.time_shift}: {options.path!r} is no flow, whose times alone"
            " are shifted; set 0"
        )
    dtypes = {"dtype": DTYPES[options.dtype], "autoencoder_dtype": DTYPES[options.vae_dtype]}
    return checkpoint.computing_in(**dtypes, remat=options.remat, scan_layers=options.scan_layers)


def check_source(checkpoint: Checkpoint, source: Source) -> None:
    """Refuses images that the checkpoint cannot be trained on."""
    channels = source.image_shape[-1]
    if channels != checkpoint.autoencoder.channels:
        raise UserError(
            f"the images of config.data have {channels} channels, the autoencoder reads"
            f" {checkpoint.autoencoder.channels}: choose data with as many"
        )
    for height, width, _ in getattr(source, "image_shapes", (source.image_shape,)):
        try:
            checkpoint.check_latent(*checkpoint.autoencoder.latent_shape(height, width)[:2])
        except UserError as error:
            raise UserError(f"config.data.height, width: {error}") from error
    for kind in named(checkpoint.conditions):
        kind.check_data(source)


def pipeline_of(experiment: FineTuningExperiment, checkpoint: Checkpoint) -> Pipeline:
    """The pipeline of a checkpoint with the run's defaults."""
    return Pipeline.of_checkpoint(
        checkpoint,
        devices=Devices(batch_size=4 * jax.local_device_count()),
        guidance=experiment.guidance.plan,
        num_steps=experiment.sampler.num_steps,
        size=experiment.data.image_shape[:2],
    )


def load_finetuning(
    experiment: FineTuningExperiment,
    workdir: epath.Path,
    devices: Devices,
    step: int | None = None,
    ema_length: float | None = None,
) -> Pipeline:
    """The pipeline of a workdir of such a run, from the averaged parameters of a step, see `load`."""
    tuning = experiment.tune
    checkpoint = tuning.prepare(read_checkpoint(experiment.model, workdir))
    key = jax.random.key(0)
    abstract = jax.eval_shape(lambda: tuning.init(key, checkpoint.networks))
    trained, step = averaged_params(experiment, workdir, abstract, step=step, ema_length=ema_length)
    made = pipeline_of(experiment, merged_checkpoint(tuning, checkpoint, trained))
    devices = dataclasses.replace(devices, batch_size=made.devices.batch_size)
    return dataclasses.replace(made, model=dataclasses.replace(made.model, step=step), devices=devices)


LOAD: Mapping[type[Experiment], Callable[[Any, epath.Path, Devices, int | None, float | None], Pipeline]] = {
    DiffusionExperiment: load_diffusion,
    FineTuningExperiment: load_finetuning,
}
"""What loads the pipeline of a workdir, by the kind of its run; other kinds make no images."""


def merged_checkpoint(tuning: Tuning, checkpoint: Checkpoint, trained: Any) -> Checkpoint:
    """The checkpoint with what was trained in it."""
    frozen = tuning.frozen(checkpoint.networks)
    return checkpoint.with_networks(tuning.merge(frozen, network_params(trained)))
