"""A diffusion model's run: its objective and pictures for the loop, and its pipeline."""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath
from jax.sharding import Mesh
from jaxtyping import PyTree

from difflax.config.embedded import find_workdir
from difflax.config.experiments import DiffusionExperiment
from difflax.config.files import claim_workdir, read_workdir
from difflax.config.guidance import WeakOptions
from difflax.config.sections import AutoencoderOptions, TextEncoderOptions
from difflax.core.files import atomic_folder, move_folder, staging_folder
from difflax.core.types import Batch, Conditioning, Params, UserError
from difflax.data.caches import EmbeddingCache, EncodedEachTime, embeddings_of
from difflax.data.fingerprints import arrays_fingerprint
from difflax.data.latents import cache_latents
from difflax.data.records import Records, every_caption, first_captions
from difflax.generation.conditions import Condition, named
from difflax.generation.devices import Devices
from difflax.generation.model import Model, WeakModel
from difflax.generation.pipeline import Pipeline
from difflax.generation.request import Defaults
from difflax.models.autoencoder import encode_images
from difflax.parallel.sharding import sharded_shapes
from difflax.pretrained.components.autoencoder import load_autoencoder, save_autoencoder
from difflax.pretrained.components.clip import PREPROCESSOR, load_text_encoder, save_text_encoder
from difflax.pretrained.format.layout import AUTOENCODER, TEXT_ENCODER, TOKENIZER
from difflax.runs.base import make_loader, measuring_task, picture_task
from difflax.runs.parameters import averaged_params
from difflax.runs.validation import Prepare, validation_task
from difflax.text.encoders import TextEncoder
from difflax.training.loop import Task
from difflax.training.objectives.base import network_params, pixels
from difflax.training.runtime.manifest import check_copy, write_manifest
from difflax.training.state import TrainState

LATENTS = "latents.npy"
"""A workdir's latents of the training images, computed once."""


def prepare_diffusion(experiment: DiffusionExperiment, workdir: epath.Path) -> Task:
    """The loop's parts; whatever the run needs later is copied into the workdir."""
    model, options = experiment.model, experiment.text_encoder
    stored = (workdir / TEXT_ENCODER).exists()
    folder = workdir if stored else clip_folder(options.path, "config.text_encoder.path")
    encoder = read_text_encoder(folder, options)
    null = model.reading(encoder.encode([""]))
    model.check_widths(null)
    for kind in named(model.conditions(null)):
        kind.check_data(experiment.data)
    claim_workdir(workdir, experiment)
    if not stored:
        store_text_encoder(encoder, folder, workdir)
    store_autoencoder(experiment.trained_autoencoder, workdir)
    autoencoder_params = read_autoencoder_params(experiment, workdir)
    encode = _encoding(experiment, autoencoder_params)
    latents, records = None, experiment.data.split("train")
    if encode is not None:
        cached = cache_latents(
            records,
            encode,
            workdir / LATENTS,
            encoder=arrays_fingerprint(autoencoder_params, experiment.autoencoder),
            max_bad_examples=experiment.training.max_bad_examples,
            batch_size=64,
        )
        latents, records = cached.latents, cached.records(records)
    loader = make_loader(experiment, records)
    prompts = experiment.training.sample_prompts or first_captions(loader.captions, 8)
    # One for the whole run: its program is compiled once.
    pipeline = make_pipeline(experiment, {}, encoder, null, workdir)
    devices = Devices(experiment.mesh.make(), experiment.mesh.rules)
    pipeline = dataclasses.replace(pipeline, devices=devices)
    weak = experiment.guidance.weak
    if weak is not None and weak.workdir:
        weak = weak_model(weak, workdir, devices.mesh)
        pipeline = pipeline.with_guidance(pipeline.defaults.guidance, weak)

    def prepare_of(captions: Sequence[str] | None, latents_of: Callable[[Batch], Any] | None) -> Prepare:
        texts = embeddings_of(captions, lambda captions: model.reading(encoder.encode(captions)))
        return _preparing(experiment, pipeline.model.conditions, texts, latents_of)

    def prepare_test(records: Records) -> Prepare:
        return prepare_of(every_caption(records), encode and (lambda batch: encode(batch["image"])))

    def drawing(step: int, state: TrainState) -> Pipeline:
        model = dataclasses.replace(pipeline.model, params=network_params(state.ema_params), step=step)
        return dataclasses.replace(pipeline, model=model)

    objective = experiment.objective(null)
    return Task(
        objective=objective,
        loader=loader,
        prepare=prepare_of(every_caption(records), encode and (lambda batch: latents[batch["index"]])),
        constants={"context": null.context} | ({} if null.pooled is None else {"pooled": null.pooled}),
        periodic=(picture_task(experiment.training.sample_every, drawing, prompts, workdir),),
        measured=measuring_task(experiment, drawing),
        validation=validation_task(experiment, objective, prepare_test, devices.mesh),
    )


def _encoding(experiment: DiffusionExperiment, params: Params) -> Callable[..., Any] | None:
    """Images of bytes to latents; ``None`` where the autoencoder has no weights and the step encodes."""
    if not params:
        return None
    return lambda images: encode_images(experiment.autoencoder, params, pixels({"image": images}))


def _preparing(
    experiment: DiffusionExperiment,
    conditions: Sequence[Condition],
    texts: EmbeddingCache | EncodedEachTime,
    latents_of: Callable[[Batch], Any] | None,
) -> Prepare:
    """A batch of a loader to the objective's."""

    def prepare(batch: Batch) -> PyTree:
        conditioning = texts.lookup(batch["caption"])
        size = experiment.data.image_shape[:2] if latents_of else tuple(batch["image"].shape[1:3])
        for kind in conditions:
            conditioning = kind.of_batch(conditioning, batch, size)
        made = {"conditioning": conditioning}
        if latents_of is None:
            made["image"] = batch["image"]
        else:
            made["latent"] = latents_of(batch)
        if experiment.loss.masked:
            made["mask"] = batch["mask"]
        return made

    return prepare


def make_pipeline(
    experiment: DiffusionExperiment,
    params: PyTree,
    encoder: TextEncoder,
    null: Conditioning,
    workdir: epath.Path,
) -> Pipeline:
    """The pipeline of a run; what is trained apart from the network is read from ``workdir``."""
    height, width, _ = experiment.data.image_shape
    weak = experiment.guidance.weak
    model = Model(
        network=experiment.network,
        params=params,
        autoencoder=experiment.autoencoder,
        autoencoder_params=read_autoencoder_params(experiment, workdir),
        schedule=experiment.schedule,
        prediction_type=experiment.prediction,
        network_input=experiment.network_input,
        text_encoder=encoder,
        null=null,
        conditions=named(experiment.model.conditions(null)),
        weak=None if weak is None else WeakModel(perturbation=weak.perturbation),
    )
    defaults = Defaults(
        sampler=experiment.sampler.sampler,
        time_grid=experiment.sampler.time_grid,
        num_steps=experiment.sampler.num_steps,
        options=experiment.sampler.run_options,
        guidance=experiment.guidance.plan,
        height=height,
        width=width,
    )
    return Pipeline(model=model, defaults=defaults)


def weak_model(options: WeakOptions | None, workdir: epath.Path, mesh: Mesh) -> WeakModel | None:
    """The worse model of a guidance, ``None`` where the guidance has none."""
    if options is None:
        return None
    if not options.workdir and not options.own_snapshot:
        return WeakModel(perturbation=options.perturbation)
    folder = epath.Path(find_workdir(options.workdir or workdir))
    own = not options.workdir
    experiment = read_workdir(folder).from_scratch(
        f"guidance.weak.workdir = {options.workdir!r} is no run of a diffusion model from scratch"
    )
    abstract = sharded_shapes(experiment.network.abstract(), mesh, experiment.mesh.rules)
    params, _ = averaged_params(
        experiment, folder, abstract, step=options.step, ema_length=options.ema_length
    )
    return WeakModel(None if own else experiment.network, options.perturbation, params)


def clip_folder(path: str, where: str) -> epath.Path:
    """The Hub folder that ``path`` names: itself, or the one inside a run's workdir."""
    folder = epath.Path(find_workdir(path))
    if (folder / "clip").is_dir():
        return folder / "clip"
    if (folder / TEXT_ENCODER).is_dir():
        return folder
    if (folder / "metrics.jsonl").exists():
        raise UserError(f"{where} = {path!r}: that run has not finished; train it to its last step first")
    if not folder.is_dir():
        raise UserError(
            f"{where} = {path!r}: no such folder; train a CLIP there first (configs/clip.py), or name the"
            " folder of one"
        )
    return folder


def read_text_encoder(folder: epath.Path, options: TextEncoderOptions) -> TextEncoder:
    """What captions and prompts become.

    Raises:
        UserError: of a workdir's copy, that it is damaged.
    """
    for name in (TOKENIZER, TEXT_ENCODER):
        check_copy(folder / name)
    return load_text_encoder(folder, layer=options.layer, final_norm=options.final_norm)


def store_text_encoder(encoder: TextEncoder, folder: epath.Path, workdir: epath.Path) -> None:
    """The encoder into the workdir, so that the workdir alone makes images; a whole CLIP comes along as the
    metric of evaluation.
    """
    if (folder / PREPROCESSOR).exists() and not (workdir / "clip").exists():
        with atomic_folder(workdir / "clip") as copy:
            shutil.copytree(folder, copy, dirs_exist_ok=True)
            write_manifest(copy, {})
    # The encoder's own folder comes last: where it is, all is there.
    with staging_folder(workdir / TEXT_ENCODER) as made:
        save_text_encoder(encoder, made)
        for name in (TOKENIZER, TEXT_ENCODER):
            write_manifest(made / name, {})
            move_folder(made / name, workdir / name)


def store_autoencoder(options: AutoencoderOptions | None, workdir: epath.Path) -> None:
    """A trained autoencoder into the workdir, for the same reason."""
    if options is None or (workdir / AUTOENCODER).is_dir():
        return
    autoencoder, params = load_autoencoder(options.folder(None))
    with atomic_folder(workdir / AUTOENCODER) as folder:
        save_autoencoder(autoencoder, params, folder)
        write_manifest(folder, {})


def read_autoencoder_params(experiment: DiffusionExperiment, workdir: epath.Path) -> Params:
    """The weights of the autoencoder, none if it has none."""
    if experiment.trained_autoencoder is None:
        return {}
    check_copy(workdir / AUTOENCODER)
    return load_autoencoder(workdir / AUTOENCODER)[1]
