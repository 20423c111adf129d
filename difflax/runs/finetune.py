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
from ml_collections import ConfigDict

from difflax.config.files import claim_workdir
from difflax.data.caches import EmbeddingCache
from difflax.data.latents import WithoutImages, cache_latents, read_frames
from difflax.data.loader import Loader
from difflax.data.records import Records
from difflax.data.subjects import Subject
from difflax.diffusion.loss.time_samplers import RunningLoss, Shifted
from difflax.runs.base import Prepared, make_loader, picture_task
from difflax.config.pretrained import STORED, Pretrained, make_pretrained
from difflax.runs.load import check_source, merged_checkpoint, pipeline_of, read_checkpoint
from difflax.config.sections import Settings
from difflax.generation.pipeline import Pipeline
from difflax.models.size_conditioning import numbers_of
from difflax.pretrained.families.base import Checkpoint
from difflax.pretrained.components.schedulers import flow_shift
from difflax.training.runtime.checkpoints import has_checkpoint
from difflax.training.objectives.finetuning import AUTOENCODER, FineTuning
from difflax.training.objectives.denoising import Denoising
from difflax.training.objectives.base import network_params, pixels
from difflax.parallel.sharding import fetch, put, shardings
from difflax.training.state import TrainState
from difflax.core.types import Conditioning, UserError

TRAINED = "trained"
"""Where in the workdir what was trained lies, in diffusers' own format."""

LATENTS = "latents.npy"


def prepare_finetune(config: ConfigDict, settings: Settings, workdir: epath.Path) -> Prepared:
    parts, mesh = make_pretrained(config), settings.mesh.make()
    if parts.model.copy and jax.process_count() > 1:
        raise UserError(
            "config.model.copy: several processes write no copy of the checkpoint; set it to False"
        )
    original = read_checkpoint(parts.model, workdir, mesh)
    check_source(original, settings.source)
    checkpoint = parts.tuning.prepare(original)
    claim_workdir(workdir, config)
    if parts.model.copy and not (workdir / STORED).exists():
        original.save(workdir / STORED)
    settings = with_class_images(parts, original, settings, workdir)
    records = settings.source.split("train")
    prepare, loader = _batches(parts, checkpoint, settings, records, workdir)

    networks = checkpoint.networks
    started = has_checkpoint(workdir / "checkpoints")
    objective = make_objective(parts, checkpoint, settings.source.image_shape[:2])
    held = {**parts.tuning.frozen(networks), AUTOENCODER: checkpoint.autoencoder_params}
    frozen = {name: params for name, params in held.items() if not parts.cache.replaces(name)}
    frozen = put(frozen, shardings(_shapes(frozen), mesh))
    held |= frozen
    # Given away when the run starts: where nothing is left of them, they are read again.
    unused = [] if started else [parts.tuning.start(networks)]

    def start() -> PyTree:
        if unused:
            return unused.pop()
        again = parts.tuning.prepare(read_checkpoint(parts.model, workdir, mesh))
        return parts.tuning.start(again.networks)

    # What is trained is the loop's; here it is replaced by what the loop gives.
    kept = {name: held[name] if name in held else _shapes(networks[name]) for name in networks}
    checkpoint = dataclasses.replace(checkpoint.with_networks(kept), autoencoder_params=held[AUTOENCODER])

    def trained(state: TrainState) -> tuple[Checkpoint, PyTree]:
        params = fetch(network_params(state.ema_params))
        return merged_checkpoint(parts.tuning, checkpoint, params), params

    def save(step: int, state: TrainState, logger: Any) -> None:
        merged, params = trained(state)
        folder = workdir / TRAINED
        folder.mkdir(exist_ok=True)
        parts.tuning.save(folder, merged, params)

    def pipeline(step: int, state: TrainState) -> Pipeline:
        merged, _ = trained(state)
        made = pipeline_of(parts, merged, settings.source.image_shape[:2])
        return dataclasses.replace(made, step=step, mesh=mesh, rules=settings.mesh.rules)

    prompts = settings.options.sample_prompts or tuple(dict.fromkeys(records.captions))[:8]
    return Prepared(
        objective,
        loader,
        prepare,
        constants={},
        periodic=(picture_task(settings.options.sample_every, pipeline, prompts, workdir),),
        finish=lambda state: save(settings.options.steps, state, None),
        start=start,
        frozen=frozen,
    )


def make_objective(parts: Pretrained, checkpoint: Checkpoint, size: tuple[int, int]) -> FineTuning:
    """The loss of the run, with the checkpoint's own schedule, prediction type and, for images of height and
    width ``size``, shift of a flow's times.
    """
    encoder, sampling = checkpoint.text_encoder, checkpoint.sampling
    # The step gives the parameters.
    shapes = _shapes(checkpoint.networks)
    loss = {name: value for name, value in parts.loss.items() if name != "loss"}
    shift = flow_shift(sampling.time_grid, checkpoint.autoencoder.latent_shape(*size)[:2])
    if shift is not None and not isinstance(loss["time_sampler"], RunningLoss):
        shift = parts.model.time_shift or shift
        loss["time_sampler"] = Shifted(sampler=loss["time_sampler"], shift=shift)
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
            caption_dropout=parts.loss["loss"].caption_dropout,
            masked=parts.loss["loss"].masked,
            vlb_weight=parts.loss["loss"].vlb_weight,
            null=checkpoint.null,
            **loss,
        ),
        tuning=parts.tuning,
        networks=shapes,
        denoiser=checkpoint.configs.denoiser,
        autoencoder=checkpoint.autoencoder,
        encode=encode,
        null_tokens=None if checkpoint.zero_null else jax.tree.map(jnp.asarray, encoder.tokenize([""])),
    )


def with_class_images(
    parts: Pretrained, checkpoint: Checkpoint, settings: Settings, workdir: epath.Path
) -> Settings:
    """The settings with a full folder of the class's pictures: what is missing, the checkpoint makes."""
    source = settings.source
    if not isinstance(source, Subject) or not source.class_prompt:
        return settings
    if not source.class_path:
        source = dataclasses.replace(source, class_path=str(workdir / "class_images"))
    if source.missing_class_images():
        if jax.process_count() > 1:
            raise UserError(
                f"config.data.class_path = {source.class_path!r} has {source.missing_class_images()} pictures"
                " too few, and several processes make none: start the run in one process first"
            )
        make_class_images(source, pipeline_of(parts, checkpoint, source.image_shape[:2]), settings.seed)
    return dataclasses.replace(settings, source=source)


def make_class_images(source: Subject, pipeline: Pipeline, seed: int) -> None:
    """Fills ``class_path`` with pictures of the class prompt, a seed each, from ``seed`` up."""
    from difflax.figures.png import save_png

    folder = epath.Path(source.class_path).expanduser()
    files = ((s, folder / f"made_{s:06d}.png") for s in itertools.count(seed))
    free = ((s, file) for s, file in files if not file.exists())
    wanted = list(itertools.islice(free, source.missing_class_images()))
    for start in range(0, len(wanted), pipeline.batch_size):
        batch = wanted[start : start + pipeline.batch_size]
        images = pipeline([source.class_prompt] * len(batch), seed=[s for s, _ in batch])
        for image, (s, file) in zip(images, batch, strict=True):
            save_png(file, image, {"prompt": source.class_prompt, "seed": s})


def _batches(
    parts: Pretrained, checkpoint: Checkpoint, settings: Settings, records: Records, workdir: epath.Path
) -> tuple[Callable[[dict[str, Any]], PyTree], Loader]:
    """A batch of the loader to the objective's, and the loader, which reads no images that are cached."""
    encoder = checkpoint.text_encoder
    weights = getattr(records, "weights", None)
    latents = texts = None
    rows = records
    if parts.cache.latents:
        latents = cache_latents(records, _moments(checkpoint), workdir / LATENTS)
        rows = WithoutImages(records.captions, read_frames(workdir / LATENTS) if checkpoint.sizes else None)
    if parts.cache.text:
        texts = EmbeddingCache(
            records.captions,
            lambda captions: checkpoint.told(encoder.encode(captions)),
            batch_size=encoder.batch_size,
        )
    loader = make_loader(settings, rows)

    def prepare(batch: dict[str, Any]) -> PyTree:
        made: dict[str, Any] = {}
        size = settings.source.image_shape[:2]
        if latents is None:
            made["image"] = batch["image"]
            size = batch["image"].shape[1:3]
        else:
            made["moments"] = latents[batch["index"]]
        if texts is None:
            made["tokens"] = encoder.tokenize(batch["caption"])
        else:
            made["conditioning"] = texts.lookup(batch["caption"])
        if checkpoint.sizes:
            made["time_ids"] = numbers_of(batch, checkpoint.sizes, size)
        if weights is not None:
            made["weight"] = weights[batch["index"]]
        if parts.loss["loss"].masked:
            made["mask"] = batch["mask"]
        return made

    return prepare, loader


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


def _moments(checkpoint: Checkpoint) -> Callable[[np.ndarray], Float[Array, "b lh lw k"]]:
    """Images to mean and log-variance of their latents."""

    @jax.jit
    def encode(params: PyTree, images: Array) -> Array:
        posterior = checkpoint.autoencoder.posterior(params, pixels({"image": images}))
        return jnp.concatenate([posterior.mean, posterior.log_variance], axis=-1)

    return lambda images: encode(checkpoint.autoencoder_params, images)
