"""A run that starts from a checkpoint: what it gives to the common loop, and what it leaves."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, PyTree

from difflax.config.experiments import FineTuningExperiment
from difflax.config.files import claim_workdir
from difflax.config.pretrained import STORED
from difflax.core.files import atomic_folder, held
from difflax.core.types import Batch, Conditioning, UserError
from difflax.data.caches import EmbeddingCache
from difflax.data.fingerprints import arrays_fingerprint
from difflax.data.latents import cache_latents
from difflax.data.loader import Loader
from difflax.data.records import Records, every_caption, first_captions
from difflax.data.subjects import Subject
from difflax.diffusion.loss.losses import check_weight
from difflax.diffusion.loss.time_samplers import Shifted
from difflax.diffusion.time_shift import TimeShift
from difflax.generation.conditions import named
from difflax.generation.devices import Devices
from difflax.generation.pipeline import Pipeline
from difflax.parallel.sharding import fetch, put, shardings
from difflax.pretrained.families.base import Checkpoint
from difflax.pretrained.format.layout import AUTOENCODER
from difflax.runs.base import make_loader, measuring_task, picture_task
from difflax.runs.diffusion import LATENTS
from difflax.runs.load import check_source, merged_checkpoint, pipeline_of, read_checkpoint
from difflax.runs.validation import Prepare, validation_task
from difflax.training.loop import Task
from difflax.training.objectives.base import network_params, pixels
from difflax.training.objectives.denoising import Denoising
from difflax.training.objectives.finetuning import FineTuning
from difflax.training.runtime.checkpoints import has_checkpoint
from difflax.training.runtime.manifest import write_manifest
from difflax.training.state import TrainState

TRAINED = "trained"
"""Where in the workdir what was trained lies, in diffusers' own format."""


def prepare_finetune(experiment: FineTuningExperiment, workdir: epath.Path) -> Task:
    """The loop's parts; the finished run writes ``workdir/trained`` in diffusers' format."""
    model, tuning, mesh = experiment.model, experiment.tune, experiment.mesh.make()
    if model.copy and jax.process_count() > 1:
        raise UserError(
            "config.model.copy: several processes write no copy of the checkpoint; set it to False"
        )
    original = read_checkpoint(model, workdir, mesh)
    check_source(original, experiment.data)
    checkpoint = tuning.prepare(original)
    claim_workdir(workdir, experiment)
    if model.copy and not (workdir / STORED).exists():
        with atomic_folder(workdir / STORED) as folder:
            original.save(folder)
            write_manifest(folder, {})
    experiment = with_class_images(experiment, original, workdir)
    records = experiment.data.split("train")
    prepare, loader = _batches(experiment, checkpoint, records, workdir)

    networks = checkpoint.networks
    started = has_checkpoint(workdir / "checkpoints")
    objective = make_objective(experiment, checkpoint)
    if experiment.validation.every:
        denoising = objective.denoising
        experiment.validation.check(denoising.schedule, denoising.prediction_type, denoising.network_input)
    held = {**tuning.frozen(networks), AUTOENCODER: checkpoint.autoencoder_params}
    frozen = {name: params for name, params in held.items() if not experiment.cache.replaces(name)}
    frozen = put(frozen, shardings(_shapes(frozen), mesh))
    held |= frozen
    # Given away when the run starts: where nothing is left of them, they are read again.
    unused = [] if started else [tuning.start(networks)]

    def start() -> PyTree:
        if unused:
            return unused.pop()
        again = tuning.prepare(read_checkpoint(model, workdir, mesh))
        return tuning.start(again.networks)

    # What is trained is the loop's; here it is replaced by what the loop gives.
    kept = {name: held[name] if name in held else _shapes(networks[name]) for name in networks}
    checkpoint = dataclasses.replace(checkpoint.with_networks(kept), autoencoder_params=held[AUTOENCODER])

    def prepare_test(records: Records) -> Prepare:
        moments = _moments(checkpoint) if experiment.cache.latents else None
        return _preparing(experiment, checkpoint, records, moments and (lambda b: moments(b["image"])))

    def trained(state: TrainState) -> tuple[Checkpoint, PyTree]:
        params = fetch(network_params(state.ema_params))
        return merged_checkpoint(tuning, checkpoint, params), params

    def save(step: int, state: TrainState, logger: Any) -> None:
        merged, params = trained(state)
        folder = workdir / TRAINED
        folder.mkdir(exist_ok=True)
        tuning.save(folder, merged, params)

    def pipeline(step: int, state: TrainState) -> Pipeline:
        merged, _ = trained(state)
        made = pipeline_of(experiment, merged)
        return dataclasses.replace(
            made,
            model=dataclasses.replace(made.model, step=step),
            devices=Devices(mesh, experiment.mesh.rules, made.devices.batch_size),
        )

    prompts = experiment.training.sample_prompts or first_captions(records.captions, 8)
    return Task(
        objective=objective,
        loader=loader,
        prepare=prepare,
        periodic=(picture_task(experiment.training.sample_every, pipeline, prompts, workdir),),
        measured=measuring_task(experiment, pipeline),
        validation=validation_task(experiment, objective, prepare_test, mesh, frozen),
        finish=lambda state: save(experiment.training.steps, state, None),
        start=start,
        frozen=frozen,
    )


def make_objective(experiment: FineTuningExperiment, checkpoint: Checkpoint) -> FineTuning:
    """The loss of the run, with the checkpoint's own schedule, prediction type and, for the size of its
    images, shift of a flow's times.
    """
    encoder, sampling = checkpoint.text_encoder, checkpoint.sampling
    # The step gives the parameters.
    shapes = _shapes(checkpoint.networks)
    loss, size = experiment.loss, experiment.data.image_shape[:2]
    time_sampler = loss.time_sampler
    shift = sampling.time_shift(checkpoint.autoencoder.latent_shape(*size)[:2])
    if shift is not None and not time_sampler.follows_loss:
        if experiment.model.time_shift:
            shift = TimeShift(shift=experiment.model.time_shift)
        time_sampler = Shifted(sampler=time_sampler, shift=shift)
    check_weight(loss.weighting, sampling.prediction_type, sampling.schedule, time_sampler, loss.vlb_weight)
    reader = checkpoint.with_networks(shapes)

    def encode(networks: PyTree, tokens: PyTree) -> Conditioning:
        return reader.told(reader.with_networks(networks).text_encoder.condition_ids(tokens))

    return FineTuning(
        denoising=Denoising(
            model=checkpoint.model,
            autoencoder=checkpoint.autoencoder,
            schedule=sampling.schedule,
            prediction_type=sampling.prediction_type,
            network_input=sampling.network_input,
            time_sampler=time_sampler,
            weighting=loss.weighting,
            penalty=loss.penalty,
            noise=loss.noise,
            uncertainty=loss.uncertainty,
            caption_dropout=loss.caption_dropout,
            masked=loss.masked,
            vlb_weight=loss.vlb_weight,
            null=checkpoint.null,
        ),
        tuning=experiment.tune,
        networks=shapes,
        denoiser=checkpoint.configs.denoiser,
        autoencoder=checkpoint.autoencoder,
        encode=encode,
        null_tokens=None if checkpoint.zero_null else jax.tree.map(jnp.asarray, encoder.tokenize([""])),
    )


def with_class_images(
    experiment: FineTuningExperiment, checkpoint: Checkpoint, workdir: epath.Path
) -> FineTuningExperiment:
    """The experiment with a full folder of the class's pictures: what is missing, the checkpoint makes."""
    source = experiment.data
    if not getattr(source, "class_prompt", ""):
        return experiment
    if not source.class_path:
        source = dataclasses.replace(source, class_path=str(workdir / "class_images"))
    if source.missing_class_images():
        if jax.process_count() > 1:
            raise UserError(
                f"config.data.class_path = {source.class_path!r} has {source.missing_class_images()} pictures"
                " too few, and several processes make none: start the run in one process first"
            )
        # Runs may share the folder: two would make too many, and the rows of the data would change.
        with held(epath.Path(source.class_path).expanduser()):
            make_class_images(source, pipeline_of(experiment, checkpoint), experiment.seed)
    return dataclasses.replace(experiment, data=source)


def make_class_images(source: Subject, pipeline: Pipeline, seed: int) -> None:
    """Fills ``class_path`` with pictures of the class prompt, a seed each, from ``seed`` up."""
    from difflax.figures.png import save_png

    folder = epath.Path(source.class_path).expanduser()
    files = ((s, folder / f"made_{s:06d}.png") for s in itertools.count(seed))
    free = ((s, file) for s, file in files if not file.exists())
    wanted = list(itertools.islice(free, source.missing_class_images()))
    for start in range(0, len(wanted), pipeline.devices.batch_size):
        batch = wanted[start : start + pipeline.devices.batch_size]
        images = pipeline([source.class_prompt] * len(batch), seed=[s for s, _ in batch])
        for image, (s, file) in zip(images, batch, strict=True):
            save_png(file, image, {"prompt": source.class_prompt, "seed": s})


def _batches(
    experiment: FineTuningExperiment, checkpoint: Checkpoint, records: Records, workdir: epath.Path
) -> tuple[Prepare, Loader]:
    """A batch of the loader to the objective's, and the loader, which reads no images that are cached."""
    latents, rows = None, records
    if experiment.cache.latents:
        autoencoder = checkpoint.autoencoder
        cached = cache_latents(
            records,
            _moments(checkpoint),
            workdir / LATENTS,
            encoder=arrays_fingerprint(fetch(checkpoint.autoencoder_params), autoencoder),
            max_bad_examples=experiment.training.max_bad_examples,
        )
        latents, rows = cached.latents, cached.records(records)
    moments_of = None if latents is None else lambda batch: latents[batch["index"]]
    return _preparing(experiment, checkpoint, records, moments_of), make_loader(experiment, rows)


def _preparing(
    experiment: FineTuningExperiment,
    checkpoint: Checkpoint,
    records: Records,
    moments_of: Callable[[Batch], Any] | None,
) -> Prepare:
    """A batch of a loader of ``records`` to the objective's."""
    encoder, kinds = checkpoint.text_encoder, named(checkpoint.conditions)
    weights, texts = getattr(records, "weights", None), None
    if experiment.cache.text:
        texts = EmbeddingCache(
            every_caption(records),
            lambda captions: checkpoint.told(encoder.encode(captions)),
            batch_size=encoder.batch_size,
        )

    def prepare(batch: Batch) -> PyTree:
        made: dict[str, Any] = {}
        size = experiment.data.image_shape[:2]
        if moments_of is None:
            made["image"] = batch["image"]
            size = batch["image"].shape[1:3]
        else:
            made["moments"] = moments_of(batch)
        if texts is None:
            made["tokens"] = encoder.tokenize(batch["caption"])
        else:
            made["conditioning"] = texts.lookup(batch["caption"])
        beside = Conditioning()
        for kind in kinds:
            beside = kind.of_batch(beside, batch, size)
        made["beside"] = beside
        if weights is not None:
            made["weight"] = weights[batch["index"]]
        if experiment.loss.masked:
            made["mask"] = batch["mask"]
        return made

    return prepare


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


def _moments(checkpoint: Checkpoint) -> Callable[[np.ndarray], Float[Array, "b lh lw k"]]:
    """Images to mean and log-variance of their latents."""

    @jax.jit
    def encode(params: PyTree, images: Array) -> Array:
        posterior = checkpoint.autoencoder.posterior(params, pixels({"image": images}))
        return jnp.concatenate([posterior.mean, posterior.log_variance], axis=-1)

    return lambda images: encode(checkpoint.autoencoder_params, images)
